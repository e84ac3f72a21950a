"""Methods about what is kept on disk: collecting what nobody needs, and saying why the rest stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from intermodal_core.contracts.managers.store import Store

from intermodal_control.methods.room import Nothing, Params, Room
from intermodal_control.server import Call, Method

__all__ = ["StorageMethods"]


class Collect(Params):
    """`storage.collect`."""

    dry_run: bool = False


class Explain(Params):
    """`storage.explain`: a digest, name or key, or its beginning. `all_namespaces`: else only the call's own."""

    key: str
    all_namespaces: bool = False


class Check(Params):
    """`storage.check`. `deep`: every blob is read."""

    deep: bool = False


class StorageMethods(Room):
    """`storage.*`."""

    def table(self) -> dict[str, Method]:
        """The rows."""
        return {
            "storage.collect": Method(self._collect),
            "storage.explain": Method(self._explain, cancel=True),
            "storage.usage": Method(self._usage, cancel=True),
            "storage.check": Method(self._check, cancel=True),
            "storage.rebuild": Method(self._rebuild),
        }

    @property
    def _store(self) -> Store:
        store: Store = self._context.get("managers", "store")
        return store

    async def _collect(self, call: Call) -> Any:
        return await self._store.collector.collect(dry_run=call.params(Collect).dry_run)

    async def _explain(self, call: Call) -> Any:
        params = call.params(Explain)
        return await self._store.collector.explain(params.key, "" if params.all_namespaces else call.scope.named)

    async def _usage(self, call: Call) -> Any:
        call.params(Nothing)
        return await self._store.collector.usage()

    async def _check(self, call: Call) -> Any:
        collector = self._store.collector
        found = await collector.check(deep=call.params(Check).deep)
        return {"findings": found, "rebuilt": collector.rebuilt}

    async def _rebuild(self, call: Call) -> Any:
        """Ask the metadata for it: it works without a manager, for metadata that cannot be read is why it is called."""
        call.params(Nothing)
        asked = []
        for record in self._registry.records("metadata"):
            directory = Path(self._registry.config.core.root) / record.kind / record.name
            if directory.is_dir():
                (directory / "rebuild").touch(mode=0o600)
                asked.append(record.id)
        return asked
