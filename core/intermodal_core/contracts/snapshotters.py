"""Snapshotters: layered root filesystems.

Vocabulary. A *snapshot* has a key and at most one parent. It is *active* (writable, made by `prepare`), a *view*
(read-only, made by `view`) or *committed* (immutable, made by `commit` from an active one, and the only kind that may
be a parent). Keys and names share one name space. Calls return mounts; whoever gets them mounts them: a snapshotter
mounts nothing by itself, apart from probes at load.

Life cycle: `prepare` -> `commit` or `remove`; `view` -> `remove`; committed -> `remove`, once it has no children. Three scenarios:

Scenario, unpacking: `prepare("x", parent)` -> mount, apply a layer, unmount -> `commit(chain_id, "x")`.
Scenario, running: `prepare("container", chain_id)` -> the runtime mounts it -> ... -> `remove("container")`.
Scenario, side by side (capability `rebase`): every layer is prepared without a parent and applied in overlay form at
the same time; then `commit(chain_id, key, parent=...)` in chain order.

Everything may be called at once; of calls that want one key, one gets it. Times are in ns since the epoch, sizes in bytes.
Public specification followed: containerd's Snapshots service, in its words, kinds, errors and filters.

Labels: keys that begin with `containerd.io/snapshot/`, and `containerd.io/snapshot.ref`, are meant for the snapshotter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, Protocol, runtime_checkable

import msgspec

from intermodal_core.contracts.common import Mount, Usage

__all__ = ["VERSION", "Kind", "SnapshotInfo", "Snapshotter"]

VERSION = 1

Kind = Literal["view", "active", "committed"]


class SnapshotInfo(msgspec.Struct, frozen=True):
    """What is recorded of a snapshot; `parent` is "" at the bottom; times in ns since the epoch."""

    key: str
    parent: str
    kind: Kind
    created_at: int
    updated_at: int
    labels: dict[str, str] = {}


@runtime_checkable
class Snapshotter(Protocol):
    """A store of snapshots.

    Capabilities (declared by the plugin): `rebase`, `remap-ids`, `only-remap-ids`. Of one that can `rebase`, the directory
    that the mounts of a snapshot without a parent are of stays where it is when the snapshot is committed.

    [S1] After SIGKILL at any instant and a new start, every committed key is mountable, and a call that had not
         returned has happened wholly or not at all.
    [S2] `close` deletes nothing.
    [S3] One bad snapshot does not keep the rest from serving.
    [S4] What a mount of an active snapshot shows does not change when others of the same parent are written.
    """

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """[S5] Make an active snapshot on top of `parent` and return its mounts.

        Raises AlreadyExists, NotFound for a parent that is not there, InvalidArgument for one that is not committed
        or an empty key. Nothing is left behind when it raises.
        """

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """[S6] As `prepare`, but read-only: every mount carries `ro`, or the filesystem refuses writes."""

    def mounts(self, key: str) -> list[Mount]:
        """[S7] The mounts of an active snapshot or a view, the same each time. Raises NotFound, FailedPrecondition
        for a committed one.
        """

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str | None = None) -> None:
        """[S8] Turn the active snapshot `key` into the committed snapshot `name`; `key` is then gone.

        `labels` replace those given at prepare. `parent`, where it is given (not None or "") and differs, needs the
        capability `rebase` and an active snapshot without a parent. Raises AlreadyExists for `name`, NotFound for
        `key` or `parent`, FailedPrecondition for a key that is not active, InvalidArgument for an empty name, a
        `parent` that is not committed or a snapshot that has another one, Unimplemented without `rebase`. On an error
        `key` stays as it was.
        """

    def remove(self, key: str) -> None:
        """[S9] Remove a snapshot. Raises NotFound; FailedPrecondition for one that has children.

        The name is free at once; bytes may be freed later, by `cleanup` or in the background. Whoever mounted it has
        unmounted it.
        """

    def stat(self, key: str) -> SnapshotInfo:
        """[S10] What is recorded. Raises NotFound."""

    def update(self, key: str, labels: Mapping[str, str]) -> SnapshotInfo:
        """[S11] Replace the labels; nothing else of a snapshot ever changes. Raises NotFound."""

    def walk(self, filters: tuple[str, ...] = ()) -> Iterator[SnapshotInfo]:
        """[S12] Snapshots that match any of `filters` (containerd's grammar; none: all). Fields: name, parent, kind,
        labels. Raises InvalidArgument for a malformed filter.
        """

    def usage(self, key: str) -> Usage:
        """[S13] Disk use of this snapshot alone; hard links are counted once. Raises NotFound."""

    def cleanup(self) -> None:
        """[S14] Free what removed and half-made snapshots still occupy."""

    def close(self) -> None:
        """[S15] Let go of files and threads; the next start finds everything. Idempotent."""
