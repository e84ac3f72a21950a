"""Differs with one fault each, which the kit must find: run by test_differ_kit.py, not collected by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from intermodal_core import syscalls
from intermodal_core.contracts.common import Descriptor, Mount
from intermodal_core.contracts.differs import Alone, Applied, ApplyLimits, Compared
from intermodal_core.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    IntermodalError,
    Internal,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from intermodal_core.spawner import Spawner
from intermodal_core.testing.differs import DifferKit, Factory
from intermodal_tar.differ import WORKER, TarDiffer

Mounts = tuple[Mount, ...]
Limits = ApplyLimits | None


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    spawner.preload(WORKER, deadline=30)
    yield spawner
    spawner.close()


def _top(mounts: Mounts) -> Path:
    """The directory that is written."""
    return Path(next((word[9:] for word in mounts[0].options if word.startswith("upperdir=")), mounts[0].source))


class _Kit(DifferKit):
    capabilities = frozenset({"limits", "devices", "timeout", "worker", "alone", "compare"})
    Mutant: type[TarDiffer] = TarDiffer

    @pytest.fixture
    def factory(self, spawner: Spawner) -> Factory:
        return partial(self.Mutant, spawner)


class _Renaming(TarDiffer):
    """Raises Internal for one kind of error."""

    hidden: type[IntermodalError]

    def apply(
        self, layer: int, descriptor: Descriptor, mounts: Mounts, limits: Limits = None, alone: bool = False
    ) -> Applied:
        try:
            return super().apply(layer, descriptor, mounts, limits, alone)
        except self.hidden as error:
            raise Internal(str(error)) from error


class TestCorrect(_Kit):
    """No fault: nothing may fail."""


class TestD1(_Kit):
    class Mutant(TarDiffer):
        """Believes every name."""

        def apply(
            self, layer: int, descriptor: Descriptor, mounts: Mounts, limits: Limits = None, alone: bool = False
        ) -> Applied:
            with (
                open(layer, "rb", closefd=False) as file,
                tarfile.open(fileobj=file) as archive,
            ):
                try:
                    for entry in archive:
                        entry.name = entry.name.lstrip("/")  # the machine that tests is spared
                        archive.extract(entry, _top(mounts), filter="fully_trusted")
                except (OSError, tarfile.TarError) as error:
                    raise InvalidArgument(str(error)) from error
            return Applied("", 0, "", 0)


class TestD1Follows(_Kit):
    class Mutant(TarDiffer):
        """Sets the modes of directories once more, through links."""

        def apply(
            self, layer: int, descriptor: Descriptor, mounts: Mounts, limits: Limits = None, alone: bool = False
        ) -> Applied:
            applied = super().apply(layer, descriptor, mounts, limits, alone)
            os.lseek(layer, 0, os.SEEK_SET)
            with open(layer, "rb", closefd=False) as file, tarfile.open(fileobj=file) as archive:
                for entry in archive:
                    if entry.isdir() and (_top(mounts) / entry.name).exists():
                        os.chmod(_top(mounts) / entry.name, entry.mode)
            return applied


class TestD1Runs(_Kit):
    class Mutant(TarDiffer):
        """Starts an interpreter that looks for modules in the layer."""

        def apply(
            self, layer: int, descriptor: Descriptor, mounts: Mounts, limits: Limits = None, alone: bool = False
        ) -> Applied:
            try:
                return super().apply(layer, descriptor, mounts, limits, alone)
            finally:
                subprocess.run([sys.executable, "-c", ""], env={"PYTHONPATH": str(_top(mounts))}, check=False)


class TestD2(_Kit):
    class Mutant(TarDiffer):
        """Takes what is there of a layer that is cut off."""

        def apply(
            self, layer: int, descriptor: Descriptor, mounts: Mounts, limits: Limits = None, alone: bool = False
        ) -> Applied:
            try:
                return super().apply(layer, descriptor, mounts, limits, alone)
            except InvalidArgument:
                return Applied("", 0, "", 0)


class TestD2Files(_Kit):
    class Mutant(TarDiffer):
        """Keeps a copy."""

        def apply(
            self, layer: int, descriptor: Descriptor, mounts: Mounts, limits: Limits = None, alone: bool = False
        ) -> Applied:
            os.close(tempfile.mkstemp()[0])
            return super().apply(layer, descriptor, mounts, limits, alone)


class TestD2Mounts(_Kit):
    class Mutant(TarDiffer):
        """Leaves its scratch directory mounted."""

        def apply(
            self, layer: int, descriptor: Descriptor, mounts: Mounts, limits: Limits = None, alone: bool = False
        ) -> Applied:
            applied = super().apply(layer, descriptor, mounts, limits, alone)
            syscalls.mount("none", str(self._scratch), "tmpfs")
            return applied


class TestD2Descriptors(_Kit):
    class Mutant(TarDiffer):
        """Duplicates the layer's descriptor, and forgets it where there is an error."""

        def apply(
            self, layer: int, descriptor: Descriptor, mounts: Mounts, limits: Limits = None, alone: bool = False
        ) -> Applied:
            mine = os.dup(layer)
            applied = super().apply(mine, descriptor, mounts, limits, alone)
            os.close(mine)
            return applied


class TestD2Killed(_Kit):
    class Mutant(_Renaming):
        hidden = Unavailable


class TestD2Late(_Kit):
    class Mutant(_Renaming):
        hidden = DeadlineExceeded


class TestD2Closed(_Kit):
    class Mutant(_Renaming):
        hidden = Cancelled


class TestD3(_Kit):
    class Mutant(TarDiffer):
        """Promises more than it does."""

        def media_types(self) -> tuple[str, ...]:
            return (*super().media_types(), "application/x-unknown.tar+lzma")


class TestD3Guesses(_Kit):
    class Mutant(TarDiffer):
        """Tries its luck with every type."""

        def apply(
            self, layer: int, descriptor: Descriptor, mounts: Mounts, limits: Limits = None, alone: bool = False
        ) -> Applied:
            kind = "application/vnd.docker.image.rootfs.diff.tar"
            return super().apply(layer, msgspec.structs.replace(descriptor, media_type=kind), mounts, limits)


class TestD4(_Kit):
    class Mutant(TarDiffer):
        """Reports the layer's own digest for both forms."""

        def apply(
            self, layer: int, descriptor: Descriptor, mounts: Mounts, limits: Limits = None, alone: bool = False
        ) -> Applied:
            applied = super().apply(layer, descriptor, mounts, limits, alone)
            return msgspec.structs.replace(applied, diff_id=applied.source_digest)


class TestD4Closes(_Kit):
    class Mutant(TarDiffer):
        """Closes what it was lent."""

        def apply(
            self, layer: int, descriptor: Descriptor, mounts: Mounts, limits: Limits = None, alone: bool = False
        ) -> Applied:
            mine = os.dup(layer)
            os.close(layer)
            try:
                return super().apply(mine, descriptor, mounts, limits, alone)
            finally:
                os.close(mine)


class TestD4Limits(_Kit):
    class Mutant(TarDiffer):
        """Has limits of its own only."""

        def apply(
            self, layer: int, descriptor: Descriptor, mounts: Mounts, limits: Limits = None, alone: bool = False
        ) -> Applied:
            return super().apply(layer, descriptor, mounts)


class TestD4Unlimited(_Kit):
    class Mutant(TarDiffer):
        """Ignores what it is configured with."""

        def __init__(self, *args: Any, limits: Limits = None, **options: Any) -> None:
            super().__init__(*args, **options)


class TestD4Devices(_Kit):
    class Mutant(TarDiffer):
        """Makes every device."""

        def __init__(self, *args: Any, devices: bool = True, **options: Any) -> None:
            super().__init__(*args, **options)


class TestD4Implied(_Kit):
    class Mutant(TarDiffer):
        """Gives every directory the usual mode."""

        def apply(
            self, layer: int, descriptor: Descriptor, mounts: Mounts, limits: Limits = None, alone: bool = False
        ) -> Applied:
            applied = super().apply(layer, descriptor, mounts, limits, alone)
            for directory, _, _ in os.walk(_top(mounts)):
                os.chmod(directory, 0o755)
            return applied


class TestD4Whiteouts(_Kit):
    class Mutant(TarDiffer):
        """Knows nothing of overlays: unpacks into the upper directory, where a whiteout finds nothing to remove."""

        def apply(
            self, layer: int, descriptor: Descriptor, mounts: Mounts, limits: Limits = None, alone: bool = False
        ) -> Applied:
            mounts = (Mount("bind", str(_top(mounts)), ("rbind", "rw")),) if len(mounts) == 1 else mounts
            return super().apply(layer, descriptor, mounts, limits, alone)


class TestD4Disk(_Kit):
    class Mutant(_Renaming):
        hidden = ResourceExhausted


class TestD4ReadOnly(_Kit):
    class Mutant(_Renaming):
        hidden = FailedPrecondition


class TestD4Forbidden(_Kit):
    class Mutant(_Renaming):
        hidden = PermissionDenied


class TestD4Malformed(_Kit):
    class Mutant(_Renaming):
        hidden = InvalidArgument


class TestD5Implied(_Kit):
    class Mutant(TarDiffer):
        """Leaves directories that are implied as it made them."""

        def settle(self, layers: tuple[Alone, ...], below: Mounts) -> int:
            kept = (Alone(x.mounts, msgspec.structs.replace(x.residue, implied=())) for x in layers)
            return min(2, super().settle(tuple(kept), below))


class TestD5Links(_Kit):
    class Mutant(TarDiffer):
        """Makes a directory where there is a link below."""

        def settle(self, layers: tuple[Alone, ...], below: Mounts) -> int:
            return super().settle(layers[:2], below) + len(layers[2:])


class TestD6Hidden(_Kit):
    class Mutant(TarDiffer):
        """Knows nothing of what is below: hides nothing, and writes all."""

        def compare(
            self, lower: Mounts, upper: Mounts, into: int, media_type: str, latest: int | None = None
        ) -> Compared:
            return super().compare((), upper, into, media_type, latest)


class TestD6Latest(_Kit):
    class Mutant(TarDiffer):
        """Takes times as they are."""

        def compare(
            self, lower: Mounts, upper: Mounts, into: int, media_type: str, latest: int | None = None
        ) -> Compared:
            return super().compare(lower, upper, into, media_type)
