"""The conformance kit of image sources: subclass `ImageSourceKit`, say how one is opened and what its names are, run pytest.

    class TestMine(ImageSourceKit):
        capabilities = frozenset({"push", "referrers"})

        @pytest.fixture
        def opened(self, tmp_path):                     # one source, for one test's loop
            return lambda: MySource(tmp_path / "images")

        repository = "mine.example/kit/image"           # a repository of it that the kit may fill

Without `push` override `store`; the tests of pushes are then skipped. With `referrers` a document that has a subject refers to it
once it is pushed; without it the kit lists it under the tag that stands for the subject, as the OCI distribution specification says.
A source that is an asynchronous context manager is entered. A test's name says which rule of
`intermodal_core.contracts.image_sources` it holds to: `test_i3_...` is of [I3].
"""

# ruff: noqa: D102 - what a test holds to is the contract's rule that its name gives

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, ClassVar

import msgspec
import pytest

from intermodal_core.contracts.common import Descriptor
from intermodal_core.contracts.image_sources import Access, Body, ImageSource
from intermodal_core.errors import IntermodalError, InvalidArgument, NotFound, PermissionDenied
from intermodal_core.testing.kit import Kit
from intermodal_core.testing.recording import watch

__all__ = ["Image", "ImageSourceKit", "Open"]

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"

#: Opens a source.
Open = Callable[[], ImageSource]


class Image:
    """A small image: a configuration, a layer that no codec makes smaller, and the manifest that names them."""

    def __init__(self, seed: str = "kit", subject: Descriptor | None = None, artifact_type: str = "") -> None:
        noise = b"".join(hashlib.sha256(f"{seed}{number}".encode()).digest() for number in range(20_000))
        self.config = _descriptor("application/vnd.oci.image.config.v1+json", b'{"seed": "%s"}' % seed.encode())
        self.layer = _descriptor("application/vnd.oci.image.layer.v1.tar", noise)
        about: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST}
        about |= {"config": self.config[0], "layers": [self.layer[0]]}
        about |= {"artifactType": artifact_type} if artifact_type else {}
        about |= {"subject": subject} if subject else {}
        self.manifest = _descriptor(MANIFEST, msgspec.json.encode(about))

    @property
    def blobs(self) -> list[tuple[Descriptor, bytes]]:
        """Configuration and layer."""
        return [self.config, self.layer]


def _descriptor(media_type: str, data: bytes) -> tuple[Descriptor, bytes]:
    return Descriptor(media_type, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data)), data


class ImageSourceKit(Kit):
    """The rules of the contract, each a test or several."""

    contracts = (ImageSource, Body)
    makers = ()
    #: A repository that the kit may fill, without tag.
    repository: ClassVar[str] = ""
    #: A name that can be of no source of this sort.
    strange: ClassVar[str] = "not a name"
    #: Seconds that each test may take.
    within = 60.0

    @pytest.fixture
    def opened(self) -> Open:
        """Opens a source; to be overridden."""
        raise NotImplementedError("define the fixture `opened`")

    async def store(self, source: ImageSource, image: Image, tag: str) -> None:
        """Have the repository hold an image under a tag; a source that takes no pushes overrides this."""
        for target, data in image.blobs:
            await self.push(source, f"{self.repository}@{target.digest}", target, data)
        await self.push(source, f"{self.repository}:{tag}", *image.manifest)

    async def push(self, source: ImageSource, name: str, target: Descriptor, data: bytes, mount_from: str = "") -> bool:
        """Push bytes that are in memory."""
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            return await source.push(name, target, file.fileno(), None, mount_from)

    @pytest.fixture
    def run(self, opened: Open) -> Callable[[Callable[[ImageSource], Awaitable[None]]], None]:
        """`run(body)` opens a source for `body(source)`."""

        def run(body: Callable[[ImageSource], Awaitable[None]]) -> None:
            async def main() -> None:
                async with asyncio.timeout(self.within), AsyncExitStack() as stack:
                    source: Any = opened()
                    if hasattr(source, "__aenter__"):
                        source = await stack.enter_async_context(source)
                    await body(watch(source, ImageSource))

            asyncio.run(main())

        return run

    async def read(self, source: ImageSource, target: Descriptor, offset: int = 0, length: int = -1) -> bytes:
        """What a fetch gives."""
        body = await source.fetch(f"{self.repository}:one", target, offset, length)
        try:
            return b"".join([piece async for piece in body])
        finally:
            await body.aclose()

    # -- I1, I2: always -----------------------------------------------------------------------------------------------

    def test_i1_all_at_once(self, run: Any) -> None:
        async def body(source: ImageSource) -> None:
            image = Image()
            await self.store(source, image, "one")
            target, data = image.layer
            halves = len(data) // 2

            async def once(number: int) -> None:
                resolved = await source.resolve(f"{self.repository}:one")
                assert resolved.target.digest == image.manifest[0].digest
                offset = halves * (number % 2)
                assert await self.read(source, target, offset, halves) == data[offset : offset + halves]

            await asyncio.gather(*(once(number) for number in range(16)))

        run(body)

    def test_i2_what_is_not_there(self, run: Any) -> None:
        async def body(source: ImageSource) -> None:
            image = Image()
            await self.store(source, image, "one")
            absent = Descriptor("application/octet-stream", f"sha256:{'0' * 64}", 5)
            for call in (
                source.resolve(f"{self.repository}:nowhere"),
                source.resolve(f"{self.repository}@{absent.digest}"),
                self.read(source, absent),
            ):
                with pytest.raises(NotFound) as raised:
                    await call
                assert self.repository.partition("/")[2] in str(raised.value), "an error names what was asked for"
            with pytest.raises((NotFound, PermissionDenied)):
                await source.resolve(f"{self.repository}-of-nobody:one")

        run(body)

    def test_i2_what_is_no_name(self, run: Any) -> None:
        async def body(source: ImageSource) -> None:
            for name in (self.strange, "", f"{self.repository}@sha256:short"):
                with pytest.raises(InvalidArgument):
                    await source.resolve(name)

        run(body)

    # -- I3: resolve --------------------------------------------------------------------------------------------------

    def test_i3_resolve(self, run: Any) -> None:
        async def body(source: ImageSource) -> None:
            one, two = Image("one"), Image("two")
            await self.store(source, one, "one")
            await self.store(source, two, "two")
            for name, image in (
                (f"{self.repository}:one", one),
                (f"{self.repository}:two", two),
                (f"{self.repository}@{one.manifest[0].digest}", one),
            ):
                resolved = await source.resolve(name)
                target = image.manifest[0]
                assert resolved.name == name
                assert (resolved.target.digest, resolved.target.media_type) == (target.digest, target.media_type)
                assert resolved.target.size in (0, target.size)
                assert "://" in resolved.host

        run(body)

    def test_i3_now(self, run: Any) -> None:
        """A tag that was moved is seen to be elsewhere."""

        async def body(source: ImageSource) -> None:
            for image in (Image("one"), Image("two")):
                await self.store(source, image, "moves")
                resolved = await source.resolve(f"{self.repository}:moves")
                assert resolved.target.digest == image.manifest[0].digest

        run(body)

    # -- I4, I9, I10: fetch -------------------------------------------------------------------------------------------

    def test_i4_fetch(self, run: Any) -> None:
        async def body(source: ImageSource) -> None:
            image = Image()
            await self.store(source, image, "one")
            for target, data in (*image.blobs, image.manifest):
                assert await self.read(source, target) == data
            target, data = image.layer
            for offset, length in ((0, 10), (100, -1), (len(data) - 7, -1), (1000, 5000), (0, len(data))):
                end = len(data) if length < 0 else offset + length
                assert await self.read(source, target, offset, length) == data[offset:end], (offset, length)

        run(body)

    def test_i9_pieces(self, run: Any) -> None:
        async def body(source: ImageSource) -> None:
            image = Image()
            await self.store(source, image, "one")
            target, data = image.layer
            stream = await source.fetch(f"{self.repository}:one", target)
            assert isinstance(stream.host, str)
            assert isinstance(stream.ranges, bool)
            pieces = [piece async for piece in stream]
            await stream.aclose()
            assert all(pieces)
            assert b"".join(pieces) == data

        run(body)

    def test_i10_left_early(self, run: Any) -> None:
        async def body(source: ImageSource) -> None:
            image = Image()
            await self.store(source, image, "one")
            files = len(os.listdir("/proc/self/fd"))
            for _ in range(20):
                stream = await source.fetch(f"{self.repository}:one", image.layer[0])
                async for _piece in stream:
                    break
                await stream.aclose()
                await stream.aclose()
            await asyncio.sleep(0)
            assert len(os.listdir("/proc/self/fd")) < files + 10, "descriptors are left"
            assert await self.read(source, image.config[0]) == image.config[1]

        run(body)

    # -- I5: push -----------------------------------------------------------------------------------------------------

    def test_i5_push(self, run: Any) -> None:
        self.declares("push")

        async def body(source: ImageSource) -> None:
            image = Image(f"pushed {os.urandom(4).hex()}")
            for target, data in image.blobs:
                name = f"{self.repository}@{target.digest}"
                assert await self.push(source, name, target, data) is True
                assert await self.push(source, name, target, data) is False, "it is there already"
                assert await self.read(source, target) == data
            target, data = image.manifest
            await self.push(source, f"{self.repository}:pushed", target, data)
            await self.push(source, f"{self.repository}@{target.digest}", target, data)
            for name in (f"{self.repository}:pushed", f"{self.repository}@{target.digest}"):
                assert (await source.resolve(name)).target.digest == target.digest

        run(body)

    def test_i5_from_the_beginning(self, run: Any) -> None:
        """Wherever the file that is given stands."""
        self.declares("push")

        async def body(source: ImageSource) -> None:
            target, data = Image(f"moved {os.urandom(4).hex()}").layer
            with tempfile.TemporaryFile() as file:
                file.write(data)
                assert await source.push(f"{self.repository}@{target.digest}", target, file.fileno()) is True
                os.fstat(file.fileno())
            assert await self.read(source, target) == data

        run(body)

    def test_i5_mounted(self, run: Any) -> None:
        """What another repository of the host has arrives, whether it is sent or taken from there."""
        self.declares("push")

        async def body(source: ImageSource) -> None:
            target, data = Image(f"mounted {os.urandom(4).hex()}").layer
            other = f"{self.repository}-other"
            await self.push(source, f"{other}@{target.digest}", target, data)
            await self.push(source, f"{self.repository}@{target.digest}", target, data, mount_from=other)
            assert await self.read(source, target) == data

        run(body)

    # -- I6, I7, I8 ---------------------------------------------------------------------------------------------------

    def test_i6_tags(self, run: Any) -> None:
        async def body(source: ImageSource) -> None:
            for tag in ("one", "two", "v1.0"):
                await self.store(source, Image(tag), tag)
            tags = await source.tags(f"{self.repository}:one")
            assert {"one", "two", "v1.0"} <= set(tags)
            assert len(set(tags)) == len(tags)
            with pytest.raises((NotFound, PermissionDenied)):
                await source.tags(f"{self.repository}-of-nobody:one")

        run(body)

    def test_i7_referrers(self, run: Any) -> None:
        async def body(source: ImageSource) -> None:
            image, other = Image(f"subject {os.urandom(4).hex()}"), Image(f"alone {os.urandom(4).hex()}")
            subject = image.manifest[0]
            await self.store(source, image, "subject")
            await self.store(source, other, "alone")
            signature = Image("signature", subject, "application/x.signature")
            sbom = Image("sbom", subject, "application/x.sbom")
            await self.store(source, signature, "signature")
            await self.store(source, sbom, "sbom")
            if "referrers" not in self.capabilities:
                await self._by_tag(source, subject, signature, sbom)
            name = f"{self.repository}:subject"
            assert await source.referrers(name, other.manifest[0].digest) == []
            everything = await source.referrers(name, subject.digest)
            assert {each.artifact_type for each in everything} == {"application/x.signature", "application/x.sbom"}
            (found,) = await source.referrers(name, subject.digest, "application/x.signature")
            assert found.digest == signature.manifest[0].digest

        run(body)

    async def _by_tag(self, source: ImageSource, subject: Descriptor, *artifacts: Image) -> None:
        """List referrers under the tag that stands for the subject, as whoever pushes to an older registry does."""
        manifests = [
            msgspec.structs.replace(
                each.manifest[0], artifact_type=msgspec.json.decode(each.manifest[1])["artifactType"]
            )
            for each in artifacts
        ]
        data = msgspec.json.encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
        await self.push(source, f"{self.repository}:{subject.digest.replace(':', '-')}", *_descriptor(INDEX, data))

    def test_i8_explain(self, run: Any) -> None:
        async def body(source: ImageSource) -> None:
            await self.store(source, Image(), "one")
            secret = "a-secret-word"
            access = Access(username="kit", password=secret, plain_http=True)
            hosts = await source.explain(f"{self.repository}:one", access)
            assert hosts
            for host in hosts:
                assert "://" in host.url
                assert host.tls
                assert host.origin
                assert secret not in repr(host)
            try:
                absent = await source.explain(f"{self.repository}:nowhere")
            except IntermodalError as error:
                raise AssertionError("to explain what is not there is no error") from error
            assert [host.url for host in absent]

        run(body)
