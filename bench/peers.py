"""The daemons that are held beside each other: each below a directory of its own, emptied and ended afterwards."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from intermodal_api.containerd.services import containers_pb2 as containers
from intermodal_api.containerd.services import content_pb2 as content
from intermodal_api.containerd.services import images_pb2 as images
from intermodal_api.containerd.services import snapshots_pb2 as snapshots
from intermodal_api.containerd.services import tasks_pb2 as tasks

from bench.calls import Calls
from bench.figures import OURS
from bench.machine import version
from tests.harness.containerd import Containerd
from tests.harness.daemon import BIN, PrivateDaemon
from tests.harness.images import busybox_layout

SNAPSHOTTER = "overlayfs"
_NOT_NOW = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED)
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Peer:
    """A running daemon: what it is called in tables, how it is reached, and its process id."""

    name: str
    address: str
    namespace: str
    pid: int
    calls: Calls

    def ctr(self, *arguments: str) -> None:
        """Run Debian's ctr. Raises CalledProcessError with what it said."""
        run(["ctr", "--address", self.address, "--namespace", self.namespace, *arguments])

    @contextmanager
    def in_namespace(self, name: str) -> Iterator[Peer]:
        """The same daemon, in a namespace of its own that is emptied afterwards."""
        with _peer(self.name, self.address, f"{self.namespace}-{name}", self.pid) as peer:
            yield peer

    def imod_command(self, *arguments: str) -> list[str]:
        """An imod command on this daemon."""
        return [str(BIN / "imod"), "--address", self.address, "--namespace", self.namespace, *arguments]


def run(command: Sequence[str]) -> bytes:
    """Run to its end; what it wrote. Raises RuntimeError with the end of what it said when it failed."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout.decode()[-500:]}")
    return done.stdout


@contextmanager
def start(place: Path, also: str = "") -> Iterator[list[Peer]]:
    """Both daemons, and a containerd from the directory or binary `also`, below `place`, with busybox imported."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=place)))
        image = busybox_layout(directory / "busybox.tar", ["sh"])
        daemons = [_intermodal(directory), _containerd(directory), *([_containerd(directory, also)] if also else [])]
        peers = [stack.enter_context(daemon) for daemon in daemons]
        for peer in peers:
            peer.ctr("images", "import", str(image.path))
        yield peers


@contextmanager
def _intermodal(directory: Path) -> Iterator[Peer]:
    with (
        PrivateDaemon(directory=directory) as daemon,
        _peer(OURS, daemon.address, daemon.namespace, daemon.pid) as peer,
    ):
        yield peer


@contextmanager
def _containerd(directory: Path, binary: str = "") -> Iterator[Peer]:
    binaries = "" if not binary else binary if os.path.isdir(binary) else os.path.dirname(os.path.abspath(binary))
    name = f"containerd {version(os.path.join(binaries, 'containerd'), '--version').partition('~')[0]}"
    namespace = f"bench-{secrets.token_hex(4)}"
    with Containerd(directory, binaries) as daemon, _peer(name, daemon.address, namespace, daemon.pid) as peer:
        yield peer


@contextmanager
def _peer(name: str, address: str, namespace: str, pid: int) -> Iterator[Peer]:
    calls = Calls(address, namespace)
    peer = Peer(name, address, namespace, pid, calls)
    try:
        yield peer
    finally:
        try:
            end_containers(peer)
            forget_images(peer)
        finally:
            calls.close()
            clear_cgroups(namespace)


def end_containers(peer: Peer) -> None:
    """Kill and remove every container with its task and snapshot."""
    calls = peer.calls
    for container in calls(containers, "Containers.List").containers:
        _end_task(calls, container.id)
        calls(containers, "Containers.Delete", id=container.id)
        key = {"snapshotter": container.snapshotter, "key": container.snapshot_key}
        _done(calls, snapshots, "Snapshots.Remove", **key)


def forget_images(peer: Peer) -> None:
    """Remove every image, snapshot and blob, and return once the daemon has removed them."""
    calls = peer.calls
    for image in calls(images, "Images.List").images:
        calls(images, "Images.Delete", name=image.name, sync=True)
    while keys := [info.name for answer in _listed(calls, snapshots) for info in answer.info]:
        removed = [key for key in keys if _done(calls, snapshots, "Snapshots.Remove", snapshotter=SNAPSHOTTER, key=key)]
        if not removed:
            raise RuntimeError(f"{peer.name} does not remove its snapshots {keys}")
    for answer in list(calls.stream(content, "Content.List")):
        for info in answer.info:
            calls(content, "Content.Delete", digest=info.digest)
    # What is deleted in the background would run into the next sample.
    _done(calls, snapshots, "Snapshots.Cleanup", snapshotter=SNAPSHOTTER)


def clear_cgroups(name: str) -> None:
    """Kill what is still in the cgroups of that name, wherever there are such, and remove them."""
    for top in {_CGROUPS, *_CGROUPS.iterdir()}:
        for path, _, _ in os.walk(top / name, topdown=False):
            deadline = time.monotonic() + 5
            while pids := Path(path, "cgroup.procs").read_text().split():
                for pid in pids:
                    _kill(int(pid))
                if time.monotonic() > deadline:
                    raise RuntimeError(f"processes {pids} in {path} do not end")
                time.sleep(0.01)
            os.rmdir(path)


def _end_task(calls: Calls, container: str) -> None:
    try:
        waiting = calls.begin(tasks, "Tasks.Wait", container_id=container)
        calls(tasks, "Tasks.Kill", container_id=container, signal=signal.SIGKILL, all=True)
        waiting.result(timeout=10)
    except grpc.RpcError as error:
        if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
            raise
    _done(calls, tasks, "Tasks.Delete", container_id=container)


def _done(calls: Calls, service: Any, method: str, **fields: Any) -> bool:
    """Whether the call succeeded; it may find nothing, or what is still needed, or be unknown to a daemon."""
    try:
        calls(service, method, **fields)
    except grpc.RpcError as error:
        if error.code() in _NOT_NOW:
            return False
        raise
    return True


def _listed(calls: Calls, service: Any) -> list[Any]:
    return list(calls.stream(service, "Snapshots.List", snapshotter=SNAPSHOTTER))


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
