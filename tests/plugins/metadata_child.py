"""What the crash tests of the metadata store have killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec
from intermodal_core.contracts.metadata import Table, Transaction
from intermodal_sqlite.store import Store


class Pair(msgspec.Struct, frozen=True):
    """Written twice in one transaction, under two names that must both be there or neither."""

    name: str
    side: str
    filler: bytes


PAIRS: Table[Pair] = Table("pairs", Pair, ("name", "side"), {"side": ("side",)})


def put_pair(tx: Transaction, name: str) -> None:
    tx.put(PAIRS, Pair(name, "left", os.urandom(3000)))
    tx.put(PAIRS, Pair(name, "right", os.urandom(3000)))


async def _write(store: Store, writer: int, most: int) -> None:
    for n in range(most):
        name = f"{writer}-{n}"
        await store.write(lambda tx, name=name: put_pair(tx, name))  # type: ignore[misc]
        os.write(1, f"{name}\n".encode())


async def _writers(store: Store) -> None:
    await asyncio.gather(*(_write(store, writer, 10_000) for writer in range(20)))


def write_until_killed() -> None:
    """Twenty writers, each telling what was promised to it."""
    store = Store(Path(sys.argv[1]))
    store.declare(PAIRS)
    asyncio.run(_writers(store))


def die_inside() -> None:
    """Killed in the middle of a transaction."""
    store = Store(Path(sys.argv[1]))
    store.declare(PAIRS)

    def fn(tx: Transaction) -> None:
        put_pair(tx, "second")
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(store.write(lambda tx: put_pair(tx, "first")))
    asyncio.run(store.write(fn))
