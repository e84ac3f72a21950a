"""Conformance kit of metadata stores.

Subclass and say how a store is made; each test names the rule of `intermodal_core.contracts.metadata` that it holds the
store to:

    class TestMine(MetadataStoreKit):
        @pytest.fixture
        def factory(self):
            return lambda directory: MyStore(directory / "meta.db")
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intermodal_core.contracts.metadata import MetadataStore, Table, Transaction
from intermodal_core.errors import FailedPrecondition, Internal, InvalidArgument, Unavailable
from intermodal_core.testing.kit import Kit

__all__ = ["Factory", "MetadataStoreKit", "Thing"]

T = TypeVar("T")
R = TypeVar("R", bound=msgspec.Struct)

#: Opens the store below a directory, making it where there is none. A second call with one directory stands for a
#: restart; the earlier store was closed, unless the test says otherwise.
Factory = Callable[[Path], MetadataStore]


#: Examples of one test may share a store: each begins by emptying it. Several subclasses of the kit run one test.
_SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]


class Thing(msgspec.Struct, frozen=True):
    """A record with what records have: text, numbers, bytes, a mapping."""

    space: str
    name: str
    color: str = ""
    size: int = 0
    labels: dict[str, str] = {}
    blob: bytes = b""


THINGS: Table[Thing] = Table("things", Thing, ("space", "name"), {"color": ("space", "color"), "size": ("size",)})


class Odd(msgspec.Struct, frozen=True):
    """A record whose key is of another type than text."""

    number: int
    raw: bytes


ODDS: Table[Odd] = Table("odds", Odd, ("number", "raw"))


class MetadataStoreKit(Kit):
    """The tests; override `factory`."""

    contracts = (MetadataStore, Transaction)
    instances = ("store",)

    @pytest.fixture
    def factory(self) -> Factory:
        """How a store is made; to be overridden."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, factory: Factory, tmp_path: Path) -> Iterator[MetadataStore]:
        """A new store that knows the kit's tables."""
        store = factory(tmp_path)
        store.declare(THINGS, ODDS)
        yield store
        store.close()

    def test_m1_get(self, store: MetadataStore) -> None:
        """[M1] The record of that key, or None."""
        thing = Thing("a", "x", "red", 7, {"k": "v"}, b"\0\xff")
        _write(store, lambda tx: tx.put(THINGS, thing))
        assert _read(store, lambda tx: tx.get(THINGS, "a", "x")) == thing
        assert _read(store, lambda tx: tx.get(THINGS, "a", "y")) is None
        assert _read(store, lambda tx: tx.get(THINGS, "A", "x")) is None

    def test_m1_key_of_another_length(self, store: MetadataStore) -> None:
        """[M1] A key has all its fields."""
        with pytest.raises(InvalidArgument):
            _read(store, lambda tx: tx.get(THINGS, "a"))

    def test_m2_put_replaces(self, store: MetadataStore) -> None:
        """[M2] By key, in the indexes too."""
        _write(store, lambda tx: tx.put(THINGS, Thing("a", "x", "red")))
        _write(store, lambda tx: tx.put(THINGS, Thing("a", "x", "blue")))
        assert _scan(store, "a", "red", index="color") == []
        assert _scan(store, "a", "blue", index="color") == ["x"]
        assert _scan(store) == ["x"]

    def test_m2_m3_a_read_changes_nothing(self, store: MetadataStore) -> None:
        """[M2], [M3] in a read transaction."""
        _write(store, lambda tx: tx.put(THINGS, Thing("a", "x")))
        with pytest.raises(FailedPrecondition):
            _read(store, lambda tx: tx.put(THINGS, Thing("a", "y")))
        with pytest.raises(FailedPrecondition):
            _read(store, lambda tx: tx.delete(THINGS, "a", "x"))
        assert _scan(store) == ["x"]

    def test_m2_refused_records(self, store: MetadataStore) -> None:
        """[M2] What has no place in the table is refused, and nothing of the transaction stays."""

        class Other(msgspec.Struct):
            space: str = "a"
            name: str = "b"

        for wrong in (Other(), Thing("a", None), Thing("a", "b", size=1 << 70), Thing("a", "\ud800")):  # type: ignore[arg-type]

            def fn(tx: Transaction, wrong: Any = wrong) -> None:
                tx.put(THINGS, Thing("a", "first"))
                tx.put(THINGS, wrong)

            with pytest.raises(InvalidArgument):
                _write(store, fn)
        assert _scan(store) == []

    def test_m3_delete(self, store: MetadataStore) -> None:
        """[M3] Whether it was there."""
        _write(store, lambda tx: tx.put(THINGS, Thing("a", "x", "red")))
        assert _write(store, lambda tx: tx.delete(THINGS, "a", "x")) is True
        assert _write(store, lambda tx: tx.delete(THINGS, "a", "x")) is False
        assert _scan(store, "a", index="color") == []

    def test_m4_scan_by_key_and_index(self, store: MetadataStore) -> None:
        """[M4] By prefix, in order."""
        _fill(store)
        assert _scan(store) == ["x", "y", "z", "w"]
        assert _scan(store, "a") == ["x", "y", "z"]
        assert _scan(store, "a", "y") == ["y"]
        assert _scan(store, "c") == []
        assert _scan(store, "a", index="color") == ["y", "x", "z"]
        assert _scan(store, "a", "red", index="color") == ["x", "z"]
        assert _scan(store, index="size") == ["w", "z", "x", "y"]
        assert _scan(store, 10, index="size") == ["x"]

    def test_m4_unknown_index(self, store: MetadataStore) -> None:
        """[M4] An index that was not declared, a prefix longer than the key."""
        with pytest.raises(InvalidArgument):
            _scan(store, index="labels")
        with pytest.raises(InvalidArgument):
            _scan(store, "a", "b", "c")

    def test_m4_order_of_integers_and_bytes(self, store: MetadataStore) -> None:
        """[M4] Integers by value, bytes by memcmp."""
        odds = [Odd(number, raw) for number in (-3, 0, 2, 10, 1 << 40) for raw in (b"", b"\0", b"a", b"a\0", b"\xff")]
        _write(store, _put_all(ODDS, odds[::-1]))
        assert _read(store, lambda tx: list(tx.scan(ODDS))) == odds
        assert _read(store, lambda tx: list(tx.scan(ODDS, 2))) == odds[10:15]

    def test_m4_own_writes(self, store: MetadataStore) -> None:
        """[M4] A scan sees what its transaction wrote before, and nothing written after it began."""
        _fill(store)

        def fn(tx: Transaction) -> list[str]:
            tx.put(THINGS, Thing("a", "new"))
            tx.delete(THINGS, "a", "x")
            return [thing.name for thing in tx.scan(THINGS, "a")]

        assert _write(store, fn) == ["new", "y", "z"]

    def test_m4_an_unfinished_scan_holds_nothing(self, store: MetadataStore) -> None:
        """[M4], [M7] A scan left unfinished and kept neither gives records later nor keeps the next read in the past."""
        _fill(store)
        kept: list[Iterator[Thing]] = []

        def fn(tx: Transaction) -> None:
            scan = tx.scan(THINGS)
            next(scan)
            kept.append(scan)

        _read(store, fn)
        _write(store, lambda tx: tx.put(THINGS, Thing("a", "later")))
        assert "later" in _scan(store, "a")
        with pytest.raises(Exception):  # noqa: B017, PT011 - any; it must not give records
            next(kept[0])

    def test_m5_count(self, store: MetadataStore) -> None:
        """[M5] As many as scan gives."""
        _fill(store)
        for prefix, index in (((), ""), (("a",), ""), (("a", "red"), "color"), ((10,), "size"), (("no",), "")):
            counted = _read(store, lambda tx, p=prefix, i=index: tx.count(THINGS, *p, index=i))  # type: ignore[misc]
            assert counted == len(_scan(store, *prefix, index=index))

    def test_m6_an_exception_undoes_all(self, store: MetadataStore) -> None:
        """[M6] Whole, and it is raised."""

        def fn(tx: Transaction) -> None:
            tx.put(THINGS, Thing("a", "x"))
            tx.put(THINGS, Thing("a", "y"))
            raise ZeroDivisionError("mine")

        with pytest.raises(ZeroDivisionError, match="mine"):
            _write(store, fn)
        assert _scan(store) == []

    def test_m6_others_are_not_affected(self, store: MetadataStore) -> None:
        """[M6] Of a hundred at once those that raise undo themselves alone."""

        def put(n: int) -> Callable[[Transaction], int]:
            def fn(tx: Transaction) -> int:
                tx.put(THINGS, Thing("a", f"{n:03}"))
                if n % 3 == 0:
                    raise KeyError(n)
                return n

            return fn

        async def main() -> list[int | BaseException]:
            return await asyncio.gather(*(store.write(put(n)) for n in range(100)), return_exceptions=True)

        for n, outcome in enumerate(_run(main())):
            assert isinstance(outcome, KeyError) if n % 3 == 0 else outcome == n
        assert _scan(store) == [f"{n:03}" for n in range(100) if n % 3]

    def test_m6_durable(self, factory: Factory, store: MetadataStore, tmp_path: Path) -> None:
        """[M6] What returned is there for the next process, though the first never closed."""
        _write(store, lambda tx: tx.put(THINGS, Thing("a", "x")))
        again = factory(tmp_path)
        again.declare(THINGS)
        assert _scan(again) == ["x"]
        again.close()

    def test_m6_stop_iteration(self, store: MetadataStore) -> None:
        """[M6] `next` of an empty scan does not hang the caller."""
        for do in (_write, _read):
            with pytest.raises((Internal, RuntimeError)):
                do(store, lambda tx: next(tx.scan(THINGS)))

    @pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError])
    def test_m6_what_would_end_the_loop(self, store: MetadataStore, kind: type[BaseException]) -> None:
        """[M6] It is undone and told as a defect; the store goes on."""

        def fn(tx: Transaction) -> None:
            tx.put(THINGS, Thing("a", "x"))
            raise kind

        with pytest.raises(Internal):
            _write(store, fn)
        assert _scan(store) == []

    def test_m7_writes_one_after_the_other(self, store: MetadataStore) -> None:
        """[M7] No increment is lost, and each sees the ones before."""
        _write(store, lambda tx: tx.put(THINGS, Thing("a", "n")))

        def add(tx: Transaction) -> int:
            thing = tx.get(THINGS, "a", "n")
            assert thing is not None
            tx.put(THINGS, msgspec.structs.replace(thing, size=thing.size + 1))
            return thing.size + 1

        async def main() -> list[int]:
            return await asyncio.gather(*(store.write(add) for _ in range(200)))

        assert _run(main()) == list(range(1, 201))

    @pytest.mark.parametrize("long", [False, True])
    def test_m7_a_read_sees_what_returned(self, store: MetadataStore, long: bool) -> None:
        """[M7] At once."""

        async def main() -> None:
            for n in range(50):
                await store.write(lambda tx, n=n: tx.put(THINGS, Thing("a", "n", size=n)))  # type: ignore[misc]
                thing = await store.read(lambda tx: tx.get(THINGS, "a", "n"), long=long)
                assert thing is not None
                assert thing.size == n

        _run(main())

    def test_m8_nobody_waits_for_a_reader(self, store: MetadataStore) -> None:
        """[M8], [M10] While a long read is under way, writes and short reads pass; it keeps its view."""
        import threading

        begun, go = threading.Event(), threading.Event()

        def slow(tx: Transaction) -> tuple[int, int]:
            before = tx.count(THINGS)
            begun.set()
            assert go.wait(5)
            return before, tx.count(THINGS)

        async def main() -> tuple[int, int]:
            reading = asyncio.create_task(store.read(slow, long=True))
            await asyncio.to_thread(begun.wait, 5)
            await store.write(lambda tx: tx.put(THINGS, Thing("a", "x")))
            assert await store.read(lambda tx: tx.count(THINGS)) == 1
            go.set()
            return await reading

        assert _run(main()) == (0, 0)

    def test_m9_undeclared(self, store: MetadataStore) -> None:
        """[M9] A table is declared before it is used."""
        with pytest.raises(FailedPrecondition):
            _read(store, lambda tx: tx.get(Table("others", Thing, ("name",)), "x"))

    def test_m9_declared_twice(self, store: MetadataStore) -> None:
        """[M9] Alike: fine. Otherwise: refused."""
        store.declare(THINGS)
        store.declare(Table("things", Thing, ("space", "name"), dict(THINGS.indexes)))
        with pytest.raises(InvalidArgument):
            store.declare(Table("things", Thing, ("name",)))
        with pytest.raises(InvalidArgument):
            store.declare(Table("things2", Thing, ("no_field",)))

    def test_m9_migration(self, factory: Factory, tmp_path: Path) -> None:
        """[M9] Records of version 1 become those of version 3, in two steps; the indexes follow."""

        class Old(msgspec.Struct):
            name: str
            tint: str

        class New(msgspec.Struct):
            name: str
            color: str
            size: int

        def rename(plain: dict[str, object]) -> dict[str, object]:
            return {"name": plain["name"], "color": plain["tint"]}

        def measure(plain: dict[str, object]) -> dict[str, object]:
            return {**plain, "size": len(str(plain["color"]))}

        old: Table[Old] = Table("t", Old, ("name",))
        new: Table[New] = Table("t", New, ("name",), {"size": ("size",)}, (rename, measure))
        store = factory(tmp_path)
        store.declare(old)
        _write(store, _put_all(old, [Old("a", "blue"), Old("b", "red")]))
        store.close()
        store = factory(tmp_path)
        store.declare(new)
        assert _read(store, lambda tx: list(tx.scan(new, index="size"))) == [New("b", "red", 3), New("a", "blue", 4)]
        store.close()
        store = factory(tmp_path)
        with pytest.raises(FailedPrecondition, match=r"version 3.*version 1"):
            store.declare(old)
        store.close()

    def test_m9_a_failing_migration_changes_nothing(self, factory: Factory, tmp_path: Path) -> None:
        """[M9] The old program can go on."""
        store = factory(tmp_path)
        store.declare(THINGS)
        _fill(store)
        store.close()
        store = factory(tmp_path)

        def broken(plain: dict[str, object]) -> dict[str, object]:
            return {} if plain["name"] == "z" else plain

        with pytest.raises(Internal):
            store.declare(Table("things", Thing, THINGS.key, THINGS.indexes, (broken,)))
        store.close()
        store = factory(tmp_path)
        store.declare(THINGS)
        assert _scan(store) == ["x", "y", "z", "w"]
        store.close()

    def test_m9_new_field_and_index(self, factory: Factory, tmp_path: Path) -> None:
        """[M9] A field with a default, and an index on it, need no new version."""

        class Small(msgspec.Struct):
            name: str

        class Grown(msgspec.Struct):
            name: str
            kind: str = "plain"

        small: Table[Small] = Table("t", Small, ("name",))
        grown: Table[Grown] = Table("t", Grown, ("name",), {"kind": ("kind",)})
        store = factory(tmp_path)
        store.declare(small)
        _write(store, lambda tx: tx.put(small, Small("a")))
        store.close()
        store = factory(tmp_path)
        store.declare(grown)
        assert _read(store, lambda tx: list(tx.scan(grown, "plain", index="kind"))) == [Grown("a")]
        store.close()

    def test_m10_errors_of_a_read(self, store: MetadataStore) -> None:
        """[M10] What `fn` raises is raised, and the store goes on."""
        for long in (False, True):
            with pytest.raises(ZeroDivisionError):
                _run(store.read(lambda tx: 1 // 0, long=long))
        assert _scan(store) == []

    def test_m10_read_within_a_read(self, store: MetadataStore) -> None:
        """[M10] Two views at once on one thread."""
        _fill(store)

        async def main() -> int:
            counts = await asyncio.gather(
                *(store.read(lambda tx: tx.count(THINGS), long=n % 2 == 0) for n in range(20))
            )
            assert set(counts) == {4}
            return len(counts)

        assert _run(main()) == 20

    def test_m11_a_cancelled_caller(self, store: MetadataStore) -> None:
        """[M11] Whoever gave up harms nobody else."""

        async def main() -> None:
            task = asyncio.create_task(store.write(lambda tx: tx.put(THINGS, Thing("a", "x"))))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await store.write(lambda tx: tx.put(THINGS, Thing("a", "y")))

        _run(main())
        assert "y" in _scan(store)

    def test_m11_a_kept_transaction(self, store: MetadataStore) -> None:
        """[M11] A transaction is of no use after its function returned."""
        for do in (_read, _write):
            kept = do(store, lambda tx: tx)
            with pytest.raises(FailedPrecondition):
                kept.get(THINGS, "a", "x")

    def test_m12_close(self, factory: Factory, tmp_path: Path) -> None:
        """[M12] What was begun is finished; later calls raise."""
        store = factory(tmp_path)
        store.declare(THINGS)

        async def main() -> None:
            writes = [asyncio.ensure_future(store.write(_put(f"{n:03}"))) for n in range(50)]
            await asyncio.sleep(0)
            store.close()
            await asyncio.gather(*writes)

        _run(main())
        store.close()
        with pytest.raises(Unavailable):
            _write(store, _put("late"))
        for long in (False, True):
            with pytest.raises(Unavailable):
                _run(store.read(lambda tx: tx.count(THINGS), long=long))
        again = factory(tmp_path)
        again.declare(THINGS)
        assert len(_scan(again)) == 50
        again.close()

    @pytest.mark.parametrize("long", [False, True])
    def test_m13_an_unreadable_record(self, factory: Factory, tmp_path: Path, long: bool) -> None:
        """[M13] It is not there; the others are, and its key can be used again."""

        class Number(msgspec.Struct):
            name: str
            value: int

        class Mixed(msgspec.Struct):
            name: str
            value: int | str

        numbers: Table[Number] = Table("t", Number, ("name",))
        mixed: Table[Mixed] = Table("t", Mixed, ("name",))
        store = factory(tmp_path)
        store.declare(mixed)
        _write(store, _put_all(mixed, [Mixed("a", 1), Mixed("b", "bad"), Mixed("c", 3)]))
        store.close()
        store = factory(tmp_path)
        store.declare(numbers)
        assert _run(store.read(lambda tx: [number.name for number in tx.scan(numbers)], long=long)) == ["a", "c"]
        assert _run(store.read(lambda tx: tx.get(numbers, "b"), long=long)) is None
        _write(store, lambda tx: tx.put(numbers, Number("b", 2)))
        assert _write(store, lambda tx: [number.value for number in tx.scan(numbers)]) == [1, 2, 3]
        assert _read(store, lambda tx: tx.count(numbers)) == 3
        store.close()

    @settings(max_examples=25, deadline=None, suppress_health_check=_SHARED)
    @given(st.data())
    def test_m1_m2_m3_m4_m5_any_history(self, store: MetadataStore, data: st.DataObject) -> None:
        """[M1] to [M5] Any history of puts and deletes gives what a sorted dictionary gives."""
        text = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
        change = st.tuples(st.sampled_from(["a", "b"]), text, st.none() | st.tuples(text, st.integers(-5, 5)))
        changes = data.draw(st.lists(change, max_size=12))
        model: dict[tuple[str, str], Thing] = {}

        def fn(tx: Transaction) -> None:
            for thing in list(tx.scan(THINGS)):
                tx.delete(THINGS, thing.space, thing.name)
            for space, name, value in changes:
                if value is None:
                    assert tx.delete(THINGS, space, name) is (model.pop((space, name), None) is not None)
                else:
                    model[space, name] = Thing(space, name, *value)
                    tx.put(THINGS, model[space, name])

        _write(store, fn)
        things = sorted(model.values(), key=lambda thing: (thing.space, thing.name.encode()))
        assert _read(store, lambda tx: list(tx.scan(THINGS))) == things
        by_color = sorted(things, key=lambda t: (t.space, t.color.encode(), t.name.encode()))
        assert _read(store, lambda tx: list(tx.scan(THINGS, "a", index="color"))) == [
            thing for thing in by_color if thing.space == "a"
        ]
        assert _read(store, lambda tx: tx.count(THINGS, 2, index="size")) == sum(thing.size == 2 for thing in things)

    def test_m14_a_good_store_has_no_faults(self, store: MetadataStore) -> None:
        """[M14]."""
        _fill(store)
        assert _run(store.check()) == []

    def test_m15_rebuilt(self, factory: Factory, tmp_path: Path) -> None:
        """[M15], and nothing else is changed."""
        for _ in range(2):
            store = factory(tmp_path)
            store.declare(THINGS)
            _write(store, _put("kept"))
            assert store.rebuilt_from == ""
            store.rebuilt()
            assert (store.rebuilt_from, _scan(store)) == ("", ["kept"])
            store.close()


def _put(name: str) -> Callable[[Transaction], None]:
    return lambda tx: tx.put(THINGS, Thing("a", name))


def _put_all(table: Table[R], records: list[R]) -> Callable[[Transaction], None]:
    def fn(tx: Transaction) -> None:
        for record in records:
            tx.put(table, record)

    return fn


def _fill(store: MetadataStore) -> None:
    things = [
        Thing("b", "w", "red", 1),
        Thing("a", "z", "red", 9),
        Thing("a", "x", "red", 10),
        Thing("a", "y", "blue", 11),
    ]
    _write(store, _put_all(THINGS, things))


def _scan(store: MetadataStore, *prefix: str | int, index: str = "") -> list[str]:
    return _read(store, lambda tx: [thing.name for thing in tx.scan(THINGS, *prefix, index=index)])


def _read(store: MetadataStore, fn: Callable[[Transaction], T]) -> T:
    return _run(store.read(fn))


def _write(store: MetadataStore, fn: Callable[[Transaction], T]) -> T:
    return _run(store.write(fn))


def _run(work: Coroutine[Any, Any, T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(30):
            return await work

    return asyncio.run(limited())
