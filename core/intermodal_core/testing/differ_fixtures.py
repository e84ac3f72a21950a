"""What the tests of the differs' kit stand on: the fixtures, of which an author defines `factory`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from intermodal_snapshots.mounts import mount_all, mounts_below, temp_mount, unmount_all

from intermodal_core.contracts.common import Descriptor, Mount
from intermodal_core.contracts.differs import Applied, ApplyLimits, Differ
from intermodal_core.testing.kit import Kit
from intermodal_core.testing.layers import OCI

__all__ = ["DifferFixtures", "Factory", "Place", "Places", "applied_to", "descendants", "seen"]

#: Opens a differ: `factory(root, **options)`, or with the directory given already `open_differ(**options)`.
Factory = Callable[..., Differ]


def applied_to(
    differ: Differ,
    mounts: tuple[Mount, ...],
    data: bytes,
    media_type: str = OCI,
    limits: ApplyLimits | None = None,
    alone: bool = False,
) -> Applied:
    """Apply a layer that is in memory. Its descriptor must be open, as it was, afterwards."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        try:
            descriptor = Descriptor(media_type, "sha256:0", len(data))
            # One without the capability knows no such argument.
            return differ.apply(file.fileno(), descriptor, mounts, limits, **({"alone": True} if alone else {}))
        finally:
            os.fstat(file.fileno())


def seen(mounts: tuple[Mount, ...], place: Path) -> AbstractContextManager[Path]:
    """Mounts them for a `with` block."""
    (place / "mounts").mkdir(exist_ok=True)
    return temp_mount(mounts, place / "mounts")


def descendants(pid: int) -> set[int]:
    """All processes that come from a process."""
    found: set[int] = set()
    pending = [pid]
    while pending:
        with suppress(OSError):
            for task in os.listdir(f"/proc/{(here := pending.pop())}/task"):
                with suppress(OSError):
                    children = [int(word) for word in Path(f"/proc/{here}/task/{task}/children").read_text().split()]
                    pending += children
                    found.update(children)
    return found


@dataclass
class Place:
    """Where a layer goes: the directory that is written and the mounts that a differ gets."""

    places: Places
    top: Path
    mounts: tuple[Mount, ...]
    lowers: tuple[Path, ...] = ()

    def again(self) -> Place:
        """An empty one of the same kind."""
        return self.places.overlay() if self.lowers else self.places.bind()

    def above(self) -> Place:
        """Where the next layer goes: the same directory, or a new upper one."""
        return self.places.overlay(self.top, *self.lowers) if self.lowers else self


class Places:
    """Makes places below a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mounted: list[Path] = []

    def bind(self) -> Place:
        """An empty directory, bound."""
        top = self._new("bind")
        return Place(self, top, (Mount("bind", str(top), ("rbind", "rw")),))

    def overlay(self, *lowers: Path) -> Place:
        """An empty upper directory above the others, the topmost first; without any, above an empty one."""
        lowers = lowers or (self._new("lower"),)
        upper, work = self._new("upper"), self._new("work")
        shutil.copystat(lowers[0], upper)  # a snapshotter gives the root what it has below
        options = (f"workdir={work}", f"upperdir={upper}", f"lowerdir={':'.join(map(str, lowers))}", "index=off")
        return Place(self, upper, (Mount("overlay", "overlay", options),), lowers)

    def memory(self, size: str) -> Place:
        """A filesystem that holds no more than `size`, bound."""
        where = self._new("memory")
        mount_all([Mount("tmpfs", "tmpfs", (f"size={size}",))], where)
        self._mounted.append(where)
        return Place(self, where, (Mount("bind", str(where), ("rbind", "rw")),))

    def close(self) -> None:
        """Unmount what was mounted."""
        for where in self._mounted:
            unmount_all(where)

    def _new(self, name: str) -> Path:
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._directory))
        path.chmod(0o755)
        return path


class DifferFixtures(Kit):
    """A differ with a directory of its own, and places for layers."""

    contracts = (Differ,)
    makers = ("factory", "open_differ")
    instances = ("differ",)

    # -- what a subclass may say --------------------------------------------------------------------------------------

    @pytest.fixture
    def factory(self) -> Factory:
        """Opens a differ: `factory(root, **options)`."""
        raise NotImplementedError("define the fixture `factory`")

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[Path]:
        """A directory on a filesystem that can be an overlay's: one in memory; nothing else may be mounted in the end."""
        top = tmp_path / "place"
        top.mkdir()
        mount_all([Mount("tmpfs", "tmpfs", ("size=1g",))], top)
        try:
            yield top
            assert mounts_below(top) == [str(top)]
        finally:
            unmount_all(top)

    # -- helpers ------------------------------------------------------------------------------------------------------

    @pytest.fixture
    def root(self, place: Path) -> Path:
        """The differ's directory."""
        return place / "root"

    @pytest.fixture
    def open_differ(self, factory: Factory, root: Path) -> Iterator[Factory]:
        """Opens differs with options, and closes them."""
        opened: list[Any] = []

        def make(**options: Any) -> Differ:
            opened.append(factory(root, **options))
            return opened[-1]  # type: ignore[no-any-return]

        yield make
        for differ in opened:
            if hasattr(differ, "close"):
                differ.close()

    @pytest.fixture
    def differ(self, open_differ: Factory) -> Differ:
        """One without options."""
        return open_differ()

    @pytest.fixture
    def places(self, place: Path) -> Iterator[Places]:
        """Makes places for layers."""
        (place / "places").mkdir()
        places = Places(place / "places")
        yield places
        places.close()

    @pytest.fixture
    def bind(self, places: Places) -> Place:
        """An empty directory."""
        return places.bind()

    @pytest.fixture(params=["bind", "overlay"])
    def any_place(self, places: Places, request: pytest.FixtureRequest) -> Place:
        """An empty directory, and an empty overlay."""
        return places.bind() if request.param == "bind" else places.overlay()

    @pytest.fixture
    def remains(self, root: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
        """What there is that a differ could leave: mounts, processes, descriptors, files of its own and temporary ones."""
        temporary = place / "temporary"
        temporary.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        monkeypatch.setenv("TMPDIR", str(temporary))

        def look() -> object:
            mounts = mounts_below(
                place
            )  # where its directory and its temporary files are: others mount elsewhere meanwhile
            files = sorted(path for top in (root, temporary) for path in top.rglob("*"))
            return mounts, descendants(os.getpid()), len(os.listdir("/proc/self/fd")), files

        return look

    def need(self, differ: Differ, media_type: str) -> None:
        """Skip the test where the media type is not taken."""
        if media_type not in differ.media_types():
            pytest.skip(f"{media_type} is not among its media types")

    def plain(self, differ: Differ) -> str:
        """The media type of a layer that is not compressed; skips the test where it is not taken."""
        self.need(differ, OCI)
        return OCI
