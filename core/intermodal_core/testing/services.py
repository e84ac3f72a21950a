"""The conformance kit of services: subclass `ServiceKit`, give it a factory and a client, run pytest.

    class TestMine(ServiceKit):
        @pytest.fixture
        def factory(self):
            return lambda top: MyService(str(top / "mine.sock"))

        async def ask(self, top):                       # a client's question, and whether the answer is right
            reader, writer = await asyncio.open_unix_connection(str(top / "mine.sock"))
            ...

A second call of the factory with one directory stands for the next daemon. A test's name says which rule of
`intermodal_core.contracts.services` it holds to: `test_l3_...` is of [L3].
"""

# ruff: noqa: D102 - what a test holds to is the contract's rule that its name gives

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from intermodal_core.contracts.services import Service
from intermodal_core.testing.kit import Kit

__all__ = ["Factory", "ServiceKit"]

#: Makes the service of a daemon whose files are below a directory.
Factory = Callable[[Path], Service]


class ServiceKit(Kit):
    """The rules of the contract, each a test or several."""

    contracts = (Service,)
    #: Seconds in which it must begin, and then end.
    within = 10.0
    #: Seconds for which the loop may stand still.
    still = 0.2

    @pytest.fixture
    def factory(self) -> Factory:
        """Makes a service; to be overridden."""
        raise NotImplementedError("define the fixture `factory`")

    async def ask(self, top: Path) -> None:
        """Ask the service that runs below `top` as a client does. Raises when it is not answered as it should; to be overridden."""
        raise NotImplementedError("define the method `ask`")

    @pytest.fixture
    def top(self) -> Iterator[Path]:
        """The daemon's directory; its path is short, as those of sockets must be."""
        with tempfile.TemporaryDirectory(prefix="kit-") as top:
            yield Path(top)

    def test_l1_making_it_begins_nothing(self, factory: Factory, top: Path) -> None:
        async def body() -> None:
            before = _begun(top)
            service = factory(top)
            await asyncio.sleep(0)
            assert _begun(top) == before
            del service

        asyncio.run(body())

    def test_l2_the_loop_goes_on(self, factory: Factory, top: Path) -> None:
        async def body() -> None:
            service = await asyncio.to_thread(factory, top)
            longest = 0.0

            async def beat() -> None:
                nonlocal longest
                while True:
                    began = time.monotonic()
                    await asyncio.sleep(0.005)
                    longest = max(longest, time.monotonic() - began)

            await self._first(factory, top)  # what is imported at first use is not the service's own time
            beating = asyncio.create_task(beat())
            await asyncio.sleep(0.01)  # it beats
            async with asyncio.timeout(self.within), service:
                await self.ask(top)
            await asyncio.sleep(0.02)
            beating.cancel()
            assert longest < self.still

        asyncio.run(body())

    def test_l3_it_answers_once_it_is_entered(self, factory: Factory, top: Path) -> None:
        async def body(service: Service) -> None:
            for _ in range(3):
                await self.ask(top)
            await asyncio.gather(*(self.ask(top) for _ in range(20)))

        self._serving(factory, top, body)

    def test_l3_one_that_was_killed_is_not_in_the_way(self, factory: Factory, top: Path) -> None:
        killed = os.fork()
        if killed == 0:
            try:
                asyncio.run(self._enter_and_die(factory, top))
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == -9, "it could not be entered"

        async def body(service: Service) -> None:
            await self.ask(top)

        self._serving(factory, top, body)

    def test_l4_nothing_is_left(self, factory: Factory, top: Path) -> None:
        async def body() -> None:
            await self._first(factory, top)
            before = _begun(top)
            for _ in range(3):
                await self._first(factory, top)
                assert _begun(top) == before
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await self.ask(top)

        asyncio.run(body())

    def test_l4_a_client_that_stays_does_not_hold_it_up(self, factory: Factory, top: Path) -> None:
        async def body() -> None:
            await self._first(factory, top)
            before = _begun(top)
            service = await asyncio.to_thread(factory, top)
            await service.__aenter__()
            asking = [asyncio.create_task(self.ask(top)) for _ in range(8)]
            await asyncio.sleep(0)
            async with asyncio.timeout(self.within):
                await service.__aexit__(None, None, None)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            assert _begun(top) == before

        asyncio.run(body())

    async def _first(self, factory: Factory, top: Path) -> None:
        """A whole life."""
        async with asyncio.timeout(self.within):
            service = await asyncio.to_thread(factory, top)
            async with service:
                await self.ask(top)

    def _serving(self, factory: Factory, top: Path, body: Callable[[Service], Awaitable[None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(self.within):
                service = await asyncio.to_thread(factory, top)
                async with service:
                    await body(service)

        asyncio.run(main())

    async def _enter_and_die(self, factory: Factory, top: Path) -> None:
        service = factory(top)
        async with asyncio.timeout(self.within):
            await service.__aenter__()
        os.kill(os.getpid(), 9)


def _begun(top: Path) -> Any:
    """What a service can have begun: threads but the loop's own, tasks, descriptors, and sockets on disk."""
    threads = {thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}
    tasks = len(asyncio.all_tasks())
    sockets = sorted(str(path) for path in top.rglob("*") if path.is_socket())
    return threads, tasks, len(os.listdir("/proc/self/fd")), sockets
