"""Plain values that several contracts pass."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["Descriptor", "Fd", "Mount", "Platform", "Usage"]

#: An open file descriptor, -1 for none: how a contract declares one, so that it can cross to another process. An argument
#: stays the caller's, and whoever is called duplicates it to keep it; a result is the caller's to close.
Fd = Annotated[int, msgspec.Meta(extra={"descriptor": True})]


class Mount(msgspec.Struct, frozen=True, omit_defaults=True):
    """One mount to be made by whoever receives it, as in mount(8); containerd's `types.Mount`.

    `type` is a filesystem or "bind"; `options` are fstab words ("ro", "rbind", "lowerdir=..."). A mount without
    `target` covers the whole root.
    """

    type: str
    source: str
    options: tuple[str, ...] = ()
    target: str = ""


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Points at a blob by its digest; the OCI image specification's content descriptor."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}
    urls: tuple[str, ...] = ()
    artifact_type: str = ""
    platform: Platform | None = None


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an image runs on, in Go's names (amd64, arm64)."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")


class Usage(msgspec.Struct, frozen=True):
    """Disk use of one snapshot without its parents: bytes allocated and inodes."""

    size: int
    inodes: int
