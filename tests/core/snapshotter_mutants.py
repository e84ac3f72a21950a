"""Snapshotters with one fault each, which the kit must find: run by test_snapshotter_kit.py, not collected by itself."""

import os

import msgspec
import pytest
from intermodal_core.contracts.common import Mount, Usage
from intermodal_core.errors import FailedPrecondition, NotFound
from intermodal_core.testing.snapshotters import SnapshotterKit
from intermodal_native.snapshotter import NativeSnapshotter
from intermodal_snapshots.mounts import mount_all, unmount_all


class _Kit(SnapshotterKit):
    Mutant = NativeSnapshotter

    @pytest.fixture
    def place(self, tmp_path):
        mount_all([Mount("tmpfs", "tmpfs", ("size=256m",))], tmp_path)
        yield tmp_path
        unmount_all(tmp_path)

    @pytest.fixture
    def factory(self):
        return lambda root: self.Mutant(root, sync_remove=True)


class TestCorrect(_Kit):
    """No fault: nothing may fail."""


class TestS01(_Kit):
    class Mutant(NativeSnapshotter):
        """Records first, makes the files afterwards."""

        def _create(self, key, parent, kind, labels):
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

        def close(self):
            if self._lock >= 0:
                for info in list(self.walk(("kind==active",))):
                    self.remove(info.key)
            super().close()


class TestS03(_Kit):
    class Mutant(NativeSnapshotter):
        """Refuses to start where a snapshot is broken."""

        def __init__(self, root, **options):
            super().__init__(root, **options)
            for info in self.walk(("kind==committed",)):
                if not (self._directory(self._records.get(info.key).id) / "fs").exists():
                    self.close()
                    raise FailedPrecondition(f"{info.key} is broken")


class TestS04(_Kit):
    class Mutant(NativeSnapshotter):
        """Shares the parent's files with its children."""

        def mounts_of(self, directory, kind, parents):
            return super().mounts_of(parents[0] if parents else directory, kind, parents)


class TestS05(_Kit):
    class Mutant(NativeSnapshotter):
        """Takes any snapshot for a parent."""

        def __init__(self, root, **options):
            super().__init__(root, **options)
            self._records.parent_of = self._records.get


class TestS06(_Kit):
    class Mutant(NativeSnapshotter):
        """Gives views that can be written."""

        def mounts_of(self, directory, kind, parents):
            return [Mount(m.type, m.source, ("rw", "rbind")) for m in super().mounts_of(directory, kind, parents)]


class TestS07(_Kit):
    class Mutant(NativeSnapshotter):
        """Lets a committed snapshot be mounted."""

        def mounts(self, key):
            return self._mounts(self._records.get(key))


class TestS08(_Kit):
    class Mutant(NativeSnapshotter):
        """Keeps the labels of prepare."""

        def commit(self, name, key, labels=None, parent=None):
            super().commit(name, key, {**self.stat(key).labels, **(labels or {})}, parent)


class TestS09(_Kit):
    class Mutant(NativeSnapshotter):
        """Removes what has children."""

        def remove(self, key):
            for info in list(self.walk()):
                if info.parent == key:
                    self.remove(info.key)
            super().remove(key)


class TestS10(_Kit):
    class Mutant(NativeSnapshotter):
        """Forgets the parent."""

        def stat(self, key):
            return msgspec.structs.replace(super().stat(key), parent="")


class TestS11(_Kit):
    class Mutant(NativeSnapshotter):
        """Adds labels where it should replace them."""

        def update(self, key, labels):
            return super().update(key, {**self.stat(key).labels, **labels})


class TestS12(_Kit):
    class Mutant(NativeSnapshotter):
        """Wants all filters to match."""

        def walk(self, filters=()):
            return super().walk((",".join(filters),) if filters else ())


class TestS13(_Kit):
    class Mutant(NativeSnapshotter):
        """Counts each hard link."""

        def usage_of(self, directory):
            size = inodes = 0
            for place, directories, files in os.walk(directory):
                for name in (*directories, *files):
                    size += os.lstat(os.path.join(place, name)).st_blocks * 512
                    inodes += 1
            return Usage(size, inodes)


class TestS14(_Kit):
    class Mutant(NativeSnapshotter):
        """Deletes nothing."""

        def delete(self, directory):
            return

        def cleanup(self):
            return


class TestS14Greedy(_Kit):
    class Mutant(NativeSnapshotter):
        """Cleans up what others are making."""

        def cleanup(self):
            self._making.clear()
            super().cleanup()


class TestS15(_Kit):
    class Mutant(NativeSnapshotter):
        """Keeps a file open."""

        def __init__(self, root, **options):
            super().__init__(root, **options)
            self._kept = os.open(root, os.O_RDONLY)


class TestS09Error(_Kit):
    class Mutant(NativeSnapshotter):
        """Raises the wrong error for a snapshot with children."""

        def remove(self, key):
            try:
                super().remove(key)
            except FailedPrecondition:
                raise NotFound(key) from None
