"""A snapshotter behind a socket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from intermodal_api.containerd.services import snapshots_pb2 as pb
from intermodal_core.contracts.common import Mount, Usage
from intermodal_core.contracts.snapshotters import Kind, SnapshotInfo
from intermodal_core.errors import InvalidArgument
from intermodal_wire.client import Client
from intermodal_wire.values import mounts_from, nanoseconds

__all__ = ["ProxySnapshotter"]

_SERVICE = pb.DESCRIPTOR.services_by_name["Snapshots"]
_KINDS: dict[int, Kind] = {pb.VIEW: "view", pb.ACTIVE: "active", pb.COMMITTED: "committed"}


class ProxySnapshotter:
    """Implements `intermodal_core.contracts.snapshotters` by `containerd.services.snapshots.v1.Snapshots` at `address`.

    `name` is the snapshotter's there, which a plugin ignores and a whole daemon finds one by. A call gets `timeout` seconds.
    """

    def __init__(self, address: str, name: str, headers: Mapping[str, str] | None = None, timeout: float = 0) -> None:
        self._client = Client(address, headers, timeout)
        self._name = name

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """[S5]."""
        request = pb.PrepareSnapshotRequest(snapshotter=self._name, key=_named(key), parent=parent, labels=labels)
        return list(mounts_from(self._call("Prepare", request).mounts))

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """[S6]."""
        request = pb.ViewSnapshotRequest(snapshotter=self._name, key=_named(key), parent=parent, labels=labels)
        return list(mounts_from(self._call("View", request).mounts))

    def mounts(self, key: str) -> list[Mount]:
        """[S7]."""
        return list(mounts_from(self._call("Mounts", pb.MountsRequest(snapshotter=self._name, key=key)).mounts))

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None, parent: str | None = None) -> None:
        """[S8]."""
        request = pb.CommitSnapshotRequest(
            snapshotter=self._name, name=_named(name), key=key, labels=labels, parent=parent or ""
        )
        self._call("Commit", request)

    def remove(self, key: str) -> None:
        """[S9]."""
        self._call("Remove", pb.RemoveSnapshotRequest(snapshotter=self._name, key=key))

    def stat(self, key: str) -> SnapshotInfo:
        """[S10]."""
        return _info(self._call("Stat", pb.StatSnapshotRequest(snapshotter=self._name, key=key)).info)

    def update(self, key: str, labels: Mapping[str, str]) -> SnapshotInfo:
        """[S11]."""
        request = pb.UpdateSnapshotRequest(snapshotter=self._name, info=pb.Info(name=key, labels=labels))
        request.update_mask.paths.append("labels")
        return _info(self._call("Update", request).info)

    def walk(self, filters: tuple[str, ...] = ()) -> Iterator[SnapshotInfo]:
        """[S12]."""
        request = pb.ListSnapshotsRequest(snapshotter=self._name, filters=filters)
        answers = self._client.stream(_SERVICE, "List", request)
        return (_info(info) for answer in answers for info in answer.info)

    def usage(self, key: str) -> Usage:
        """[S13]."""
        answer = self._call("Usage", pb.UsageRequest(snapshotter=self._name, key=key))
        return Usage(answer.size, answer.inodes)

    def cleanup(self) -> None:
        """[S14]."""
        self._call("Cleanup", pb.CleanupRequest(snapshotter=self._name))

    def close(self) -> None:
        """[S15] The connection alone: the plugin is not ours to end."""
        self._client.close()

    def _call(self, name: str, request: Any) -> Any:
        return self._client.call(_SERVICE, name, request)


def _named(key: str) -> str:
    if not key:
        raise InvalidArgument("a snapshot needs a name")
    return key


def _info(info: pb.Info) -> SnapshotInfo:
    return SnapshotInfo(
        info.name,
        info.parent,
        _KINDS[info.kind],
        nanoseconds(info.created_at),
        nanoseconds(info.updated_at),
        dict(info.labels),
    )
