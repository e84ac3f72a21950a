"""What an entry point names: a `Plugin`; and what its factory gets: a `Context`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from intermodal_core.migrations import Migration

if TYPE_CHECKING:
    import logging

    from intermodal_core.config import Config
    from intermodal_core.events import EventBus
    from intermodal_core.hooks import Hooks
    from intermodal_core.registry import Registry
    from intermodal_core.spawner import Spawner

__all__ = ["Context", "NoConfig", "Plugin"]

C = TypeVar("C", bound=msgspec.Struct)


class NoConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The config of a plugin that takes no options."""


@dataclass(frozen=True, slots=True)
class Plugin(Generic[C]):
    """A registration: data, read when the plugin is first required.

    `factory(context)` makes the instance, on a thread with a deadline. It may raise `PluginSkipped` where the plugin
    cannot run on this machine, and anything else when it broke. `config` is a msgspec.Struct whose defaults are the
    defaults of the options; document each with `Annotated[T, msgspec.Meta(description=...)]`.

    `requires` names what must be ready first: a kind (`"metadata"`: the chosen one; of a kind with many in use, all that
    are enabled) or one instance (`"managers.store"`). `forked` names modules that the spawner loads, since
    functions of them are to be forked. `contract` is the version of the kind's contract that the plugin was written for.
    `tables` claims top-level tables of the config by name, with their types (a struct, or a list of them for `[[NAME]]`),
    which the plugin reads with `registry.config.table(name, type)`; those that are `live` it reads at each use, so that a reload
    puts them in force.

    `capabilities` are those of the kind's contract that it has. `annotations` are the keys of labels that it needs on what it
    is given ("containerd.io/snapshot/cri.image-ref"), for whoever can pass them along. `exports` says more of it, by name.
    All three are served to clients, beside what the factory exports by its context, so that nobody need know a plugin by its
    name.

    `migrations` makes options of this version of older ones, one step a version; see `intermodal_core.migrations`.

    `check(config, names)` looks at what types cannot say, of the whole config, before any of it is in force; `names` are those of
    the instances in use, by kind. It is pure, and raises InvalidArgument with the place that `config.where` tells.

    An instance that is an asynchronous context manager is entered, on the daemon's loop, before it counts as ready, and left
    at the end of the daemon; of another one the method that the kind names for it is called, on a thread.
    """

    factory: Callable[[Context[C]], Any]
    config: type[C] = NoConfig  # type: ignore[assignment]
    requires: tuple[str, ...] = ()
    forked: tuple[str, ...] = ()
    contract: int = 1
    capabilities: tuple[str, ...] = ()
    exports: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)
    live: tuple[str, ...] = ()
    check: Callable[[Config, Mapping[str, Collection[str]]], None] | None = None
    annotations: tuple[str, ...] = ()
    migrations: tuple[Migration, ...] = ()

    @property
    def version(self) -> int:
        """The version of its options."""
        return len(self.migrations) + 1


@dataclass(frozen=True, slots=True)
class Context(Generic[C]):
    """All that a plugin sees of the daemon.

    `root` (kept) and `state` (gone at reboot) are directories of this instance's own, made on first use by
    `root_dir()`/`state_dir()`. `address` is the daemon's main socket path. `get` returns a required plugin's instance.
    `exports` is for what clients should know of the instance: where its data lies (`root`, which `root_dir()` sets), the path
    of a socket or binary. `capabilities` adds to the plugin's, for one that learns them from its config. `deadline` is how many
    seconds a call of the instance gets.
    """

    kind: str
    name: str
    config: C
    root: Path
    state: Path
    address: str
    log: logging.Logger
    events: EventBus
    spawner: Spawner
    registry: Registry
    exports: dict[str, str] = field(default_factory=dict)
    capabilities: list[str] = field(default_factory=list)
    deadline: float = 60.0

    def get(self, kind: str, name: str = "") -> Any:
        """The ready instance of a plugin that this one requires; without a name, the kind's chosen one.

        Calls on it are guarded: timed, with a deadline, on the plugin's own threads where the contract's method is plain
        `def` (then the result is awaited by `await`).
        """
        return self.registry.instance(kind, name)

    @property
    def hooks(self) -> Hooks:
        """The daemon's hooks: a manager calls them, and states its own with `add_specs`."""
        return self.registry.hooks

    def root_dir(self) -> Path:
        """The instance's own directory below the daemon's root, made with mode 0700."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.exports["root"] = str(self.root)
        return self.root

    def state_dir(self) -> Path:
        """The instance's own directory below the daemon's state, made with mode 0700."""
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.state
