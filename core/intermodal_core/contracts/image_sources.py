"""Image sources: where images are pulled from and pushed to.

Vocabulary. A *name* is a full reference (`docker.io/library/busybox:latest`, `HOST/PATH@sha256:...`). A *target* is the
descriptor of what a name points at. An *access* is what one caller says of the road there; a source has its own
configuration for all that it leaves open. A *host* is one of the servers that serve a name: mirrors first, in order, and
the name's own at the end.

Life cycle of a pull: `resolve` -> `fetch` of the document -> `fetch` of each blob that it names. Of a push: `push` of each
blob, children first, and of the documents at the end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol, runtime_checkable

import msgspec

from intermodal_core.contracts.common import Descriptor, Fd

__all__ = ["VERSION", "Access", "Body", "Host", "ImageSource", "Resolved"]

VERSION = 1


class Access(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one caller says of how to reach a name's host.

    `plain_http`: no TLS; `skip_verify`: any certificate. Credentials are the caller's own, for the name's own host alone,
    and come before those that the source finds: user and password, or a `refresh_token` (an identity token).
    """

    plain_http: bool = False
    skip_verify: bool = False
    username: str = ""
    password: str = ""
    refresh_token: str = ""


class Resolved(msgspec.Struct, frozen=True):
    """What a name points at, and the URL of the host that said so."""

    name: str
    target: Descriptor
    host: str


class Host(msgspec.Struct, frozen=True):
    """How one host would be asked for a name; every text is for people.

    `tls` says whom is trusted and why, `credentials` where they come from ("" is none; never the secret itself), `answer`
    what it said when it was asked, where it was.
    """

    url: str
    capabilities: tuple[str, ...]
    tls: str
    credentials: str
    origin: str
    answer: str = ""


@runtime_checkable
class Body(Protocol):
    """A stream of bytes that has begun. Leaving it early takes an `aclose`.

    `host` is the URL of the host that serves it; `ranges` tells whether several fetches of parts may run at once.
    """

    host: str
    ranges: bool

    def __aiter__(self) -> AsyncIterator[bytes]:
        """[I9] Pieces of any size, none empty, in their order."""

    async def aclose(self) -> None:
        """[I10] Let go of it, at any time. Idempotent."""


@runtime_checkable
class ImageSource(Protocol):
    """A place that images come from.

    [I1] Every method may run at once with every other, for the same name too.
    [I2] Errors say host, what was asked and what came of it; where several hosts were tried, all of them: NotFound;
        PermissionDenied for missing or refused credentials; ResourceExhausted for a rate limit that outlasted the attempts;
        Unavailable where no host could be reached or each broke off; DeadlineExceeded for a host that stalls or trickles;
        InvalidArgument for a name that cannot be of this source; FailedPrecondition for an answer that is not what was asked
        for; Unimplemented for what no host can do.
    """

    async def resolve(self, name: str, access: Access | None = None) -> Resolved:
        """[I3] What the name points at now. The size is what the host says and may be 0 where it does not."""

    async def fetch(
        self, name: str, target: Descriptor, offset: int = 0, length: int = -1, access: Access | None = None
    ) -> Body:
        """[I4] Begin to read a document or blob of the name's repository; `length` -1: to its end.

        A stream that breaks off is resumed where it broke. No more than `target.size` bytes come where that is known;
        fewer raise Unavailable. Digests are for the caller to verify.
        """

    async def push(
        self, name: str, target: Descriptor, content: Fd, access: Access | None = None, mount_from: str = ""
    ) -> bool:
        """[I5] Upload a document or blob from the readable file `content`, from its beginning; whether bytes were sent.

        A blob that the repository has is not sent. With `mount_from`, a repository of the same host, the blob is taken
        from there where the host can do that. A document (the media type of an index or a manifest) is stored under what
        `name` says: its tag, or its digest.
        """

    async def tags(self, name: str, access: Access | None = None) -> list[str]:
        """[I6] The tags of the name's repository, as the host orders them."""

    async def referrers(
        self, name: str, digest: str, artifact_type: str = "", access: Access | None = None
    ) -> list[Descriptor]:
        """[I7] What refers to `digest` as its subject; none is no error. Both the API and the tag scheme are looked at."""

    async def explain(self, name: str, access: Access | None = None) -> list[Host]:
        """[I8] The hosts that would be asked, in order, each asked once for the name where it can resolve one."""
