"""The source against Debian's docker-registry: pull and push, TLS, passwords, tags, referrers, mirrors."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.common import Descriptor
from intermodal_core.contracts.image_sources import Access, Body, ImageSource
from intermodal_core.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable, Unimplemented
from intermodal_oci.model import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from intermodal_registry.settings import Settings
from intermodal_registry.source import RegistrySource

from tests.harness.registry import PASSWORD, USER, Registry, registry
from tests.plugins.registry.conftest import Place

KEYS = Access(username=USER, password=PASSWORD)


async def whole(body: Body) -> bytes:
    return b"".join([piece async for piece in body])


def descriptor(media_type: str, data: bytes) -> Descriptor:
    return Descriptor(media_type, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))


async def push(source: RegistrySource, name: str, media_type: str, data: bytes, **keywords: Any) -> Descriptor:
    target = descriptor(media_type, data)
    file = os.memfd_create("blob")
    try:
        os.write(file, data)
        await source.push(name, target, file, **keywords)
    finally:
        os.close(file)
    return target


async def push_image(source: RegistrySource, name: str, access: Access | None = None) -> Descriptor:
    """A manifest of no layers under the name."""
    config = await push(source, name, OCI_CONFIG, b"{}", access=access)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": config.media_type, "digest": config.digest, "size": config.size},
        "layers": [],
    }
    return await push(source, name, OCI_MANIFEST, json.dumps(manifest).encode(), access=access)


def test_it_is_an_image_source(ask: Callable[..., Any]) -> None:
    async def check(source: RegistrySource) -> None:
        assert isinstance(source, ImageSource)

    ask(check)


def test_pull(ask: Callable[..., Any], place: Place) -> None:
    name = f"{place.registry.address}/{place.path}:1"

    async def check(source: RegistrySource) -> None:
        resolved = await source.resolve(name)
        assert resolved.target.digest == place.built.manifest
        manifest = json.loads(await whole(await source.fetch(name, resolved.target)))
        layer = Descriptor(OCI_LAYER, manifest["layers"][0]["digest"], manifest["layers"][0]["size"])
        body = await source.fetch(name, layer)
        assert body.ranges
        data = await whole(body)
        assert hashlib.sha256(data).hexdigest() == layer.digest[7:]
        for offset, length in [(0, 10), (100, 1000), (layer.size - 5, 5), (7, -1)]:
            part = await whole(await source.fetch(name, layer, offset, length))
            assert part == data[offset:][: length if length >= 0 else None]
        by_digest = await source.resolve(f"{place.registry.address}/{place.path}@{place.built.manifest}")
        assert by_digest.target == resolved.target
        with pytest.raises(NotFound, match="404 Not Found"):
            await source.resolve(f"{place.registry.address}/{place.path}:other")
        with pytest.raises(NotFound):
            await source.fetch(name, descriptor(OCI_LAYER, b"nothing"))

    ask(check)


def test_push_tags_and_mount(ask: Callable[..., Any], place: Place) -> None:
    top = place.registry.address

    async def check(source: RegistrySource) -> None:
        target = await push_image(source, f"{top}/pushed/a:1")
        assert (await source.resolve(f"{top}/pushed/a:1")).target == target
        await push_image(source, f"{top}/pushed/a:2")
        assert sorted(await source.tags(f"{top}/pushed/a")) == ["1", "2"]
        with pytest.raises(NotFound):
            await source.tags(f"{top}/pushed/nothing")
        data = os.urandom(3_000_000)
        blob = await push(source, f"{top}/pushed/a:1", OCI_LAYER, data)
        assert await whole(await source.fetch(f"{top}/pushed/a:1", blob)) == data
        file = os.memfd_create("blob")
        try:
            os.write(file, data)
            assert not await source.push(f"{top}/pushed/a:1", blob, file), "it is there"
            assert not await source.push(f"{top}/pushed/b:1", blob, file, mount_from="pushed/a"), "taken from a"
        finally:
            os.close(file)
        assert await whole(await source.fetch(f"{top}/pushed/b:1", blob)) == data

    ask(check)


def test_referrers_by_the_tag_scheme(ask: Callable[..., Any], place: Place) -> None:
    """This registry has no referrers API."""
    top = place.registry.address

    async def check(source: RegistrySource) -> None:
        target = await push_image(source, f"{top}/referred/a:1")
        assert await source.referrers(f"{top}/referred/a:1", target.digest) == []
        signature = await push_image(source, f"{top}/referred/a:sig")
        listed = {
            "mediaType": OCI_MANIFEST,
            "digest": signature.digest,
            "size": signature.size,
            "artifactType": "application/vnd.tests.signature",
        }
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [listed]}).encode()
        await push(source, f"{top}/referred/a:{target.digest.replace(':', '-')}", OCI_INDEX, index)
        (found,) = await source.referrers(f"{top}/referred/a:1", target.digest, "application/vnd.tests.signature")
        assert found.digest == signature.digest
        assert await source.referrers(f"{top}/referred/a:1", target.digest, "application/vnd.tests.other") == []

    ask(check)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """With TLS and a password."""
    with registry(tmp_path_factory.mktemp("closed") / "r", tls=True, closed=True) as served:
        yield served


def trusting(settings: Settings, closed: Registry) -> None:
    """Say in certs.d that it has TLS, and whom to trust."""
    directory = settings.hosts[0] / closed.address
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(f'server = "https://{closed.address}"\nca = "{closed.ca}"\n')


def test_tls_and_a_password(ask: Callable[..., Any], closed: Registry, settings: Settings) -> None:
    trusting(settings, closed)
    name = f"{closed.address}/a/b:1"

    async def check(source: RegistrySource) -> None:
        with pytest.raises(PermissionDenied, match="takes a user and a password"):
            await source.resolve(name)
        with pytest.raises(PermissionDenied, match="given with the call are refused"):
            await source.resolve(name, Access(username=USER, password="wrong"))
        target = await push_image(source, name, KEYS)
        assert (await source.resolve(name, KEYS)).target == target
        with pytest.raises(PermissionDenied):  # what one caller knows is no other's
            await source.resolve(name)
        path = settings.credentials[0]
        path.parent.mkdir()
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        path.write_text(json.dumps({"auths": {closed.address: {"auth": auth}}}))
        assert (await source.resolve(name)).target == target
        (host,) = await source.explain(name)
        assert host.url == f"https://{closed.address}/v2"
        assert (host.credentials, host.tls) == (str(path), f"the system's CAs and {closed.ca}")
        assert target.digest in host.answer
        assert PASSWORD not in repr(host)

    ask(check)


def test_a_certificate_that_nobody_trusts(ask: Callable[..., Any], closed: Registry, settings: Settings) -> None:
    directory = settings.hosts[0] / closed.address
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(f'server = "https://{closed.address}"\n')
    name = f"{closed.address}/a/b:1"

    async def check(source: RegistrySource) -> None:
        with pytest.raises(Unavailable, match=r"TLS: .*CERTIFICATE_VERIFY_FAILED"):
            await source.resolve(name, KEYS)
        with pytest.raises(NotFound):
            await source.resolve(
                f"{closed.address}/no/such:1", Access(skip_verify=True, username=USER, password=PASSWORD)
            )

    ask(check)


def test_mirrors(ask: Callable[..., Any], place: Place, settings: Settings) -> None:
    """A mirror is asked first, under its capabilities; one that fails is passed over; all attempts are told."""
    directory = settings.hosts[0] / "registry.invalid"
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(
        f"""server = "http://127.0.0.1:1"
[host."http://127.0.0.1:2"]
[host."http://{place.registry.address}"]
capabilities = ["pull", "resolve"]
"""
    )
    name = f"registry.invalid/{place.path}:1"

    async def check(source: RegistrySource) -> None:
        resolved = await source.resolve(name)
        assert (resolved.host, resolved.target.digest) == (f"http://{place.registry.address}/v2", place.built.manifest)
        assert len(await whole(await source.fetch(name, resolved.target))) == resolved.target.size
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:2/.*127\.0\.0\.1:1/") as caught:
            await source.resolve(f"registry.invalid/{place.path}:other")
        assert place.registry.address in str(caught.value)
        urls = [host.url for host in await source.explain(name)]
        assert urls == [f"http://{where}/v2" for where in ("127.0.0.1:2", place.registry.address, "127.0.0.1:1")]

    ask(check)


def test_nobody_who_could(ask: Callable[..., Any], settings: Settings) -> None:
    directory = settings.hosts[0] / "registry.invalid"
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text('capabilities = ["pull", "resolve"]')

    async def check(source: RegistrySource) -> None:
        with pytest.raises(Unimplemented, match="capability push"):
            await push_image(source, "registry.invalid/a:1")
        with pytest.raises(InvalidArgument):
            await source.resolve("Not A Name")

    ask(check)


def test_a_file_that_is_no_certificate(ask: Callable[..., Any], settings: Settings, tmp_path: Path) -> None:
    from intermodal_core.errors import FailedPrecondition

    directory = settings.hosts[0] / "registry.invalid"
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text('ca = "ca.pem"')

    async def check(source: RegistrySource) -> None:
        with pytest.raises(NotFound, match=r"ca\.pem|certificates"):
            await source.resolve("registry.invalid/a:1")
        (directory / "ca.pem").write_text("no certificate")
        with pytest.raises(FailedPrecondition, match=r"registry\.invalid"):
            await source.resolve("registry.invalid/a:1")

    ask(check)
