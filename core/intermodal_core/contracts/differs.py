"""Differs: layers to filesystems and back."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec

from intermodal_core.contracts.common import Descriptor, Mount

__all__ = ["VERSION", "Applied", "ApplyLimits", "Differ"]

VERSION = 1


class ApplyLimits(msgspec.Struct, frozen=True):
    """What one layer may unpack to before it is refused with ResourceExhausted."""

    bytes: int = 64 << 30
    files: int = 4_000_000
    depth: int = 512
    ratio: int = 2000


class Applied(msgspec.Struct, frozen=True):
    """The outcome: digest and size of the uncompressed tar, and of the bytes read."""

    diff_id: str
    size: int
    source_digest: str
    source_size: int


@runtime_checkable
class Differ(Protocol):
    """Applies a layer onto mounts.

    [D1] Nothing outside the mounts is read, written or executed, whatever the layer holds.
    [D2] A layer that cannot be applied whole raises; the mounts' content is then undefined and the caller drops the
         snapshot. No mount, process or temporary file remains.
    """

    def media_types(self) -> tuple[str, ...]:
        """[D3] The layer media types that `apply` takes."""

    def apply(
        self,
        layer: int,
        descriptor: Descriptor,
        mounts: tuple[Mount, ...],
        limits: ApplyLimits | None = None,
    ) -> Applied:
        """[D4] Unpack the layer that descriptor `layer` (a readable file or pipe, not closed) holds onto `mounts`.

        Reads to the end of the stream and reports digests of both forms; comparing them with what is expected is the
        caller's. `limits` default to those that the differ is configured with. Whiteouts: `.wh.NAME` removes NAME,
        `.wh..wh..opq` hides what is below (OCI image specification, layer.md); neither ever hides an entry of the same
        layer, wherever it stands. A directory that the layer only implies keeps the owner, mode, times and extended
        attributes that it has below. When the mounts are one overlay, the layer is written in overlay form (character
        device 0:0, opaque xattr) where that is the same and faster.

        Raises Unimplemented for another media type, InvalidArgument for a malformed, truncated or escaping layer,
        ResourceExhausted beyond `limits` or on a full disk, PermissionDenied for an entry that policy forbids,
        FailedPrecondition for read-only mounts, DeadlineExceeded and Cancelled as they are, Unavailable where the
        worker was killed.
        """
