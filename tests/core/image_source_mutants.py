"""Image sources with one fault each, which the kit must find: run by test_kits.py, not collected by itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from intermodal_core.contracts.common import Descriptor
from intermodal_core.contracts.image_sources import Access, Host, Resolved
from intermodal_core.errors import FailedPrecondition, NotFound
from intermodal_core.spawner import Spawner
from intermodal_core.testing.image_sources import ImageSourceKit, Open
from intermodal_registry.settings import Settings
from intermodal_registry.source import RegistrySource

from tests.harness.registry import Registry, registry


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("served") / "registry") as served:
        yield served


@pytest.fixture(scope="session")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    yield spawner
    spawner.close()


class _Kit(ImageSourceKit):
    Mutant: type[RegistrySource] = RegistrySource
    capabilities = frozenset({"push"})
    within = 10.0

    @pytest.fixture(autouse=True)
    def named(self, served: Registry, request: pytest.FixtureRequest) -> None:
        """A repository for each mutant."""
        type(self).repository = f"{served.address}/kit/{type(self).__name__.lower()}"

    @pytest.fixture
    def opened(self, spawner: Spawner, tmp_path: Path) -> Open:
        settings = Settings(hosts=(tmp_path / "certs.d",), credentials=(tmp_path / "config.json",))
        return lambda: self.Mutant(settings, spawner)


class TestCorrect(_Kit):
    """No fault: nothing may fail."""

    within = 60.0


class TestI1(_Kit):
    class Mutant(RegistrySource):
        """Has one question under way, and forgets it for the next."""

        async def resolve(self, name: str, access: Access | None = None) -> Resolved:
            turn = self.__dict__["_turn"] = self.__dict__.get("_turn", 0) + 1
            resolved = await super().resolve(name, access)
            if turn != self.__dict__["_turn"]:
                raise FailedPrecondition("another question came between")
            return resolved


class TestI2(_Kit):
    class Mutant(RegistrySource):
        """Tells nothing of what it looked for."""

        async def resolve(self, name: str, access: Access | None = None) -> Resolved:
            try:
                return await super().resolve(name, access)
            except NotFound:
                raise NotFound("there is no such thing") from None


class TestI3(_Kit):
    class Mutant(RegistrySource):
        """Remembers what a name once pointed at."""

        async def resolve(self, name: str, access: Access | None = None) -> Resolved:
            known: dict[str, Resolved] = self.__dict__.setdefault("_known", {})
            if name not in known:
                known[name] = await super().resolve(name, access)
            return known[name]


class TestI4(_Kit):
    class Mutant(RegistrySource):
        """Reads to the end, however much was asked for."""

        async def fetch(
            self, name: str, target: Descriptor, offset: int = 0, length: int = -1, access: Access | None = None
        ) -> Any:
            return await super().fetch(name, target, offset, -1, access)


class _Padded:
    """A body with an empty piece."""

    ranges = True

    def __init__(self, body: Any) -> None:
        self._body = body
        self.host = body.host

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b""
        async for piece in self._body:
            yield piece

    async def aclose(self) -> None:
        await self._body.aclose()


class TestI9(_Kit):
    class Mutant(RegistrySource):
        """Begins with nothing."""

        async def fetch(
            self, name: str, target: Descriptor, offset: int = 0, length: int = -1, access: Access | None = None
        ) -> Any:
            return _Padded(await super().fetch(name, target, offset, length, access))


class _Keeping(_Padded):
    """A body that keeps what it has."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._body:
            yield piece

    async def aclose(self) -> None:
        os.dup(1)
        await super().aclose()


class TestI10(_Kit):
    class Mutant(RegistrySource):
        """Leaks a descriptor with every body."""

        async def fetch(
            self, name: str, target: Descriptor, offset: int = 0, length: int = -1, access: Access | None = None
        ) -> Any:
            return _Keeping(await super().fetch(name, target, offset, length, access))


class TestI5(_Kit):
    class Mutant(RegistrySource):
        """Says that it sent what was there."""

        async def push(
            self, name: str, target: Descriptor, content: int, access: Access | None = None, mount_from: str = ""
        ) -> bool:
            await super().push(name, target, content, access, mount_from)
            return True


class TestI6(_Kit):
    class Mutant(RegistrySource):
        """Shows the first tag."""

        async def tags(self, name: str, access: Access | None = None) -> list[str]:
            return (await super().tags(name, access))[:1]


class TestI6Error(_Kit):
    class Mutant(RegistrySource):
        """Takes a repository that is not there for an empty one."""

        async def tags(self, name: str, access: Access | None = None) -> list[str]:
            with suppress(NotFound):
                return await super().tags(name, access)
            return []


class TestI7(_Kit):
    class Mutant(RegistrySource):
        """Shows every kind, whatever was asked for."""

        async def referrers(
            self, name: str, digest: str, artifact_type: str = "", access: Access | None = None
        ) -> list[Descriptor]:
            return await super().referrers(name, digest, "", access)


class TestI8(_Kit):
    class Mutant(RegistrySource):
        """Shows the password."""

        async def explain(self, name: str, access: Access | None = None) -> list[Host]:
            hosts = await super().explain(name, access)
            await asyncio.sleep(0)
            return [msgspec.structs.replace(host, credentials=str(access and access.password)) for host in hosts]
