"""A registry with an image, and a source to ask it with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from intermodal_core.spawner import Spawner
from intermodal_registry.settings import Settings
from intermodal_registry.source import RegistrySource

from tests.harness.faults import Proxy, proxy
from tests.harness.images import Built, Entry, layer_tar, write_image
from tests.harness.registry import Registry, push_archive, registry

T = TypeVar("T")
Asks = Callable[[Callable[[RegistrySource], Awaitable[T]]], T]


@dataclass(frozen=True)
class Place:
    """A registry that holds `built` as `path`:1."""

    registry: Registry
    built: Built
    path: str


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    top = tmp_path_factory.mktemp("registry")
    data = b"".join(number.to_bytes(4, "big") for number in range(600_000))
    built = write_image(top / "image.tar", [layer_tar([Entry("data", data)])], compression="none")
    with registry(top / "served") as served:
        push_archive(built.path, f"{served.address}/team/image:1")
        yield Place(served, built, "team/image")


@pytest.fixture
def faulty(place: Place) -> Iterator[Proxy]:
    with proxy(place.registry.address) as faulty:
        yield faulty


@pytest.fixture(scope="session")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    yield spawner
    spawner.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        hosts=(tmp_path / "certs.d",),
        credentials=(tmp_path / "docker/config.json",),
        attempts=3,
        pause=0.01,
        stall=0.5,
        window=0.4,
        minimum_rate=1000,
    )


@pytest.fixture
def ask(settings: Settings, spawner: Spawner) -> Callable[..., Any]:
    """Run `work(source)` to its end."""

    def ask(work: Callable[[RegistrySource], Awaitable[Any]], with_settings: Settings | None = None) -> Any:
        async def run() -> Any:
            async with RegistrySource(with_settings or settings, spawner) as source:
                return await asyncio.wait_for(work(source), 60)

        return asyncio.run(run())

    return ask
