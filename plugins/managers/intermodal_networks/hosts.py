"""Who is called what in whose hosts file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from intermodal_core.background import Background
from intermodal_core.contracts.managers.store import Store

from intermodal_networks.files import Files, hosts_text
from intermodal_networks.tables import ATTACHMENTS, AttachmentRow

__all__ = ["Hosts"]

#: Seconds for which changes are gathered before everybody's files are written.
_GATHER = 0.02

Key = tuple[str, str]


class Hosts:
    """Keeps the hosts files of a namespace's containers as the attachments are."""

    def __init__(self, store: Store, files: Files, background: Background) -> None:
        self._store = store
        self._files = files
        self._background = background
        self._dirty: set[str] = set()
        self._written: dict[Key, str] = {}

    @staticmethod
    def first() -> str:
        """The file of a container that is in no network yet."""
        return hosts_text(())

    async def write(self, container: Key) -> None:
        """One container's file, now."""
        texts = _texts(await self._rows(container[0]), {container})
        await asyncio.to_thread(self._write, texts)

    def changed(self, namespace: str) -> None:
        """All files of a namespace, soon."""
        if not self._dirty:
            self._background.begin(self._later())
        self._dirty.add(namespace)

    async def _later(self) -> None:
        await asyncio.sleep(_GATHER)
        dirty, self._dirty = self._dirty, set()
        for namespace in dirty:
            texts = _texts(await self._rows(namespace), None)
            for key in [key for key in self._written if key[0] == namespace and key not in texts]:
                del self._written[key]
            await asyncio.to_thread(self._write, texts)

    async def _rows(self, namespace: str) -> list[AttachmentRow]:
        return await self._store.read(lambda tx: list(tx.scan(ATTACHMENTS, namespace)), long=True)

    def _write(self, texts: dict[Key, str]) -> None:
        for key, text in texts.items():
            if self._written.get(key) != text:
                self._files.rewrite(*key, "hosts", text)
                self._written[key] = text


def _texts(rows: Iterable[AttachmentRow], wanted: set[Key] | None) -> dict[Key, str]:
    """The hosts files of containers: their own addresses first, then those of all in their networks."""
    networks: dict[str, list[AttachmentRow]] = {}
    members: dict[Key, list[AttachmentRow]] = {}
    for row in rows:
        if row.state == "attached":
            networks.setdefault(row.network, []).append(row)
            members.setdefault((row.namespace, row.container), []).append(row)
    texts = {}
    for key, own in members.items():
        if wanted is not None and key not in wanted:
            continue
        others = [row for mine in own for row in networks[mine.network] if row.container != key[1]]
        entries = [(address, row.names) for row in (*own, *others) for address in row.addresses]
        texts[key] = hosts_text(entries)
    return texts
