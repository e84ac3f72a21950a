"""A differ behind a socket."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping

from intermodal_api.containerd.services import diff_pb2 as pb
from intermodal_core.contracts.common import Descriptor, Mount
from intermodal_core.contracts.differs import Alone, Applied, ApplyLimits, Compared
from intermodal_core.errors import FailedPrecondition, Unimplemented
from intermodal_wire.client import Client
from intermodal_wire.values import descriptor_to, mounts_to

__all__ = ["ProxyDiffer"]

_SERVICE = pb.DESCRIPTOR.services_by_name["Diff"]


class ProxyDiffer:
    """Implements `intermodal_core.contracts.differs` by `containerd.services.diff.v1.Diff` at `address`.

    The plugin takes the layer from the content store that it knows, by its digest, and has limits of its own.
    """

    def __init__(
        self, address: str, media_types: tuple[str, ...], headers: Mapping[str, str] | None = None, timeout: float = 0
    ) -> None:
        self._client = Client(address, headers, timeout)
        self._media_types = media_types

    def media_types(self) -> tuple[str, ...]:
        """[D3] As the config says: the plugin is not asked."""
        return self._media_types

    def apply(
        self,
        layer: int,
        descriptor: Descriptor,
        mounts: tuple[Mount, ...],
        limits: ApplyLimits | None = None,
        alone: bool = False,
    ) -> Applied:
        """[D4] `layer` is read for its digest, which must be the descriptor's."""
        digest, size = hashlib.sha256(), 0
        while data := os.read(layer, 1 << 20):
            digest.update(data)
            size += len(data)
        if (found := f"sha256:{digest.hexdigest()}") != descriptor.digest:
            raise FailedPrecondition(f"the blob of the layer {descriptor.digest} has the digest {found}")
        request = pb.ApplyRequest(diff=descriptor_to(descriptor), mounts=mounts_to(mounts))
        applied = self._client.call(_SERVICE, "Apply", request).applied
        return Applied(applied.digest, applied.size, found, size)

    def settle(self, layers: tuple[Alone, ...], below: tuple[Mount, ...]) -> int:
        """[D5] Not declared."""
        raise Unimplemented(f"the differ at {self._client.address} applies no layers alone")

    def compare(
        self,
        lower: tuple[Mount, ...],
        upper: tuple[Mount, ...],
        into: int,
        media_type: str,
        latest: int | None = None,
    ) -> Compared:
        """[D6] Not declared: the plugin would write the layer to a content store of its own."""
        raise Unimplemented(f"the differ at {self._client.address} writes no layers to the daemon")
