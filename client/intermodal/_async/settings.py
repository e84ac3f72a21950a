"""What a namespace or a daemon sets where the user says nothing."""

from typing import Final

from intermodal_api.containerd.services import introspection_pb2, namespaces_pb2
from intermodal_core.errors import FailedPrecondition, NotFound

from intermodal import _api
from intermodal._async.channel import AsyncChannel

RUNTIME: Final = "io.containerd.runc.v2"
SNAPSHOTTER_TYPE: Final = "io.containerd.snapshotter.v1"
_PREFERRED: Final = ("overlayfs", "native")


async def default_runtime(channel: AsyncChannel) -> str:
    """The namespace's label, else runc's."""
    return (await _labels(channel)).get("containerd.io/defaults/runtime") or RUNTIME


async def default_snapshotter(channel: AsyncChannel) -> str:
    """The namespace's label, else overlayfs, native or the first other that works. Raises FailedPrecondition."""
    named = (await _labels(channel)).get("containerd.io/defaults/snapshotter")
    if named:
        return named
    request = introspection_pb2.PluginsRequest(filters=[f"type=={SNAPSHOTTER_TYPE}"])
    plugins = (await channel.call(_api.PLUGINS, request)).plugins
    working = [plugin.id for plugin in plugins if not plugin.HasField("init_err")]
    for name in (*_PREFERRED, *working):
        if name in working:
            return name
    raise FailedPrecondition("The daemon has no snapshotter that works; see its log, or client.plugins()")


async def _labels(channel: AsyncChannel) -> dict[str, str]:
    try:
        request = namespaces_pb2.GetNamespaceRequest(name=channel.namespace)
        return dict((await channel.call(_api.NAMESPACE_GET, request)).namespace.labels)
    except NotFound:
        return {}
