"""A container in a user namespace, on an id-mapped root, over the API as newer clients drive it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any
from intermodal_api.containerd.services import containers_pb2, snapshots_pb2, tasks_pb2

from tests.harness.api import Api
from tests.harness.daemon import PrivateDaemon
from tests.harness.images import NAME, busybox_layout

LABELS = {
    "containerd.io/snapshot/uidmapping": "0:100000:65536",
    "containerd.io/snapshot/gidmapping": "0:200000:65536",
}
SCRIPT = "id -u; cat /proc/self/uid_map; stat -c %u:%g /bin/busybox; touch /new && stat -c %u:%g /new"


def test_root_in_the_container_is_nobody_on_the_host(tmp_path: Path) -> None:
    archive = busybox_layout(tmp_path / "busybox.tar")
    with PrivateDaemon() as daemon, Api(daemon.address, daemon.namespace) as api:
        daemon.imod("images", "import", str(archive.path), check=True)
        # The spec and the chain are what imod makes; a namespace and mappings are added, as clients do.
        daemon.imod("create", "--name", "model", "--net", "none", "busybox", "sh", "-c", SCRIPT, check=True)
        model = api.call(containers_pb2, "Get", id="model").container
        spec = json.loads(model.spec.value)
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        spec["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 200000, "size": 65536}]
        spec["linux"]["cgroupsPath"] += "-mapped"
        parent = api.call(snapshots_pb2, "Stat", snapshotter="overlayfs", key=model.snapshot_key).info.parent
        mounts = api.call(
            snapshots_pb2, "Prepare", snapshotter="overlayfs", key="mapped", parent=parent, labels=LABELS
        ).mounts
        container = {
            "id": "mapped",
            "image": NAME,
            "snapshotter": "overlayfs",
            "snapshot_key": "mapped",
            "runtime": {"name": "io.containerd.runc.v2"},
            "spec": Any(type_url=model.spec.type_url, value=json.dumps(spec).encode()),
        }
        api.call(containers_pb2, "Create", container=container)
        out = tmp_path / "out"
        api.call(tasks_pb2, "Create", container_id="mapped", rootfs=mounts, stdout=f"file://{out}")
        api.call(tasks_pb2, "Start", container_id="mapped")
        assert api.call(tasks_pb2, "Wait", container_id="mapped").exit_status == 0
        api.call(tasks_pb2, "Delete", container_id="mapped")
        user, mapping, shared, new = out.read_text().splitlines()
        assert (user, mapping.split(), shared, new) == ("0", ["0", "100000", "65536"], "0:0", "0:0")
        number = next(path for path in (daemon.root / "snapshotters/overlayfs/snapshots").glob("*/fs/new"))
        assert (number.stat().st_uid, number.stat().st_gid) == (100000, 200000)
        api.call(containers_pb2, "Delete", id="mapped")
        api.call(snapshots_pb2, "Remove", snapshotter="overlayfs", key="mapped")
        daemon.imod("rm", "model", check=True)


@pytest.mark.parametrize("net", ["none", "host"])
def test_imod_run_in_a_user_namespace(tmp_path: Path, net: str) -> None:
    archive = busybox_layout(tmp_path / "busybox.tar")
    with PrivateDaemon() as daemon:
        daemon.imod("images", "import", str(archive.path), check=True)
        run = ["run", "--rm", "--net", net, "--userns", "0:100000:65536"]
        done = daemon.imod(*run, "busybox", "sh", "-c", f"{SCRIPT}; ls /sys")
        assert done.returncode == 0, done.stderr
        user, mapping, shared, new, *_ = done.stdout.splitlines()
        assert (user, mapping.split(), shared, new) == ("0", ["0", "100000", "65536"], "0:0", "0:0")
        assert "class" in done.stdout.splitlines()
        other = daemon.imod(*run, "--snapshotter", "native", "busybox", "true")
        assert "the snapshotter native cannot map ids" in other.stderr
        assert "no mapping of ids" in daemon.imod("run", "--userns", "nonsense", "busybox", "true").stderr
        assert daemon.imod("ps", "-a", "-q", check=True).stdout == ""
