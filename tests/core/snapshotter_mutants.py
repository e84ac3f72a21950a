"""Snapshotters with one fault each, which the kit must find: run by test_snapshotter_kit.py, not collected by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
from intermodal_core.contracts.common import Mount, Usage
from intermodal_core.contracts.snapshotters import Kind, SnapshotInfo
from intermodal_core.errors import FailedPrecondition, NotFound
from intermodal_core.testing.snapshotters import Factory, SnapshotterKit
from intermodal_native.snapshotter import NativeSnapshotter
from intermodal_snapshots.mounts import mount_all, unmount_all


class _Kit(SnapshotterKit):
    Mutant: type[NativeSnapshotter] = NativeSnapshotter

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[Path]:
        mount_all([Mount("tmpfs", "tmpfs", ("size=256m",))], tmp_path)
        yield tmp_path
        unmount_all(tmp_path)

    @pytest.fixture
    def factory(self) -> Factory:
        return lambda root: self.Mutant(root, sync_remove=True)


class TestCorrect(_Kit):
    """No fault: nothing may fail."""


class TestS01(_Kit):
    class Mutant(NativeSnapshotter):
        """Records first, makes the files afterwards."""

        def _create(self, key: str, parent: str, kind: Kind, labels: Mapping[str, str] | None) -> list[Mount]:
            self._records.check_free(key)
            below = self._records.parent_of(parent) if parent else None
            number = self._records.reserve()
            record = self._records.create(number, key, kind, below, labels)
            self._directory(number).mkdir()
            self.make(self._directory(number), kind, [self._directory(n) for n in record.parents])
            return self._mounts(record)


class TestS02(_Kit):
    class Mutant(NativeSnapshotter):
        """Takes its active snapshots with it."""

        def close(self) -> None:
            if self._lock >= 0:
                for info in list(self.walk(("kind==active",))):
                    self.remove(info.key)
            super().close()


class TestS03(_Kit):
    class Mutant(NativeSnapshotter):
        """Refuses to start where a snapshot is broken."""

        def __init__(self, root: Path, **options: bool) -> None:
            super().__init__(root, **options)
            for info in self.walk(("kind==committed",)):
                if not (self._directory(self._records.get(info.key).id) / "fs").exists():
                    self.close()
                    raise FailedPrecondition(f"{info.key} is broken")


class TestS04(_Kit):
    class Mutant(NativeSnapshotter):
        """Shares the parent's files with its children."""

        def mounts_of(self, directory: Path, kind: Kind, parents: list[Path]) -> list[Mount]:
            return super().mounts_of(parents[0] if parents else directory, kind, parents)


class TestS05(_Kit):
    class Mutant(NativeSnapshotter):
        """Takes any snapshot for a parent."""

        def __init__(self, root: Path, **options: bool) -> None:
            super().__init__(root, **options)
            setattr(self._records, "parent_of", self._records.get)  # noqa: B010 - a method is replaced


class TestS06(_Kit):
    class Mutant(NativeSnapshotter):
        """Gives views that can be written."""

        def mounts_of(self, directory: Path, kind: Kind, parents: list[Path]) -> list[Mount]:
            return [Mount(m.type, m.source, ("rw", "rbind")) for m in super().mounts_of(directory, kind, parents)]


class TestS07(_Kit):
    class Mutant(NativeSnapshotter):
        """Lets a committed snapshot be mounted."""

        def mounts(self, key: str) -> list[Mount]:
            return self._mounts(self._records.get(key))


class TestS08(_Kit):
    class Mutant(NativeSnapshotter):
        """Keeps the labels of prepare."""

        def commit(
            self, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str | None = None
        ) -> None:
            super().commit(name, key, {**self.stat(key).labels, **(labels or {})}, parent)


class TestS09(_Kit):
    class Mutant(NativeSnapshotter):
        """Removes what has children."""

        def remove(self, key: str) -> None:
            for info in list(self.walk()):
                if info.parent == key:
                    self.remove(info.key)
            super().remove(key)


class TestS10(_Kit):
    class Mutant(NativeSnapshotter):
        """Forgets the parent."""

        def stat(self, key: str) -> SnapshotInfo:
            return msgspec.structs.replace(super().stat(key), parent="")


class TestS11(_Kit):
    class Mutant(NativeSnapshotter):
        """Adds labels where it should replace them."""

        def update(self, key: str, labels: Mapping[str, str]) -> SnapshotInfo:
            return super().update(key, {**self.stat(key).labels, **labels})


class TestS12(_Kit):
    class Mutant(NativeSnapshotter):
        """Wants all filters to match."""

        def walk(self, filters: tuple[str, ...] = ()) -> Iterator[SnapshotInfo]:
            return super().walk((",".join(filters),) if filters else ())


class TestS13(_Kit):
    class Mutant(NativeSnapshotter):
        """Counts each hard link."""

        def usage_of(self, directory: Path) -> Usage:
            size = inodes = 0
            for place, directories, files in os.walk(directory):
                for name in (*directories, *files):
                    size += os.lstat(os.path.join(place, name)).st_blocks * 512
                    inodes += 1
            return Usage(size, inodes)


class TestS14(_Kit):
    class Mutant(NativeSnapshotter):
        """Deletes nothing."""

        def delete(self, directory: Path) -> None:
            return

        def cleanup(self) -> None:
            return


class TestS14Greedy(_Kit):
    class Mutant(NativeSnapshotter):
        """Cleans up what others are making."""

        def cleanup(self) -> None:
            self._making.clear()
            super().cleanup()


class TestS15(_Kit):
    class Mutant(NativeSnapshotter):
        """Keeps a file open."""

        def __init__(self, root: Path, **options: bool) -> None:
            super().__init__(root, **options)
            self._kept = os.open(root, os.O_RDONLY)


class TestS09Error(_Kit):
    class Mutant(NativeSnapshotter):
        """Raises the wrong error for a snapshot with children."""

        def remove(self, key: str) -> None:
            try:
                super().remove(key)
            except FailedPrecondition:
                raise NotFound(key) from None
