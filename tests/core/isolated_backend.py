"""A contract with everything that crosses to another process, and a plugin that does with it what plugins do."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
from intermodal_core.contracts.common import Descriptor, Fd, Mount
from intermodal_core.errors import NotFound, PluginSkipped
from intermodal_core.plugin import Context, Plugin


class Helper(Protocol):
    def double(self, number: int) -> int: ...
    def socket(self, family: int) -> socket.socket: ...
    def refuse(self) -> None: ...


class Body(Protocol):
    host: str

    def __aiter__(self) -> AsyncIterator[bytes]: ...
    async def aclose(self) -> None: ...


class Backend(Protocol):
    def with_help(self, number: int, helper: Helper) -> tuple[int, int, str]: ...
    async def body(self, pieces: int) -> Body: ...
    def bodies(self) -> int: ...
    def echo(
        self, descriptor: Descriptor, mounts: tuple[Mount, ...] = (), labels: Mapping[str, str] | None = None
    ) -> tuple[Descriptor, tuple[Mount, ...], dict[str, str] | None]: ...
    def size(self, data: bytes) -> int: ...
    def noise(self, size: int) -> bytes: ...
    def read(self, fd: Fd) -> bytes: ...
    def open(self, path: str) -> Fd: ...
    def which(self, fds: tuple[Fd, Fd, Fd]) -> list[bool]: ...
    def count(self, to: int) -> Iterator[int]: ...
    def fails(self, how: str) -> None: ...
    def pid(self) -> int: ...
    def hang(self, seconds: float, stubborn: bool = False) -> str: ...
    def leak(self, descriptors: int) -> None: ...
    def where(self) -> tuple[str, str, str]: ...
    def tell(self, topic: str) -> int: ...
    def command(self) -> bytes: ...
    def fork(self) -> int: ...
    def end(self, status: int) -> None: ...
    async def turn(self, seconds: float) -> str: ...
    async def block(self, seconds: float) -> None: ...
    async def other(self, name: str) -> int: ...
    def close(self) -> None: ...


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    colour: Annotated[str, msgspec.Meta(description="A colour.")] = "grey"
    trouble: Annotated[str, msgspec.Meta(description="What goes wrong.")] = ""


class Pieces:
    def __init__(self, sample: Sample, count: int) -> None:
        self.host = "https://there"
        self.sample = sample
        self.count = count
        self.closed = False
        sample.reading += 1

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for number in range(self.count):
            await asyncio.sleep(0)
            if number == 99:
                raise NotFound("the hundredth piece is gone")
            yield b"%d," % number * 1000
        await self.aclose()

    async def aclose(self) -> None:
        self.sample.reading -= not self.closed
        self.closed = True


class Sample:
    def with_help(self, number: int, helper: Helper) -> tuple[int, int, str]:
        with helper.socket(socket.AF_UNIX) as sock:
            family = int(sock.family)
        try:
            helper.refuse()
        except NotFound as error:
            return helper.double(helper.double(number)), family, str(error)
        raise AssertionError

    async def body(self, pieces: int) -> Body:
        return Pieces(self, pieces)

    def bodies(self) -> int:
        return self.reading

    def __init__(self, context: Context[Config]) -> None:
        self.context = context
        self.leaked: list[Any] = []
        self.reading = 0

    def echo(
        self, descriptor: Descriptor, mounts: tuple[Mount, ...] = (), labels: Mapping[str, str] | None = None
    ) -> Any:
        assert isinstance(descriptor, Descriptor)
        assert all(isinstance(mount, Mount) for mount in mounts)
        return descriptor, mounts, labels

    def size(self, data: bytes) -> int:
        return len(data)

    def noise(self, size: int) -> bytes:
        return b"n" * size

    def read(self, fd: int) -> bytes:
        return os.read(fd, 100)

    def open(self, path: str) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def which(self, fds: tuple[int, int, int]) -> list[bool]:
        return [fd >= 0 and os.fstat(fd) is not None for fd in fds]

    def count(self, to: int) -> Iterator[int]:
        yield from range(to)

    def fails(self, how: str) -> None:
        if how == "not found":
            raise NotFound("there is no such thing; make one")
        if how == "os":
            Path("/no/such/file").read_text()
        if how == "exit":
            raise SystemExit(3)
        raise KeyError(how)

    def pid(self) -> int:
        return os.getpid()

    def hang(self, seconds: float, stubborn: bool = False) -> str:
        if stubborn:  # holds the interpreter's lock, so that nothing in this process runs
            ctypes.PyDLL(None).sleep(int(seconds))
        else:
            time.sleep(seconds)
        return "late"

    def leak(self, descriptors: int) -> None:
        for _ in range(descriptors):
            self.leaked.append(os.open("/dev/null", os.O_RDONLY))

    def where(self) -> tuple[str, str, str]:
        self.context.log.warning("said so")
        return str(self.context.root_dir()), str(self.context.state_dir()), self.context.config.colour

    def tell(self, topic: str) -> int:
        return self.context.events.publish("default", topic, "sample", b"data").sequence

    def command(self) -> bytes:
        return self.context.spawner.run(["/bin/echo", "spawned"]).stdout

    def fork(self) -> int:
        if (child := os.fork()) == 0:
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def end(self, status: int) -> None:
        subprocess.Popen(["/bin/sleep", "600"]) if status == 99 else None
        os._exit(status)

    async def turn(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "turned"

    async def block(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - the mistake that is meant

    async def other(self, name: str) -> int:
        return await self.context.get("backends", name).size(b"abc")  # type: ignore[no-any-return]

    def close(self) -> None:
        (self.context.root_dir() / "closed").write_text("")


def make(context: Context[Config]) -> Sample:
    trouble = context.config.trouble
    if trouble == "skip":
        raise PluginSkipped("there is no such machine", "buy one")
    if trouble == "die":
        os._exit(5)
    if trouble == "later" and (context.root_dir() / "once").exists():
        raise ValueError("not a second time")
    (context.root_dir() / "once").write_text("")
    context.exports["root"] = str(context.root)
    return Sample(context)


plugin = Plugin(make, config=Config, capabilities=("sample",))
