"""What the crash tests of operations have killed: `ACTION ROOT`, where ACTION is run, keep or recover.

The operation makes a directory, a file in it that learns its name on the way, and a mount; its result is a row.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
from intermodal_core.contracts.metadata import Table, Transaction
from intermodal_core.syscalls import mount, umount
from intermodal_operations import Operation, Runner, Step
from intermodal_sqlite.store import Store


class State(msgspec.Struct):
    """All that undo needs."""

    root: str
    name: str
    chosen: str = ""

    @property
    def directory(self) -> Path:
        return Path(self.root) / self.name


class Result(msgspec.Struct, frozen=True):
    """What is recorded."""

    name: str


RESULTS: Table[Result] = Table("results", Result, ("name",))


async def make_directory(state: State) -> None:
    state.directory.mkdir()


async def remove_directory(state: State) -> None:
    if state.directory.exists():
        state.directory.rmdir()


async def see_directory(state: State) -> bool:
    return state.directory.is_dir()


async def choose(state: State) -> None:
    state.chosen = "chosen-here"


async def make_file(state: State) -> None:
    (state.directory / state.chosen).touch()


async def remove_file(state: State) -> None:
    if state.chosen:
        (state.directory / state.chosen).unlink(missing_ok=True)


async def see_file(state: State) -> bool:
    return bool(state.chosen) and (state.directory / state.chosen).exists()


async def see_choice(state: State) -> bool:
    return bool(state.chosen)


async def make_mount(state: State) -> None:
    target = Path(state.root) / "mount"
    target.mkdir()
    mount("tmpfs", str(target), "tmpfs", 0, "size=64k")


async def remove_mount(state: State) -> None:
    target = Path(state.root) / "mount"
    if target.is_mount():
        umount(str(target))
    if target.exists():
        target.rmdir()


async def see_mount(state: State) -> bool:
    return (Path(state.root) / "mount").is_mount()


def finish(tx: Transaction, state: State) -> str:
    tx.put(RESULTS, Result(state.name))
    return state.name


STEPS = (
    Step("directory", make_directory, remove_directory, see_directory),
    Step("choose", choose, None, see_choice),
    Step("file", make_file, remove_file, see_file),
    Step("mount", make_mount, remove_mount, see_mount),
)

#: Undone after a crash.
MAKE = Operation("make", State, STEPS, finish=finish)

#: Finished after a crash, where all was done.
KEEP = Operation("keep", State, STEPS, forward=True, finish=finish)


async def _main(action: str, root: Path) -> None:
    store = Store(root / "m.db")
    store.declare(RESULTS)
    runner = Runner(store, "test")
    runner.register(MAKE, KEEP)
    if action == "recover":
        assert await runner.recover(10) == []
    else:
        kind = "keep" if action == "keep" else "make"
        assert await runner.run(kind, State(str(root), "thing")) == "thing"
    store.close()


def main() -> None:
    asyncio.run(_main(sys.argv[1], Path(sys.argv[2])))
