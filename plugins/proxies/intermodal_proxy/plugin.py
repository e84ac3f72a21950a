"""The entry points `_proxy` of snapshotters, content stores and differs: what `[proxy_plugins.NAME]` makes instances of."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from intermodal_core.plugin import Context, Plugin

__all__ = ["Config", "DifferConfig", "SnapshotterConfig", "content", "differ", "snapshotter"]

_LAYERS = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of `[proxy_plugins.NAME]`, beside `type` and the keys that every instance has."""

    address: Annotated[str, msgspec.Meta(description="The plugin's socket.", pattern="^/")]
    exports: Annotated[dict[str, str], msgspec.Meta(description="What clients are told of it, as it is.")] = {}
    capabilities: Annotated[
        tuple[str, ...], msgspec.Meta(description="Capabilities of its kind that it has, such as rebase.")
    ] = ()
    headers: Annotated[
        dict[str, str],
        msgspec.Meta(
            description="Sent with each call: a daemon's own service wants a containerd-namespace, and collects what has no "
            "containerd-lease."
        ),
    ] = {}


class SnapshotterConfig(Config, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same of a snapshotter."""

    snapshotter: Annotated[
        str, msgspec.Meta(description="Its name there, by which a whole daemon finds it; empty: this one's.")
    ] = ""


class DifferConfig(Config, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same of a differ."""

    media_types: Annotated[tuple[str, ...], msgspec.Meta(description="The media types of layers that it takes.")] = (
        _LAYERS
    )


def _announce(context: Context[Any]) -> None:
    context.exports.update(context.config.exports)
    context.capabilities.extend(context.config.capabilities)


def _snapshotter(context: Context[SnapshotterConfig]) -> Any:
    from intermodal_proxy.snapshotter import ProxySnapshotter

    _announce(context)
    # Longer than anybody waits: a call that hangs holds its thread, and so opens the breaker.
    config = context.config
    return ProxySnapshotter(config.address, config.snapshotter or context.name, config.headers, 2 * context.deadline)


def _content(context: Context[Config]) -> Any:
    from intermodal_proxy.content import ProxyContent

    _announce(context)
    return ProxyContent(
        context.config.address, context.state_dir() / "incoming", context.config.headers, 2 * context.deadline
    )


def _differ(context: Context[DifferConfig]) -> Any:
    from intermodal_proxy.differ import ProxyDiffer

    _announce(context)
    config = context.config
    return ProxyDiffer(config.address, config.media_types, config.headers, 2 * context.deadline)


snapshotter = Plugin(factory=_snapshotter, config=SnapshotterConfig)
content = Plugin(factory=_content, config=Config)
differ = Plugin(factory=_differ, config=DifferConfig)
