"""A backend that stops answering: it costs its own calls, is seen to be down, and comes back without a restart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from intermodal_api.grpc import health_pb2 as pb

from tests.harness.daemon import PrivateDaemon
from tests.harness.waiting import until

PLUGIN = '''
import os, time
from intermodal_core.plugin import Plugin
from intermodal_native.snapshotter import NativeSnapshotter

class Stuck(NativeSnapshotter):
    """Waits while there is a file that is called for the method."""
    def _wait(self, what):
        while os.path.exists(self.root / what):
            time.sleep(0.02)
    def remove(self, key):
        self._wait("hang-remove")
        return super().remove(key)
    def prepare(self, key, parent="", labels=None):
        self._wait("hang-prepare")
        return super().prepare(key, parent, labels)
    def commit(self, name, key, labels=None, parent=None):
        self._wait("hang-commit")
        return super().commit(name, key, labels, parent)

plugin = Plugin(factory=lambda context: Stuck(context.root_dir(), sync=False, sync_remove=True))
'''


@pytest.fixture(params=["thread", "process"])
def stuck(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PrivateDaemon]:
    site = tmp_path / "site"
    info = site / "stuck-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "stuck_sample.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stuck\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[intermodal.snapshotters]\nstuck = stuck_sample:plugin\n")
    config = f'[snapshotters.stuck]\nisolation = "{request.param}"\ndeadline = 1\nthreads = 2\n'
    with PrivateDaemon(config, start=False) as daemon:
        daemon.start({"PYTHONPATH": str(site)})
        yield daemon


def snapshots(daemon: PrivateDaemon, name: str, *arguments: str, check: bool = True) -> str:
    done = daemon.ctr("snapshots", "--snapshotter", name, *arguments, check=check)
    return done.stdout + done.stderr


def health(daemon: PrivateDaemon, service: str) -> str:
    with grpc.insecure_channel(f"unix:{daemon.address}", [("grpc.default_authority", "localhost")]) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=pb.HealthCheckRequest.SerializeToString,
            response_deserializer=pb.HealthCheckResponse.FromString,
        )
        answer = check(pb.HealthCheckRequest(service=service), timeout=20)
    return pb.HealthCheckResponse.ServingStatus.Name(answer.status)


def objects(daemon: PrivateDaemon) -> int:
    return len(list((daemon.root / "snapshotters/stuck/snapshots").iterdir()))


def test_one_that_never_answers_remove(stuck: PrivateDaemon) -> None:
    for number in range(4):
        snapshots(stuck, "stuck", "prepare", f"k{number}")
    hang = stuck.root / "snapshotters/stuck/hang-remove"
    hang.write_text("")
    for number in range(4):
        snapshots(stuck, "stuck", "rm", f"k{number}")
    until(lambda: health(stuck, "snapshotters.stuck") == "NOT_SERVING", 20)
    assert health(stuck, "") == "SERVING"
    began = time.monotonic()
    snapshots(stuck, "native", "prepare", "other")
    snapshots(stuck, "native", "rm", "other")
    native = stuck.root / "snapshotters/native/snapshots"
    until(lambda: not list(native.iterdir()), 5)
    assert time.monotonic() - began < 5, "others serve, and what is removed of them goes"
    assert health(stuck, "snapshotters.native") == "SERVING"
    assert "snapshotters.stuck" in stuck.imod("plugins", "ls", check=True).stdout
    pid = stuck.pid
    hang.unlink()
    until(lambda: health(stuck, "snapshotters.stuck") == "SERVING", 30)
    until(lambda: objects(stuck) == 0, 30)
    snapshots(stuck, "stuck", "prepare", "again")
    assert stuck.pid == pid
    row = stuck.imod("plugins", "ls", check=True).stdout
    if 'isolation = "process"' in stuck.config_file.read_text():
        assert "started again" in row
        assert "remove did not return within 1 s" in row


def test_what_came_of_a_call_is_found_out(stuck: PrivateDaemon) -> None:
    """A prepare that was too late leaves nothing, and a commit that was is one, or none."""
    snapshots(stuck, "stuck", "prepare", "work")
    for what in ("hang-prepare", "hang-commit"):
        hang = stuck.root / "snapshotters/stuck" / what
        hang.write_text("")
        words = ("prepare", "late") if what == "hang-prepare" else ("commit", "layer", "work")
        said = snapshots(stuck, "stuck", *words, check=False)
        assert "outcome is unknown" in said or "did not return within" in said, said
        hang.unlink()
    isolated = 'isolation = "process"' in stuck.config_file.read_text()
    name, kind = ("work", "Active") if isolated else ("layer", "Committed")

    def settled() -> bool:
        rows = [line.split() for line in snapshots(stuck, "stuck", "ls", check=False).splitlines()[1:]]
        return [[row[0], row[-1]] for row in rows if row] == [[name, kind]] and objects(stuck) == 1

    until(settled, 30)
    if isolated:  # its commit never was; it can be now
        until(lambda: health(stuck, "snapshotters.stuck") == "SERVING", 30)
        snapshots(stuck, "stuck", "commit", "layer", "work")
    assert "layer" in snapshots(stuck, "stuck", "ls")


def test_a_daemon_stops_though_one_hangs(stuck: PrivateDaemon) -> None:
    snapshots(stuck, "stuck", "prepare", "k")
    (stuck.root / "snapshotters/stuck/hang-remove").write_text("")
    snapshots(stuck, "stuck", "rm", "k")
    assert stuck.process is not None
    began = time.monotonic()
    stuck.process.terminate()
    assert stuck.process.wait(30) == 0
    assert time.monotonic() - began < 25
