"""Metadata stores with one fault each, which the kit must find: run by test_metadata_kit.py, not collected by itself."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from intermodal_core.contracts.metadata import Table, Transaction
from intermodal_core.errors import Aborted, DataLoss, IntermodalError, Unavailable
from intermodal_core.testing.metadata import Factory, MetadataStoreKit
from intermodal_sqlite import store as store_module
from intermodal_sqlite.schema import Layout
from intermodal_sqlite.store import Store

T = TypeVar("T")


class _Wrapped:
    """A transaction that passes all on; a fault overrides one method."""

    def __init__(self, tx: Any) -> None:
        self.tx = tx

    def get(self, table: Table[Any], *key: Any) -> Any:
        return self.tx.get(table, *key)

    def put(self, table: Table[Any], record: Any) -> None:
        self.tx.put(table, record)

    def delete(self, table: Table[Any], *key: Any) -> bool:
        return bool(self.tx.delete(table, *key))

    def scan(self, table: Table[Any], *prefix: Any, index: str = "") -> Iterator[Any]:
        found: Iterator[Any] = self.tx.scan(table, *prefix, index=index)
        return found

    def count(self, table: Table[Any], *prefix: Any, index: str = "") -> int:
        return int(self.tx.count(table, *prefix, index=index))


class _Wrapping(Store):
    Tx: type[_Wrapped] = _Wrapped

    async def read(self, fn: Callable[[Transaction], T], *, long: bool = False) -> T:
        return await super().read(lambda tx: fn(self.Tx(tx)), long=long)

    async def write(self, fn: Callable[[Transaction], T]) -> T:
        return await super().write(lambda tx: fn(self.Tx(tx)))


class _Kit(MetadataStoreKit):
    Mutant: type[Store] = Store

    @pytest.fixture
    def factory(self) -> Factory:
        return lambda directory: self.Mutant(directory / "m.db")


class TestCorrect(_Kit):
    """No fault: nothing may fail."""


class TestM01(_Kit):
    class Mutant(_Wrapping):
        """Gives the nearest record."""

        class Tx(_Wrapped):
            def get(self, table: Table[Any], *key: Any) -> Any:
                return self.tx.get(table, *key) or next(self.tx.scan(table, *key[:1]), None)


class TestM02(_Kit):
    class Mutant(_Wrapping):
        """Keeps the first."""

        class Tx(_Wrapped):
            def put(self, table: Table[Any], record: Any) -> None:
                if self.tx.get(table, *(getattr(record, field) for field in table.key)) is None:
                    self.tx.put(table, record)


class TestM03(_Kit):
    class Mutant(_Wrapping):
        """Says that all was there."""

        class Tx(_Wrapped):
            def delete(self, table: Table[Any], *key: Any) -> bool:
                self.tx.delete(table, *key)
                return True


class TestM04(_Kit):
    class Mutant(_Wrapping):
        """Sorts by key whatever the index."""

        class Tx(_Wrapped):
            def scan(self, table: Table[Any], *prefix: Any, index: str = "") -> Iterator[Any]:
                found = self.tx.scan(table, *prefix, index=index)
                return iter(sorted(found, key=lambda record: [getattr(record, field) for field in table.key]))


class TestM05(_Kit):
    class Mutant(_Wrapping):
        """Counts by the first value of the prefix."""

        class Tx(_Wrapped):
            def count(self, table: Table[Any], *prefix: Any, index: str = "") -> int:
                return int(self.tx.count(table, *prefix[:1], index=index))


class TestM06(_Kit):
    class Mutant(Store):
        """Commits what an exception left."""

        async def write(self, fn: Callable[[Transaction], T]) -> T:
            def careless(tx: Transaction) -> tuple[Any, BaseException | None]:
                try:
                    return fn(tx), None
                except BaseException as error:
                    return None, error

            result, error = await super().write(careless)
            if error is not None:
                raise error
            return result  # type: ignore[no-any-return]


class TestM06Batch(_Kit):
    class Mutant(Store):
        """Lets one that raises take the others with it."""

        def _run(self, job: Any) -> None:
            super()._run(job)
            if job.error is not None:
                raise Aborted("all or none")


class TestM07(_Kit):
    class Mutant(_Wrapping):
        """Remembers what it read."""

        class Tx(_Wrapped):
            known: dict[Any, Any] = {}  # noqa: RUF012 - shared is the fault

            def get(self, table: Table[Any], *key: Any) -> Any:
                return self.known.setdefault(key, self.tx.get(table, *key))


class TestM08(_Kit):
    class Mutant(Store):
        """Stops writers while it reads."""

        def _read(self, fn: Callable[[Transaction], T]) -> T:
            with self._writing:
                return super()._read(fn)


class TestM09(_Kit):
    class Mutant(Store):
        """Lets the last declaration win."""

        def declare(self, *tables: Table[Any]) -> None:
            for table in tables:
                self._layouts.pop(table.name, None)
            super().declare(*tables)


class TestM09Version(_Kit):
    class Mutant(Store):
        """Runs on what a newer program wrote."""

        def declare(self, *tables: Table[Any]) -> None:
            try:
                super().declare(*tables)
            except IntermodalError as error:
                if "newer program" not in str(error):
                    raise
                self._layouts.update({table.name: Layout(table) for table in tables})


class TestM10(_Kit):
    class Mutant(Store):
        """Swallows what a read raises."""

        async def read(self, fn: Callable[[Transaction], T], *, long: bool = False) -> T:
            try:
                return await super().read(fn, long=long)
            except ZeroDivisionError:
                return None  # type: ignore[return-value]


class TestM11(_Kit):
    class Mutant(Store):
        """Gives up with whoever gives up."""

        async def write(self, fn: Callable[[Transaction], T]) -> T:
            try:
                return await super().write(fn)
            except asyncio.CancelledError:
                self.close()
                raise


class TestM12(_Kit):
    class Mutant(Store):
        """Drops what is queued."""

        def close(self) -> None:
            dropped = []
            while True:
                try:
                    job = self._writes.get_nowait()
                except queue.Empty:
                    break
                if job is not None:
                    job.error = Unavailable("closed")
                    dropped.append(job)
            store_module._deliver(dropped)
            super().close()


class TestM13(_Kit):
    class Mutant(_Wrapping):
        """Stops at the first record that it cannot read."""

        class Tx(_Wrapped):
            def scan(self, table: Table[Any], *prefix: Any, index: str = "") -> Iterator[Any]:
                for record in self.tx.scan(table, *prefix, index=index):
                    if self.tx.unreadable:
                        raise DataLoss("unreadable")
                    yield record
                if self.tx.unreadable:
                    raise DataLoss("unreadable")


class TestM14(_Kit):
    class Mutant(Store):
        """Finds fault with everything."""

        async def check(self) -> list[str]:
            return ["it could be better"]


class TestM15(_Kit):
    class Mutant(Store):
        """Begins to be rebuilt when it is told that it was."""

        def rebuilt(self) -> None:
            self.rebuilt_from = "a copy"
