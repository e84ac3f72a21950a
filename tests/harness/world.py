"""Whether what a daemon has recorded and what there is in the world are the same.

`differences(daemon)` reads the databases and looks at disk, mounts, cgroups and processes: after a crash and a restart
there must come none. What a client may keep over a crash (its leases and ingests, snapshots that it prepared) is told
apart by `client`.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from tests.harness.daemon import PrivateDaemon, children_of

SECONDS = 15


def settled(daemon: PrivateDaemon, *, client: bool = False, seconds: float = SECONDS) -> None:
    """Wait until record and world agree. Raises AssertionError with what differs, and the daemon's log."""
    daemon.ctr("snapshots", "ls", check=True)  # what a crash left in a snapshotter is settled before its first use
    deadline = time.monotonic() + seconds
    while found := list(differences(daemon, client=client)):
        if time.monotonic() > deadline:
            raise AssertionError("left behind:\n  " + "\n  ".join(found) + f"\nthe daemon's log:\n{daemon.tail()}")
        time.sleep(0.02)


def differences(daemon: PrivateDaemon, *, client: bool = False) -> Iterator[str]:
    """A sentence for each thing that is recorded and not there, or there and not recorded."""
    rows = {table: records(daemon, table) for table in ("operations", "tasks", "runs", "containers", "snapshots")}
    tasks = {(row["namespace"], row["id"]): row for row in rows["tasks"]}
    runs = {(row["namespace"], row["id"]) for row in rows["runs"]}
    yield from (f"the operation {row['kind']} is begun still" for row in rows["operations"])
    yield from (f"the container {row['id']} is pending" for row in rows["runs"] if row["pending"])
    containers = {(row["namespace"], row["id"]) for row in rows["containers"]}
    yield from (f"the run {run} has no container" for run in sorted(runs - containers))
    if not client:
        yield from (f"the container {key} has no run" for key in sorted(containers - runs))
    yield from _extra("log", _below(daemon.root / "managers/tasks/logs") - runs)
    yield from _tasks(daemon, tasks)
    yield from _networks(daemon)
    yield from _snapshots(daemon, rows["snapshots"])
    if not client:
        used = {row["snapshot_key"] for row in rows["containers"]}
        active = {row["key"] for row in rows["snapshots"] if row["kind"] != "committed"}
        yield from _extra("active snapshot", active - used)
        yield from (f"the lease {row['id']} is there" for row in records(daemon, "leases"))
        yield from _extra("ingest", set(os.listdir(daemon.root / "content/local/ingests")))
    blobs = {f"sha256:{name}" for name in os.listdir(daemon.root / "content/local/blobs/sha256")}
    yield from _both("content record", {row["digest"] for row in records(daemon, "content")}, "blob", blobs)
    yield from _extra("incoming file", set(os.listdir(daemon.root / "content/local/incoming")))


def records(daemon: PrivateDaemon, table: str) -> list[dict[str, Any]]:
    """The rows of a table of the daemon's metadata, as plain dicts."""
    path = daemon.root / "metadata/sqlite/metadata.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
        found = db.execute(f"SELECT * FROM {table}").fetchall()
    return [msgspec.msgpack.decode(row[-1]) for row in found]


def _namespaces(daemon: PrivateDaemon) -> set[Path]:
    return set((daemon.state / "managers/networks/netns").glob("*"))


def _networks(daemon: PrivateDaemon) -> Iterator[str]:
    """Attachments, each with a namespace, a record of the chain, leases and a link, and none of these without one."""
    rows = records(daemon, "attachments")
    yield from (
        f"the attachment of {row['container']} to {row['network']} is {row['state']}"
        for row in rows
        if row["state"] != "attached"
    )
    owners = {f"{row['namespace']}__{row['container']}" for row in rows}
    yield from _both("attached container", owners, "namespace", {path.name for path in _namespaces(daemon)})
    yield from _extra(
        "directory of hosts files", {f"{a}__{b}" for a, b in _below(daemon.state / "managers/networks/etc")} - owners
    )
    cni = daemon.root / "networks/cni"
    mine = {(row["network"], f"{row['namespace']}__{row['container']}", row["attachment"]["interface"]) for row in rows}
    results = [json.loads(path.read_text()) for path in (cni / "results").glob("*")]
    yield from _both(
        "attachment", mine, "record of CNI", {(r["networkName"], r["containerId"], r["ifName"]) for r in results}
    )
    leases = [
        (path.parent.name, *path.read_text().split())
        for path in (cni / "leases").glob("*/*")
        if not path.name.startswith(("lock", "last_"))
    ]
    yield from _both("attachment", mine, "lease", set(leases))
    if len(leases) != len(set(leases)):
        yield f"an attachment has several leases: {leases}"
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=False).stdout
    elements = {tuple(words.split()) for words in re.findall(r'comment "([^"]*)"', rules) if daemon.namespace in words}
    yield from _extra("element of nftables", elements - mine)
    names = {path.stem.removeprefix("10-") for path in (cni / "net.d").glob("*.conflist")}
    bridges = {plugin["bridge"] for name in names for plugin in _plugins(cni / "net.d", name) if "bridge" in plugin}
    ports = [line for bridge in bridges for line in _ports(bridge)]
    if len(ports) != len(mine):
        yield f"{len(ports)} links on the bridges {sorted(bridges)} for {len(mine)} attachments"


def _ports(bridge: str) -> list[str]:
    done = subprocess.run(["ip", "-o", "link", "show", "master", bridge], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def _plugins(directory: Path, name: str) -> list[dict[str, Any]]:
    for path in directory.glob(f"*{name}.conflist"):
        plugins: list[dict[str, Any]] = json.loads(path.read_text())["plugins"]
        return plugins
    return []


def _tasks(daemon: PrivateDaemon, tasks: dict[tuple[str, str], dict[str, Any]]) -> Iterator[str]:
    """Bundles, mounts, cgroups, sockets and the runtime's state, each for a task; processes, each below a task's shim."""
    running = {key for key, row in tasks.items() if row["exit"] is None}
    held = {each for runtime in (daemon.state / "runtimes").glob("*") for each in _below(runtime / "runc")}
    mounts = set(daemon._mounts()) - {str(path) for path in _namespaces(daemon)}
    roots = {key for key in tasks if f"{tasks[key]['bundle']}/rootfs" in mounts}
    yield from _both("task", set(tasks), "bundle", _below(daemon.state / "managers/tasks/bundles"))
    yield from _extra("mount", mounts - {f"{tasks[key]['bundle']}/rootfs" for key in roots})
    yield from _both("running task", running, "mounted root", roots & running)
    yield from _both("running task", running, "container of the runtime", held & running)
    yield from _extra("container of the runtime", held - set(tasks))
    yield from _extra("cgroup", {str(path) for path in daemon._cgroups() if (path.parent.name, path.name) not in tasks})
    count = len(list((daemon.state / "runtimes").glob("*/s/*")))
    if not len(running) <= count <= len(tasks):  # the shim of one that has ended may be gone before its record
        yield f"{count} sockets of shims for {len(tasks)} tasks"
    yield from _processes(daemon, {key: row["bundle"] for key, row in tasks.items()}, running)


def _processes(
    daemon: PrivateDaemon, bundles: dict[tuple[str, str], str], running: set[tuple[str, str]]
) -> Iterator[str]:
    """A running task has a shim; one that has ended may have it until the client deletes the task."""
    shims = {}
    for key, bundle in bundles.items():
        try:
            shims[key] = json.loads((Path(bundle) / "shim.json").read_text())["pid"]
        except FileNotFoundError:
            if key in running:
                yield f"the running task {key} has no shim"
    mine = {daemon.pid, *children_of(daemon.pid), *shims.values()}
    there = dict(daemon.processes())
    ended = (key for key in running & set(shims) if shims[key] not in there)
    yield from (f"the shim {shims[key]} of {key} has ended" for key in ended)
    for pid, words in there.items():
        above, seen = pid, 0
        while above > 1 and above not in mine and seen < 64:
            above, seen = _parent(above), seen + 1
        if above not in mine:
            yield f"process {pid}: {words}"


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _snapshots(daemon: PrivateDaemon, rows: list[dict[str, Any]]) -> Iterator[str]:
    yield from (f"the commit of the snapshot {row['key']} is under way" for row in rows if row["becomes"])
    for root in sorted((daemon.root / "snapshotters").iterdir()):
        with closing(sqlite3.connect(f"file:{root / 'records.db'}?mode=ro", uri=True, timeout=5)) as db:
            try:
                objects = dict(db.execute("SELECT key, id FROM snapshots").fetchall())
            except sqlite3.OperationalError:
                continue  # killed while it was being made, and not used since
        mine = {row["object"] for row in rows if row["snapshotter"] == root.name}
        yield from _both(f"{root.name} snapshot", mine, "object", set(objects))
        directories = {int(name) for name in os.listdir(root / "snapshots")}
        yield from _both(f"{root.name} object", set(objects.values()), "directory", directories)


def _below(directory: Path) -> set[tuple[str, str]]:
    return {(path.parent.name, path.name) for path in directory.glob("*/*")}


def _both(one: str, ones: set[Any], other: str, others: set[Any]) -> Iterator[str]:
    yield from (f"the {one} {each} has no {other}" for each in sorted(ones - others))
    yield from (f"the {other} {each} has no {one}" for each in sorted(others - ones))


def _extra(what: str, found: set[Any]) -> Iterator[str]:
    yield from (f"the {what} {each} is there" for each in sorted(found))
