"""Attachments that could not be undone: tried again, ever more seldom, until it succeeds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec
from intermodal_core.background import Background
from intermodal_core.contracts.managers.store import Store
from intermodal_core.errors import IntermodalError

from intermodal_networks.tables import ATTACHMENTS, AttachmentRow

__all__ = ["Debts"]

log = logging.getLogger("intermodal.networks")

#: Seconds before the first and at most between two tries.
_FIRST, _LAST = 1.0, 300.0


class Debts:
    """`detach` undoes an attachment; rows in the state "owed" are those that it must undo still."""

    def __init__(
        self, store: Store, background: Background, detach: Callable[[AttachmentRow], Awaitable[None]]
    ) -> None:
        self._store = store
        self._background = background
        self._detach = detach
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def of(self, row: AttachmentRow, why: str) -> AttachmentRow:
        """The row as a debt, which is due after a while. Its namespace is not there to be worked in any more."""
        tries = row.tries + 1
        delay = min(_FIRST * 2 ** (tries - 1), _LAST)
        log.warning(
            "%s/%s is not out of the network %s (try %d): %s", row.namespace, row.container, row.network, tries, why
        )
        return msgspec.structs.replace(
            row,
            state="owed",
            attachment=msgspec.structs.replace(row.attachment, netns=""),
            error=why,
            tries=tries,
            retry_at=time.time_ns() + int(delay * 1e9),
        )

    def wake(self) -> None:
        """There may be new ones."""
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = self._background.begin(self._run())

    async def pay(self, row: AttachmentRow) -> bool:
        """Try once, now; whether it succeeded."""
        key = (row.namespace, row.container, row.network)
        try:
            await self._detach(row)
        except IntermodalError as error:
            again = self.of(row, error.message)
            await self._store.write(lambda tx: tx.put(ATTACHMENTS, again) if tx.get(ATTACHMENTS, *key) == row else None)
            return False
        await self._store.write(lambda tx: tx.delete(ATTACHMENTS, *key) if tx.get(ATTACHMENTS, *key) == row else None)
        return True

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            rows = await self._store.read(lambda tx: list(tx.scan(ATTACHMENTS)), long=True)
            owed = [row for row in rows if row.state == "owed"]
            if not owed:
                return
            due = min(row.retry_at for row in owed) - time.time_ns()
            if due > 0:
                try:
                    async with asyncio.timeout(due / 1e9):
                        await self._changed.wait()
                except TimeoutError:
                    pass
                continue
            for row in owed:
                if row.retry_at <= time.time_ns():
                    await self.pay(row)
