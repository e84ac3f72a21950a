"""The images manager: everything between an archive or a directory and a mounted root filesystem."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from intermodal_core.contracts.common import Descriptor, Mount
from intermodal_core.contracts.image_sources import Access, Host
from intermodal_core.contracts.managers.store import Image, Scope

__all__ = [
    "CommitRequest",
    "Decision",
    "FromRootfs",
    "ImageStep",
    "ImageView",
    "Images",
    "Judged",
    "LayerView",
    "Mounted",
    "Progress",
    "PullRequest",
    "Pulled",
    "PushRequest",
    "Report",
    "Stage",
    "Unpacked",
]


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of progress: what is done (`unpack`, `read`, ...), to what, how far; bytes."""

    action: str
    name: str
    done: int = 0
    total: int = 0


#: Called on the loop, often; must return at once.
Report = Callable[[Progress], None]


class FromRootfs(msgspec.Struct, frozen=True, kw_only=True):
    """What `from_rootfs` makes of a directory on this machine."""

    directory: str
    name: str
    cmd: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    labels: dict[str, str] = {}


class PullRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to pull and how. `unpack` is the snapshotter to unpack for ("": the one that the policy gives, None: do not).

    `name` is a reference as users write it; `platform` of several ("": this machine's), or with `all_platforms` each one.
    `labels` are put on the image's record, and rules may ask for them.
    """

    name: str
    platform: str = ""
    all_platforms: bool = False
    unpack: str | None = ""
    labels: dict[str, str] = {}
    access: Access = Access()


class PushRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to push: an image of ours, under another name where `name` says one; of an index, all that is there."""

    image: str
    name: str = ""
    platform: str = ""
    access: Access = Access()


class Judged(msgspec.Struct, frozen=True):
    """One verifier's verdict, with its name."""

    verifier: str
    accepted: bool
    reason: str
    signer: str = ""


class Decision(msgspec.Struct, frozen=True):
    """Whether an image may be used: the mode (enforce, audit, off), who says so, the verdicts, and what comes of them."""

    mode: str
    why: str
    admitted: bool
    judged: tuple[Judged, ...] = ()


class Stage(msgspec.Struct, frozen=True):
    """How fast one stage was: the seconds that it had something to do, and bytes a second of them."""

    name: str
    bytes: int
    seconds: float
    rate: float


class Pulled(msgspec.Struct, frozen=True):
    """What a pull came to. `host` is the URL that answered, `fetched` the bytes that were not here before.

    `unpacked` is the snapshotter that it was unpacked for, "" for none; `verification` what verifiers said of it.
    """

    image: Image
    host: str
    seconds: float
    fetched: int
    stages: tuple[Stage, ...]
    slowest: str
    unpacked: str
    verification: Decision


class LayerView(msgspec.Struct, frozen=True):
    """A layer: its blob, the digest of its tar, the name of the snapshot that it makes, whether the blob is here."""

    blob: Descriptor
    diff_id: str
    chain_id: str
    here: bool


class ImageView(msgspec.Struct, frozen=True):
    """All that is known of an image for one platform; `config` is its JSON, `size` of documents and layers as they are sent.

    `platforms` are those that there are, `unpacked` the snapshotters that have it.
    """

    image: Image
    platforms: tuple[str, ...]
    manifest: Descriptor
    config_blob: Descriptor
    config: dict[str, Any]
    layers: tuple[LayerView, ...]
    unpacked: tuple[str, ...]
    size: int


class ImageStep(msgspec.Struct, frozen=True):
    """How an image came to be, one step: `digest` and `size` of its layer, "" and 0 where it made none."""

    created: str = ""
    created_by: str = ""
    comment: str = ""
    author: str = ""
    digest: str = ""
    size: int = 0


class Mounted(msgspec.Struct, frozen=True):
    """An image to be mounted by whoever asked: its mounts, and the key by which `unmount` knows it."""

    snapshotter: str
    key: str
    mounts: tuple[Mount, ...]


class CommitRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `commit` makes of a container; what is not said of how to run it stays as its image has it."""

    container: str
    name: str
    author: str = ""
    message: str = ""
    cmd: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    labels: dict[str, str] = {}


class Unpacked(msgspec.Struct, frozen=True):
    """An image ready to be run: its config as JSON, and the committed snapshot of its top layer."""

    image: Image
    config: bytes
    config_digest: str
    snapshotter: str
    chain_id: str


class Images(Protocol):
    """The manager. A failed or cancelled call leaves nothing behind; blobs that were whole may stay until collected."""

    async def import_archive(
        self,
        scope: Scope,
        archive: int,
        *,
        names: Sequence[str] = (),
        platform: str = "",
        all_platforms: bool = False,
        unpack: str | None = "",
        report: Report | None = None,
    ) -> list[Image]:
        """Take an OCI layout or a Docker archive (tar, plain, gzip or zstd) from a descriptor, read to its end.

        `names` replace the names in the archive; an archive that names nothing needs one. `unpack` is the snapshotter to
        unpack for ("": the default, None: do not).
        """

    async def pull(self, scope: Scope, request: PullRequest, *, report: Report | None = None) -> Pulled:
        """Fetch an image, verify and unpack it, and record it once all of that is done.

        Layers are fetched, checked and unpacked at the same time; what several pulls need is fetched once. What is here
        already is not fetched. Raises what the image source and the differ raise, with the stage and the host;
        PermissionDenied where verification is enforced and the image is not accepted, before any layer is fetched.
        """

    async def push(self, scope: Scope, request: PushRequest, *, report: Report | None = None) -> Image:
        """Send an image to where its name says, children first; what is there already is not sent."""

    async def verify(self, scope: Scope, image: str, access: Access | None = None) -> Decision:
        """Ask the verifiers about an image that is here, as a pull does. Raises PermissionDenied as a pull does."""

    async def admit(self, scope: Scope, image: Image) -> None:
        """`verify`, where the config says that images are verified each time they are run."""

    async def explain(self, name: str, access: Access | None = None) -> list[Host]:
        """The hosts that would be asked for a name, in order, and what each answers."""

    async def tag(self, scope: Scope, image: str, name: str) -> Image:
        """Record an image under one more name, in place of what had it."""

    async def from_rootfs(self, scope: Scope, request: FromRootfs, *, report: Report | None = None) -> Image:
        """Make a one-layer image of a directory; deterministic for the same tree."""

    async def unpack(
        self, scope: Scope, name: str, snapshotter: str = "", *, platform: str = "", report: Report | None = None
    ) -> Unpacked:
        """Make the image's chain of snapshots, whatever of it is missing; two callers share the work."""

    async def export(
        self,
        scope: Scope,
        images: Sequence[str],
        into: int,
        *,
        format: str = "oci",
        platform: str = "",
        report: Report | None = None,
    ) -> None:
        """Write images to a descriptor as a tar: `oci`, a layout that Docker's tools read as well, or `docker`.

        Of an index what `platform` needs, or this machine's. Raises NotFound where blobs are missing, saying how to fetch
        them.
        """

    async def convert(
        self, scope: Scope, image: str, name: str, to: str, *, platform: str = "", report: Report | None = None
    ) -> Image:
        """The same image with its layers compressed by `gzip`, `zstd` or `none`, for one platform, under a name."""

    async def inspect(self, scope: Scope, image: str, *, platform: str = "") -> ImageView:
        """All that is known of it."""

    async def history(self, scope: Scope, image: str, *, platform: str = "") -> list[ImageStep]:
        """How it came to be, the latest step first."""

    async def prune(self, scope: Scope, *, dry_run: bool = False) -> list[Image]:
        """Forget the images that no container uses; those that went, or would go."""

    async def mount(
        self, scope: Scope, image: str, key: str, *, writable: bool = False, snapshotter: str = ""
    ) -> Mounted:
        """A snapshot of the image for the caller to mount, kept until `unmount`; read-only, or `writable` on top of it."""

    async def unmount(self, scope: Scope, key: str) -> None:
        """Drop what `mount` made, with all that was written to it; the caller has unmounted it."""

    async def commit(self, scope: Scope, request: CommitRequest) -> Image:
        """Make an image of what a container has changed, on top of its own image.

        A container that runs goes on; what it writes meanwhile may or may not be in it.
        """

    async def compare(
        self,
        scope: Scope,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str = "",
        labels: Mapping[str, str] | None = None,
        latest: int | None = None,
    ) -> Descriptor:
        """Make a layer of what lies between two sets of mounts, as a blob; `latest` as `Differ.compare` has it."""

    async def apply(self, scope: Scope, layer: Descriptor, mounts: Sequence[Mount]) -> Descriptor:
        """Apply a layer of the content store onto mounts; returns the descriptor of the uncompressed tar.

        What clients that drive the unpacking themselves call.
        """

    async def select(self, scope: Scope, filters: Sequence[str] = ()) -> list[Image]:
        """The image records."""

    async def resolve(self, scope: Scope, reference: str) -> Image:
        """The image that a user's reference means: as written, else in its full form. Raises NotFound."""

    async def remove(self, scope: Scope, reference: str) -> Image:
        """Delete the record; what only it needed is collected later."""
