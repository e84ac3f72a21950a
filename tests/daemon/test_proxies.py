"""Anywhere: our backends under a stock containerd, a stock containerd's under our daemon, and ours under ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from intermodal_proxy.snapshotter import ProxySnapshotter

from tests.harness.containerd import Containerd
from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built
from tests.harness.waiting import until

#: An afternoon's snapshotter: the filesystem part of one, as a distribution of somebody else's.
SAMPLE = """
import shutil
from intermodal_core.contracts.common import Mount
from intermodal_core.plugin import Plugin
from intermodal_snapshots.directory import DirectorySnapshotter

class Copying(DirectorySnapshotter):
    def make(self, directory, kind, parents):
        if parents:
            shutil.copytree(parents[0] / "fs", directory / "fs", symlinks=True)
        else:
            (directory / "fs").mkdir(mode=0o755)
    def mounts_of(self, directory, kind, parents):
        return [Mount("bind", str(directory / "fs"), ("ro" if kind == "view" else "rw", "rbind"))]

plugin = Plugin(factory=lambda context: Copying(context.root_dir()))
"""


@contextmanager
def serving(tmp_path: Path, kind: str, name: str, *arguments: str, path: str = "") -> Iterator[Path]:
    """`imod plugins serve` until the block ends; the socket."""
    base = tmp_path / f"serve-{kind}-{name}"
    base.mkdir(exist_ok=True)
    address = base / "s.sock"
    command = [sys.executable, "-m", "intermodal.cli.main", "plugins", "serve", kind, name, "--address", str(address)]
    command += ["--root", str(base / "root"), "--state", str(base / "state"), *arguments]
    with open(base / "log", "wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": path}
        )
    try:
        until(lambda: "ready on" in (base / "log").read_text() or process.poll() is not None, 30)
        assert process.poll() is None, (base / "log").read_text()
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(20) == 0, (base / "log").read_text()
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def ctr(address: str, *arguments: str) -> str:
    done = subprocess.run(
        ["ctr", "--address", address, *arguments], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["native", "overlayfs", "sample"])
def test_stock_containerd_runs_a_container_on_a_snapshotter_of_ours(tmp_path: Path, busybox: Built, name: str) -> None:
    site = tmp_path / "site"
    info = site / "someones-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "someones_sample.py").write_text(SAMPLE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someones\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[intermodal.snapshotters]\nsample = someones_sample:plugin\n")
    memory = Path("/dev/shm")
    place = memory / f"proxy-{os.getpid()}-{name}"  # overlay on overlay does not work
    place.mkdir()
    try:
        with serving(place, "snapshotter", name, path=str(site)) as address:
            proxies = f'[proxy_plugins.ours]\ntype = "snapshot"\naddress = "{address}"\n'
            with Containerd(config=proxies) as containerd:
                row = next(line for line in ctr(containerd.address, "plugins", "ls").splitlines() if "ours" in line)
                assert row.split()[-1] == "ok"
                ctr(containerd.address, "images", "import", "--snapshotter", "ours", str(busybox.path))
                said = ctr(
                    containerd.address, "run", "--rm", "--snapshotter", "ours", "docker.io/library/busybox:latest",
                    f"proxy-{os.getpid()}", "sh", "-c", "echo hello > /file; cat /file",
                )  # fmt: skip
                assert said == "hello\n"
                listed = ctr(containerd.address, "snapshots", "--snapshotter", "ours", "ls")
                assert "Committed" in listed
                proxy = ProxySnapshotter(str(address), "ours", timeout=30)
                until(lambda: {info.kind for info in proxy.walk()} == {"committed"}, 20)  # ctr's own goes afterwards
                ctr(containerd.address, "images", "rm", "--sync", "docker.io/library/busybox:latest")
                until(lambda: not list(proxy.walk()), 20)
                proxy.close()
    finally:
        subprocess.run(["rm", "-rf", place], check=True)


@pytest.mark.slow
def test_stock_containerd_keeps_its_content_in_a_store_of_ours(tmp_path: Path, busybox: Built) -> None:
    with serving(tmp_path, "content", "local") as address:
        proxies = f'[proxy_plugins.ours]\ntype = "content"\naddress = "{address}"\n'
        with Containerd(config=proxies, disabled="io.containerd.content.v1.content") as containerd:
            ctr(containerd.address, "images", "import", "--snapshotter", "native", str(busybox.path))
            digests = {path.name for path in (tmp_path / "serve-content-local/root").rglob("blobs/sha256/*")}
            listed = ctr(containerd.address, "content", "ls", "-q").split()
            assert digests
            assert {digest.removeprefix("sha256:") for digest in listed} == digests
            said = ctr(
                containerd.address, "run", "--rm", "--snapshotter", "native", "docker.io/library/busybox:latest",
                f"proxy-{os.getpid()}", "sh", "-c", "echo hello",
            )  # fmt: skip
            assert said == "hello\n"


@pytest.mark.slow
def test_our_daemon_runs_a_container_on_a_stock_containerds_snapshotter(busybox: Built) -> None:
    """A whole daemon's own service speaks as a plugin does; it wants a namespace, and a lease keeps its collector away."""
    with Containerd() as containerd:
        ctr(containerd.address, "leases", "create", "--id", "ours")
        config = f"""
[proxy_plugins.stock]
type = "snapshot"
address = "{containerd.address}"
snapshotter = "native"
headers = {{ containerd-namespace = "default", containerd-lease = "ours" }}
"""
        with PrivateDaemon(config) as daemon:
            daemon.imod("images", "import", "--snapshotter", "stock", str(busybox.path), check=True)
            run = (
                "run",
                "--rm",
                "--net",
                "none",
                "--snapshotter",
                "stock",
                "busybox",
                "sh",
                "-c",
                "echo hi; echo x > /new",
            )
            assert daemon.imod(*run, check=True).stdout == "hi\n"
            assert "Committed" in ctr(containerd.address, "snapshots", "--snapshotter", "native", "ls")
            daemon.imod("images", "rm", "busybox", check=True)
            listed = ("snapshots", "--snapshotter", "native", "ls")
            until(lambda: "Active" not in ctr(containerd.address, *listed), 20)


@pytest.mark.slow
def test_our_daemon_on_plugins_that_are_served(tmp_path: Path, busybox: Built) -> None:
    """A snapshotter and a differ behind sockets; they go, and come back, while the daemon serves."""
    config = f"""
[differs.tar]
enabled = false
[proxy_plugins.far]
type = "snapshot"
address = "{tmp_path}/serve-snapshotter-native/s.sock"
exports = {{ where = "far away" }}
[proxy_plugins.fardiff]
type = "diff"
address = "{tmp_path}/serve-differ-tar/s.sock"
headers = {{ containerd-namespace = "NAMESPACE" }}
"""
    with PrivateDaemon(config, start=False) as daemon:
        daemon.config_file.write_text(daemon.config_file.read_text().replace("NAMESPACE", daemon.namespace))
        daemon.start()
        run = ("run", "--rm", "--net", "none", "--snapshotter", "far", "busybox", "echo", "hello")
        with (
            serving(tmp_path, "snapshotter", "native"),
            serving(tmp_path, "differ", "tar", "--content", daemon.address),
        ):
            daemon.imod("images", "import", "--snapshotter", "far", str(busybox.path), check=True)
            assert daemon.imod(*run, check=True).stdout == "hello\n"
            assert '"where": "far away"' in daemon.imod("plugins", "inspect", "snapshotters.far", check=True).stdout
        began = time.monotonic()
        done = daemon.imod(*run)
        assert done.returncode == 125
        assert "connect" in done.stderr
        assert time.monotonic() - began < 3, "a missing socket costs no time"
        with serving(tmp_path, "snapshotter", "native"):
            assert daemon.imod(*run, check=True).stdout == "hello\n"


def test_mistakes_in_the_table(tmp_path: Path) -> None:
    for text, words in (
        (
            '[proxy_plugins.x]\ntype = "snapshots"\naddress = "/s"\n',
            'expected one of "content", "diff", "snapshot", found',
        ),
        ('[proxy_plugins.x]\ntype = "snapshot"\n', 'proxy_plugins.x: the key "address" is required'),
        (
            '[proxy_plugins.x]\ntype = "snapshot"\naddress = "/s"\nadress = 1\n',
            'has no key "adress"; did you mean "address"',
        ),
    ):
        (tmp_path / "config.toml").write_text(f"version = 1\n{text}")
        command = [sys.executable, "-m", "intermodal.cli.main", "config", "check", str(tmp_path / "config.toml")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode != 0
        assert words in done.stderr, done.stderr
        assert "config.toml:" in done.stderr


def test_what_cannot_be_served(tmp_path: Path) -> None:
    for words, sentence in (
        (("runtime", "runc"), "a plugin of the kind runtime cannot be served"),
        (("snapshotter", "nothing"), "there is no snapshotters.nothing"),
    ):
        command = [sys.executable, "-m", "intermodal.cli.main", "plugins", "serve", *words]
        command += ["--address", str(tmp_path / "s"), "--root", str(tmp_path / "r"), "--state", str(tmp_path / "t")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 125
        assert sentence in done.stderr
