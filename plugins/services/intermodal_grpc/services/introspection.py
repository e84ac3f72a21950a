"""containerd.services.introspection.v1.Introspection."""

from __future__ import annotations

import os

from google.protobuf.empty_pb2 import Empty
from intermodal_api.containerd.services import introspection_pb2 as pb
from intermodal_api.containerd.types import platform_pb2
from intermodal_api.google.rpc.status_pb2 import Status
from intermodal_core.errors import NotFound
from intermodal_core.filters import compile_filters, resolver_of
from intermodal_core.registry import Record, Registry
from intermodal_oci.platforms import host
from intermodal_wire.calls import Call, Service

__all__ = ["Introspection"]

#: gRPC's UNIMPLEMENTED marks a plugin that cannot run here, as containerd's skipped ones do.
_CODES = {"disabled": 12, "skipped": 12, "failed": 2}
#: ctr tells them by these words in the message.
_SAYS = {"disabled": ": skip plugin", "skipped": ": skip plugin", "failed": ""}


class Introspection(Service):
    """Shows the registry. A kind is called by containerd's type, or `dev.intermodal.KIND.v1` where there is none."""

    descriptor = pb.DESCRIPTOR.services_by_name["Introspection"]

    def __init__(self, registry: Registry, uuid: str) -> None:
        self._registry = registry
        self._uuid = uuid

    async def plugins(self, request: pb.PluginsRequest, call: Call) -> pb.PluginsResponse:
        """Plugins; filters on type, id and capabilities."""
        matches = compile_filters(list(request.filters))
        rows = []
        for record in self._registry.records():
            fields = {"type": self._type(record), "id": record.name, "capabilities": list(_capabilities(record))}
            if matches(resolver_of(fields)):
                rows.append(await self._row(record, load=bool(request.filters)))
        return pb.PluginsResponse(plugins=rows)

    async def server(self, request: Empty, call: Call) -> pb.ServerResponse:
        """Server."""
        return pb.ServerResponse(uuid=self._uuid, pid=os.getpid(), pidns=os.stat("/proc/self/ns/pid").st_ino)

    async def plugin_info(self, request: pb.PluginInfoRequest, call: Call) -> pb.PluginInfoResponse:
        """PluginInfo."""
        for record in self._registry.records():
            if self._type(record) == request.type and record.name == request.id:
                return pb.PluginInfoResponse(plugin=await self._row(record, load=True))
        raise NotFound(f"there is no plugin {request.type} {request.id}")

    def _type(self, record: Record) -> str:
        kind = self._registry.kinds[record.kind]
        return kind.attributes.get("containerd", f"dev.intermodal.{kind.name}.v{kind.contract}")

    async def _row(self, record: Record, load: bool) -> pb.Plugin:
        if load and record.state == "available":
            await self._registry.load(record)  # somebody asks for just this one: its capabilities must be known
        row = pb.Plugin(type=self._type(record), id=record.name, capabilities=_capabilities(record))
        if record.plugin is not None:
            row.requires.extend(record.plugin.requires)
            row.exports.update(_exports(record))
        if record.state in ("ready", "available"):
            here = host()
            row.platforms.append(
                platform_pb2.Platform(os=here.os, architecture=here.architecture, variant=here.variant)
            )
        else:
            row.init_err.CopyFrom(Status(code=_CODES[record.state], message=record.why_not() + _SAYS[record.state]))
        return row


def _exports(record: Record) -> dict[str, str]:
    """What it exports, and whether it needs annotations: containerd's clients know that by the key that they look for."""
    annotations = record.plugin.annotations if record.plugin else ()
    needs = {"annotations": ",".join(annotations), "enable_remote_snapshot_annotations": "true"} if annotations else {}
    return {**needs, **record.exports}


def _capabilities(record: Record) -> tuple[str, ...]:
    return record.plugin.capabilities if record.plugin else ()
