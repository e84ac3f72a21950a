"""Differs: layers to filesystems and back.

Vocabulary. A *layer* is a tar of changes, perhaps compressed, as a descriptor's media type says. Its *diff id* is the digest of
the uncompressed tar. A layer in *overlay form* is written as overlayfs keeps it: character devices 0:0 hide, an extended
attribute makes a directory opaque.

Life cycle of a layer that is pulled: a snapshot is prepared -> `apply` onto its mounts -> the caller compares both digests with
what was promised -> the snapshot is committed, or dropped. With the capability `alone`, all layers of an image are applied at
the same time, each onto an empty directory, and then `settle` holds them against each other. The way back is `compare`.

Calls run at once, also many of one instance; two never get the same mounts. Mounts are the caller's, who unmounts nothing
meanwhile; a differ mounts them for itself and leaves none behind.

Public specification followed: the OCI image specification, layer.md; tar with PAX and GNU extensions.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec

from intermodal_core.contracts.common import Descriptor, Fd, Mount

__all__ = ["VERSION", "Alone", "Applied", "ApplyLimits", "Compared", "Differ", "Residue"]

VERSION = 1


class ApplyLimits(msgspec.Struct, frozen=True):
    """What one layer may unpack to before it is refused with ResourceExhausted."""

    bytes: int = 64 << 30
    files: int = 4_000_000
    depth: int = 512
    ratio: int = 2000


class Residue(msgspec.Struct, frozen=True):
    """What of a layer that was applied alone depends on what will be below: paths, bytes as UTF-8 with surrogate escapes.

    `implied` are directories that the layer does not list (the root is ""), `assumed` what it took for directories before it
    said what they are, `whiteouts` what it hides, `opaque` directories of which it hides all that is below.
    """

    implied: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    whiteouts: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()


class Applied(msgspec.Struct, frozen=True):
    """The outcome: digest and size of the uncompressed tar, and of the bytes read.

    `seconds` is the processor time by stage: `decompress` (with hashing) and `write`. `residue` is of a layer that was
    applied alone, None where it could not be.
    """

    diff_id: str
    size: int
    source_digest: str
    source_size: int
    seconds: dict[str, float] = {}
    residue: Residue | None = None


class Alone(msgspec.Struct, frozen=True):
    """A layer that was applied alone: its mounts, and what is left to do."""

    mounts: tuple[Mount, ...]
    residue: Residue


class Compared(msgspec.Struct, frozen=True):
    """A layer that was made: media type, digest and size of what was written, and of the uncompressed tar."""

    media_type: str
    digest: str
    size: int
    diff_id: str
    tar_size: int


@runtime_checkable
class Differ(Protocol):
    """Applies a layer onto mounts.

    Capabilities (declared by the plugin): `alone`, without which `apply` takes no `alone` and there is no `settle`;
    `compare`, without which there is no `compare`.

    [D1] Nothing outside the mounts is read, written or executed, whatever the layer holds.
    [D2] A layer that cannot be applied whole raises; the mounts' content is then undefined and the caller drops the
         snapshot. No mount, process or temporary file remains.
    """

    def media_types(self) -> tuple[str, ...]:
        """[D3] The layer media types that `apply` takes."""

    def apply(
        self,
        layer: Fd,
        descriptor: Descriptor,
        mounts: tuple[Mount, ...],
        limits: ApplyLimits | None = None,
        alone: bool = False,
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

        With `alone` the mounts are an empty directory that an overlay will have on top of something not yet known: the
        layer is written in overlay form, and the outcome's residue says what depends on what is below. Where too much
        does (a hard link to a file that is not in the layer), the outcome has no residue, and the mounts' content is
        undefined.
        """

    def settle(self, layers: tuple[Alone, ...], below: tuple[Mount, ...]) -> int:
        """[D5] Hold layers that were applied alone against what is below each.

        `layers` are the lowest first; `below` is a read-only view of what the lowest will have below it, none for nothing.
        Returns how many of them, from the first, are now what `apply` onto their parents would have made. The next one,
        where there is one, cannot be (it goes through a link of below): it must be applied onto its parent, its content is
        undefined. Raises FailedPrecondition for mounts that are not directories or overlays of directories.
        """

    def compare(
        self,
        lower: tuple[Mount, ...],
        upper: tuple[Mount, ...],
        into: int,
        media_type: str,
        latest: int | None = None,
    ) -> Compared:
        """[D6] Write the layer that turns what `lower` shows (no mounts: nothing) into what `upper` shows.

        To the descriptor `into`, a file or pipe, which stays open. Applied onto `lower` the layer gives `upper`: owners, modes,
        times to the nanosecond, extended attributes of `user.`, ACLs and capabilities, hard links, devices; sockets are left
        out, and so are mounts below. The same trees give the same bytes; `latest`, in ns since the epoch, is what no time in
        the layer is after. Neither side is written to; what changes meanwhile may or may not be in it.

        Raises Unimplemented for a media type that it cannot write, and else as `apply`.
        """
