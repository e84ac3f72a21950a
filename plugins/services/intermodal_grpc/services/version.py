"""containerd.services.version.v1.Version."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from intermodal_api.containerd.services import version_pb2 as pb
from intermodal_core import __version__
from intermodal_wire.calls import Call, Service

__all__ = ["Version"]


class Version(Service):
    """Ours."""

    descriptor = pb.DESCRIPTOR.services_by_name["Version"]

    async def version(self, request: Empty, call: Call) -> pb.VersionResponse:
        """Version."""
        return pb.VersionResponse(version=__version__, revision="intermodal")
