"""One container's life through the API, as a Go client's NewContainer, NewTask, Wait, Start and Delete make it."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from intermodal_api.containerd.services import containers_pb2 as containers
from intermodal_api.containerd.services import content_pb2 as content
from intermodal_api.containerd.services import images_pb2 as images
from intermodal_api.containerd.services import leases_pb2 as leases
from intermodal_api.containerd.services import namespaces_pb2 as namespaces
from intermodal_api.containerd.services import snapshots_pb2 as snapshots
from intermodal_api.containerd.services import tasks_pb2 as tasks
from intermodal_oci.chain import chain_ids

from bench.peers import SNAPSHOTTER, Peer
from tests.harness.images import NAME

_RUNTIME = "io.containerd.runc.v2"
_SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
_PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
_numbers = count()


class Cycle:
    """Makes containers of busybox on one daemon. The spec is the one that ctr makes there."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._calls = calls = peer.calls
        name = f"spec-{next(_numbers)}"
        peer.ctr("containers", "create", NAME, name, "true")
        made = calls(containers, "Containers.Get", id=name).container
        self.spec: dict[str, Any] = json.loads(made.spec.value)
        peer.ctr("containers", "delete", name)
        self._target = calls(images, "Images.Get", name=NAME).image.target.digest
        manifest = json.loads(self._read(self._target))
        self._config = manifest["config"]["digest"]
        config = json.loads(self._read(self._config))
        self._parent = chain_ids(config["rootfs"]["diff_ids"])[-1]

    def run(self, *arguments: str) -> None:
        """Create, start, wait for and delete a container; 26 calls."""
        name = self.create(*arguments)
        waiting = self._calls.begin(tasks, "Tasks.Wait", container_id=name)
        self._calls(tasks, "Tasks.Start", container_id=name)
        status = waiting.result().exit_status
        if status:
            raise RuntimeError(f"{arguments} ended with {status} on {self._peer.name}")
        self.delete(name)

    def start(self, *arguments: str) -> tuple[str, int]:
        """A container that runs on: its name, and its first process."""
        name = self.create(*arguments)
        return name, self._calls(tasks, "Tasks.Start", container_id=name).pid

    def exec(self, name: str, *arguments: str) -> None:
        """Run a further process in a running container to its end; 4 calls."""
        calls = self._calls
        process = {**self.spec["process"], "args": list(arguments), "terminal": False}
        ids = {"container_id": name, "exec_id": f"e{next(_numbers)}"}
        spec = AnyMessage(type_url=_PROCESS, value=json.dumps(process).encode())
        calls(tasks, "Tasks.Exec", **ids, spec=spec)
        waiting = calls.begin(tasks, "Tasks.Wait", **ids)
        calls(tasks, "Tasks.Start", **ids)
        status = waiting.result().exit_status
        calls(tasks, "Tasks.DeleteProcess", **ids)
        if status:
            raise RuntimeError(f"{arguments} ended with {status} on {self._peer.name}")

    def create(self, *arguments: str) -> str:
        """A container and its task, not started: its name."""
        calls = self._calls
        name = f"c{next(_numbers)}"
        lease = calls(leases, "Leases.Create", id=f"l-{name}").lease.id
        image = calls(images, "Images.Get", name=NAME).image
        for digest in (image.target.digest, self._config) * 2:
            self._read(digest)
        calls(namespaces, "Namespaces.Get", name=self._peer.namespace)
        prepare = {"snapshotter": SNAPSHOTTER, "key": name, "parent": self._parent}
        leased = calls.leased(lease)
        leased(snapshots, "Snapshots.Prepare", **prepare)
        calls(snapshots, "Snapshots.Mounts", snapshotter=SNAPSHOTTER, key=name)  # to look up the user
        record = {
            "id": name,
            "image": NAME,
            "runtime": {"name": _RUNTIME},
            "snapshotter": SNAPSHOTTER,
            "snapshot_key": name,
            "spec": AnyMessage(type_url=_SPEC, value=json.dumps(self._own_spec(name, arguments)).encode()),
        }
        leased(containers, "Containers.Create", container=record)
        calls(leases, "Leases.Delete", id=lease)
        calls(containers, "Containers.Get", id=name)
        mounts = calls(snapshots, "Snapshots.Mounts", snapshotter=SNAPSHOTTER, key=name).mounts
        calls(tasks, "Tasks.Create", container_id=name, rootfs=mounts)
        return name

    def delete(self, name: str) -> None:
        """Delete a container whose task has ended, with its snapshot."""
        calls = self._calls
        calls(tasks, "Tasks.Get", container_id=name)
        calls(tasks, "Tasks.Delete", container_id=name)
        calls(containers, "Containers.Get", id=name)
        try:
            calls(tasks, "Tasks.Get", container_id=name)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
        calls(snapshots, "Snapshots.Remove", snapshotter=SNAPSHOTTER, key=name)
        calls(containers, "Containers.Delete", id=name)

    def _own_spec(self, name: str, arguments: tuple[str, ...]) -> dict[str, Any]:
        process = {**self.spec["process"], "args": list(arguments)}
        linux = {**self.spec["linux"], "cgroupsPath": f"/{self._peer.namespace}/{name}"}
        return {**self.spec, "process": process, "linux": linux}

    def _read(self, digest: str) -> bytes:
        self._calls(content, "Content.Info", digest=digest)
        return b"".join(answer.data for answer in self._calls.stream(content, "Content.Read", digest=digest))
