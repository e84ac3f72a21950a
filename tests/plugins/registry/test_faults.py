"""What registries do wrong, by a proxy of our own before a real one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import pytest
from intermodal_core.contracts.common import Descriptor
from intermodal_core.contracts.image_sources import Access
from intermodal_core.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    IntermodalError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from intermodal_oci.model import OCI_LAYER
from intermodal_registry.settings import Settings
from intermodal_registry.source import RegistrySource

from tests.harness.faults import Fault, Proxy, Request
from tests.plugins.registry.conftest import Place
from tests.plugins.registry.test_source import push_image, whole


def name_of(faulty: Proxy, place: Place) -> str:
    return f"{faulty.address}/{place.path}:1"


def layer_of(place: Place) -> Descriptor:
    import tarfile

    with tarfile.open(place.built.path) as tar:
        return Descriptor(
            OCI_LAYER, place.built.layers[0], tar.getmember(f"blobs/sha256/{place.built.layers[0][7:]}").size
        )


def on_blobs(fault: Fault, times: int = 1 << 30) -> Callable[[Request], Fault | None]:
    return lambda request: fault if "/blobs/" in request.path and request.number < times else None


def meaning(status: int) -> type[IntermodalError]:
    known: dict[int, type[IntermodalError]] = {
        401: PermissionDenied,
        403: PermissionDenied,
        404: NotFound,
        405: Unimplemented,
        407: PermissionDenied,
        408: Unavailable,
        410: NotFound,
        425: Unavailable,
        429: ResourceExhausted,
        451: PermissionDenied,
        501: Unimplemented,
    }
    return known.get(status, Unavailable if status >= 500 else FailedPrecondition)


@pytest.mark.parametrize("status", [status.value for status in HTTPStatus if status >= 400])
def test_every_refusal_has_a_meaning(ask: Callable[..., Any], faulty: Proxy, place: Place, status: int) -> None:
    """And is told with the host and what it says; what may pass is tried again, the rest is not."""
    body = json.dumps({"errors": [{"code": "TESTED", "message": "so it is"}]}).encode()
    faulty.rule = lambda request: Fault(status, body=body)

    async def check(source: RegistrySource) -> None:
        with pytest.raises(meaning(status)) as caught:
            await source.fetch(name_of(faulty, place), layer_of(place))
        assert type(caught.value) is meaning(status)
        assert f"GET http://{faulty.address}/v2/" in str(caught.value)
        assert str(status) in str(caught.value)
        if status != 401:
            assert "TESTED: so it is" in str(caught.value)

    ask(check)
    passing = status in (408, 425, 429, 500, 502, 503, 504)
    assert len(faulty.requests) == (3 if passing else 1)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_kept(ask: Callable[..., Any], faulty: Proxy, place: Place, status: int) -> None:
    faulty.rule = on_blobs(Fault(status, {"Retry-After": "1"}), times=1)

    async def check(source: RegistrySource) -> None:
        began = time.monotonic()
        data = await whole(await source.fetch(name_of(faulty, place), layer_of(place)))
        assert time.monotonic() - began >= 1
        assert len(data) == layer_of(place).size

    ask(check)


def test_who_asks_for_too_much_patience_is_not_waited_for(ask: Callable[..., Any], faulty: Proxy, place: Place) -> None:
    faulty.rule = on_blobs(Fault(429, {"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}))

    async def check(source: RegistrySource) -> None:
        with pytest.raises(ResourceExhausted):
            await source.fetch(name_of(faulty, place), layer_of(place))

    ask(check)
    assert len(faulty.requests) == 1


def test_a_cut_is_resumed_where_it_was(ask: Callable[..., Any], faulty: Proxy, place: Place) -> None:
    cuts = [100_000, 700_000]
    faulty.rule = lambda r: Fault(cut=cuts[r.number]) if "/blobs/" in r.path and r.number < 2 else None

    async def check(source: RegistrySource) -> None:
        data = await whole(await source.fetch(name_of(faulty, place), layer_of(place)))
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == layer_of(place).digest

    ask(check)
    ranges = [request.headers.get("Range", "") for request in faulty.requests]
    starts = [int(each.removeprefix("bytes=").partition("-")[0]) for each in ranges[1:]]
    assert ranges[0] == ""
    assert 0 < starts[0] <= 100_000
    assert starts[0] < starts[1] <= starts[0] + 700_000


def test_a_host_without_ranges_is_read_from_the_beginning(ask: Callable[..., Any], faulty: Proxy, place: Place) -> None:
    faulty.rule = lambda r: Fault(
        cut=100_000 if r.number == 0 else -1, drop_range=True, replace={"Accept-Ranges": None}
    )

    async def check(source: RegistrySource) -> None:
        body = await source.fetch(name_of(faulty, place), layer_of(place))
        assert not body.ranges
        data = await whole(body)
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == layer_of(place).digest
        assert await whole(await source.fetch(name_of(faulty, place), layer_of(place), 7, 9)) == data[7:16]

    ask(check)


def test_one_that_always_breaks_off(ask: Callable[..., Any], faulty: Proxy, place: Place) -> None:
    faulty.rule = on_blobs(Fault(cut=10))

    async def check(source: RegistrySource) -> None:
        with pytest.raises(Unavailable, match=r"broke off after 30 bytes|ended after 30 of"):
            await whole(await source.fetch(name_of(faulty, place), layer_of(place)))

    ask(check)


def test_one_that_stalls(ask: Callable[..., Any], faulty: Proxy, place: Place) -> None:
    faulty.rule = on_blobs(Fault(cut=10, stall=True))

    async def check(source: RegistrySource) -> None:
        with pytest.raises(DeadlineExceeded, match=rf"http://{faulty.address}.*stalled: no byte for 0.5 s"):
            await whole(await source.fetch(name_of(faulty, place), layer_of(place)))

    ask(check)


def test_one_that_trickles(ask: Callable[..., Any], faulty: Proxy, place: Place) -> None:
    faulty.rule = on_blobs(Fault(cut=10, trickle=0.02))

    async def check(source: RegistrySource) -> None:
        with pytest.raises(DeadlineExceeded, match="bytes a second"):
            await whole(await source.fetch(name_of(faulty, place), layer_of(place)))

    ask(check)
    assert len(faulty.requests) == 1, "another try would be as slow"


def test_wrong_lengths_and_ranges(ask: Callable[..., Any], faulty: Proxy, place: Place) -> None:
    layer = layer_of(place)

    async def check(source: RegistrySource) -> None:
        name = name_of(faulty, place)
        faulty.rule = on_blobs(Fault(change=lambda data: data + b"x"))
        with pytest.raises(FailedPrecondition, match=f"has {layer.size + 1} bytes there"):
            await whole(await source.fetch(name, layer))
        faulty.rule = on_blobs(Fault(replace={"Content-Range": "bytes 0-9/10"}))
        with pytest.raises(FailedPrecondition, match="bytes from 5 were asked for"):
            await source.fetch(name, layer, 5, 10)
        faulty.rule = on_blobs(Fault(204))
        with pytest.raises(FailedPrecondition, match="204"):
            await source.fetch(name, layer)

    ask(check)


def test_what_a_resolver_is_told(ask: Callable[..., Any], faulty: Proxy, place: Place) -> None:
    name = name_of(faulty, place)

    async def check(source: RegistrySource) -> None:
        faulty.rule = lambda r: Fault(replace={"Docker-Content-Digest": None})
        assert (await source.resolve(name)).target.digest == place.built.manifest
        faulty.rule = lambda r: Fault(405) if r.method == "HEAD" else None
        assert (await source.resolve(name)).target.digest == place.built.manifest
        faulty.rule = lambda r: Fault(replace={"Docker-Content-Digest": "sha256:" + "0" * 64})
        with pytest.raises(FailedPrecondition, match="to a question for"):
            await source.resolve(f"{faulty.address}/{place.path}@{place.built.manifest}")
        faulty.rule = lambda r: Fault(
            replace={"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"}
        )
        with pytest.raises(FailedPrecondition, match="schema version 1"):
            await source.resolve(name)
        faulty.rule = lambda r: Fault(change=lambda _: bytes(9 << 20), replace={"Docker-Content-Digest": None})
        with pytest.raises(FailedPrecondition, match="too many for a document"):
            await source.resolve(name)

    ask(check)


def test_tokens(ask: Callable[..., Any], faulty: Proxy, place: Place) -> None:
    """A token is asked for once a scope, with the credentials, and shown from then on; an old one is renewed."""
    tokens: list[dict[str, str]] = []

    def rule(request: Request) -> Fault | None:
        if request.path.startswith("/token"):
            tokens.append(dict(request.headers))
            return Fault(200, body=json.dumps({"token": f"t{len(tokens)}", "expires_in": 300}).encode())
        if request.headers.get("Authorization") != f"Bearer t{max(1, len(tokens)) if not revoked else 2}":
            asked = f'Bearer realm="http://{faulty.address}/token",service="tests"'
            return Fault(401, {"WWW-Authenticate": asked})
        return None

    revoked = False
    faulty.rule = rule
    name = name_of(faulty, place)

    async def check(source: RegistrySource) -> None:
        nonlocal revoked
        target = (await source.resolve(name)).target
        assert "Authorization" not in tokens[0]
        for _ in range(3):
            await whole(await source.fetch(name, target))
        assert len(tokens) == 1
        revoked = True
        await whole(await source.fetch(name, target))
        assert len(tokens) == 2
        paths = [request.path for request in faulty.requests if request.path.startswith("/token")]
        assert all("service=tests" in path and "scope=repository" in path for path in paths)

    ask(check)


def test_a_realm_that_gives_nothing(ask: Callable[..., Any], faulty: Proxy, place: Place) -> None:
    asked = {"WWW-Authenticate": f'Bearer realm="http://{faulty.address}/token"'}

    def realm(answer: Fault) -> Callable[[Request], Fault]:
        return lambda request: answer if request.path.startswith("/token") else Fault(401, asked)

    async def check(source: RegistrySource) -> None:
        for answer, error, said in [
            (Fault(403), PermissionDenied, "given with the call are refused"),
            (Fault(500), Unavailable, "its token realm"),
            (Fault(200, body=b"[]"), FailedPrecondition, "answers no token"),
            (Fault(200, body=b'{"token": "t"}'), PermissionDenied, "given with the call are refused"),
        ]:
            faulty.rule = realm(answer)
            with pytest.raises(error, match=said):
                await source.resolve(name_of(faulty, place), Access(username="u", password="p"))
        faulty.rule = lambda r: Fault(401, {"WWW-Authenticate": "Negotiate"})
        with pytest.raises(PermissionDenied, match="it offers negotiate"):
            await source.resolve(name_of(faulty, place))

    ask(check)


def test_a_push_that_is_cut_begins_anew(ask: Callable[..., Any], faulty: Proxy, place: Place) -> None:
    failed: list[Request] = []

    def rule(request: Request) -> Fault | None:
        if request.method == "PUT" and "/blobs/" in request.path and len(failed) < 2:
            failed.append(request)
            return Fault(503)
        return None

    faulty.rule = rule

    async def check(source: RegistrySource) -> None:
        target = await push_image(source, f"{faulty.address}/pushed/cut:1")
        assert (await source.resolve(f"{faulty.address}/pushed/cut:1")).target == target

    ask(check)
    assert len(failed) == 2


def test_cancelled_in_the_middle(ask: Callable[..., Any], faulty: Proxy, place: Place, settings: Settings) -> None:
    faulty.rule = on_blobs(Fault(cut=10, stall=True))

    async def check(source: RegistrySource) -> None:
        body = await source.fetch(name_of(faulty, place), layer_of(place))
        reading = asyncio.ensure_future(whole(body))
        await asyncio.sleep(0.05)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await body.aclose()

    ask(check, replace(settings, stall=60))
