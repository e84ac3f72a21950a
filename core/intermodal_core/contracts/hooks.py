"""Hooks: points in a container's life at which any number of plugins may have a say.

A plugin of the kind `hooks` is an object, or a module, with functions marked `intermodal_core.hooks.hookimpl`. Each is named for
a hook below, is a plain `def`, and takes any of the hook's arguments by name. Implementations run one after the other on
their own plugin's threads, each timed and with a deadline; the last one registered first, but for `tryfirst` and `trylast`.

Life cycle: an instance is made and registered -> `synchronize` -> its implementations are called -> it is taken out, at the
daemon's end or by a reload; calls under way go on.

Rules for all of them:

[K1] A value that an implementation gets is its own copy: to change it, return it (or a new one); None leaves it as it is.
[K2] An implementation of a *changing* hook returns the hook's first argument's type, or None; of another hook, nothing.
[K3] It may be called for several containers at once, from several threads.
[K4] It is done when it returns: what it began for an operation that fails later is not undone by anybody else.
[K5] An error that it raises says what is wrong and what to do: where the hook denies, it is what the client reads.

What a failure does is said with each hook: *deny* fails the operation with the implementation's error, before anything
was done; *allow* is logged. `required = true` in the plugin's section of the config turns each of its failures into a denial, and
refuses the operations that its hooks guard while the plugin is absent, failed or switched off (`guards = [...]` names the hooks where not
all are meant). A result that comes after the deadline is dropped.
"""

from __future__ import annotations

from typing import Any

import msgspec

from intermodal_core.hooks import hookspec

__all__ = ["VERSION", "ContainerHooks", "ContainerInfo", "NetworkInfo", "Pull"]

VERSION = 1


class ContainerInfo(msgspec.Struct, frozen=True):
    """What hooks know of a container; `runtime`, `snapshotter` and `network` are instances, "" where none was chosen here."""

    namespace: str
    id: str
    image: str = ""
    labels: dict[str, str] = {}
    runtime: str = ""
    snapshotter: str = ""


class NetworkInfo(msgspec.Struct, frozen=True):
    """An attachment to a network; `addresses` ("10.1.0.7/24") are known once it is made."""

    network: str
    interface: str = ""
    netns: str = ""
    addresses: tuple[str, ...] = ()


class Pull(msgspec.Struct, frozen=True):
    """A pull that is asked for: `reference` as it will be resolved, `platform` ("linux/arm64/v8") or "" for the machine's."""

    namespace: str
    reference: str
    platform: str = ""
    labels: dict[str, str] = {}


class ContainerHooks:
    """The hooks, in the order of a container's life."""

    @hookspec(on_failure="deny", deadline=10)
    def before_pull(self, pull: Pull) -> Pull | None:
        """Changing: veto a pull by raising, or return it with another reference or platform.

        Called before anything is asked of a registry, also where a command pulls by itself.
        """

    @hookspec(on_failure="deny", deadline=10)
    def before_create(self, container: ContainerInfo) -> None:
        """Called before a container is recorded, whoever makes it; nothing of it is there yet, and its name stays free on a failure."""

    @hookspec(on_failure="allow", deadline=10)
    def after_create(self, container: ContainerInfo) -> None:
        """Called once a container is recorded."""

    @hookspec(on_failure="deny", deadline=10)
    def before_attach(self, container: ContainerInfo, network: NetworkInfo) -> None:
        """Called before a container of ours is connected to a network."""

    @hookspec(on_failure="allow", deadline=10)
    def after_attach(self, container: ContainerInfo, network: NetworkInfo) -> None:
        """Called once it is connected, with its addresses."""

    @hookspec(on_failure="deny", deadline=10)
    def adjust_spec(self, spec: dict[str, Any], container: ContainerInfo) -> dict[str, Any] | None:
        """Changing: the OCI runtime specification's config.json, decoded, as the runtime is about to get it.

        Called each time a container's task is created, whoever made its spec; the recorded spec stays as the client gave it.
        """

    @hookspec(on_failure="deny", deadline=10)
    def before_start(self, container: ContainerInfo) -> None:
        """Called when a created container's init is about to start. A denial leaves it created."""

    @hookspec(on_failure="allow", deadline=10)
    def after_start(self, container: ContainerInfo, pid: int) -> None:
        """Called once init runs and that is recorded; `pid` is the host's."""

    @hookspec(on_failure="allow", deadline=10)
    def before_stop(self, container: ContainerInfo, signal: int) -> None:
        """Called before SIGTERM, SIGKILL or the image's stop signal is sent to init; a failure never keeps a container running."""

    @hookspec(on_failure="allow", deadline=10)
    def after_stop(self, container: ContainerInfo, status: int) -> None:
        """Called once init has ended, for whatever reason, and its exit status is recorded."""

    @hookspec(on_failure="allow", deadline=10)
    def synchronize(self, containers: list[ContainerInfo]) -> None:
        """Called for each plugin once, when it is there: at the daemon's start after running tasks were taken up, and when it comes later.

        `containers` are those that have a task then. The deadline grows by 20 ms for each of them.
        """
