"""overlayfs keeps the snapshotter contract, on a disk and in memory; and what is its own."""

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from intermodal_core.contracts.common import Mount
from intermodal_core.errors import FailedPrecondition, InvalidArgument, PluginSkipped
from intermodal_core.testing.snapshotters import SnapshotterKit
from intermodal_overlayfs.plugin import Config, plugin
from intermodal_overlayfs.snapshotter import OverlaySnapshotter, probe
from intermodal_snapshots.mounts import filesystem_of, mount_all, mounts_below, temp_mount, unmount_all


class TestOnDisk(SnapshotterKit):
    capabilities = frozenset(plugin.capabilities)

    @pytest.fixture
    def place(self, tmp_path):
        if problem := probe(tmp_path):
            pytest.skip(f"overlay does not work on {filesystem_of(tmp_path)} here: {problem}")
        return tmp_path

    @pytest.fixture
    def factory(self):
        return OverlaySnapshotter


class TestInMemory(SnapshotterKit):
    capabilities = frozenset(plugin.capabilities)

    @pytest.fixture
    def place(self, tmp_path):
        mount_all([Mount("tmpfs", "tmpfs", ("size=512m",))], tmp_path)
        yield tmp_path
        unmount_all(tmp_path)

    @pytest.fixture
    def factory(self):
        return lambda root: OverlaySnapshotter(root, sync_remove=True)


def _context(root: Path, config: Config = Config()) -> SimpleNamespace:  # noqa: B008 - frozen
    root.mkdir(exist_ok=True)
    return SimpleNamespace(root_dir=lambda: root, config=config, log=logging.getLogger("test"))


@pytest.fixture
def memory(tmp_path):
    """A tmpfs, on which overlay works wherever the tests run."""
    mount_all([Mount("tmpfs", "tmpfs", ("size=64m",))], tmp_path)
    yield tmp_path
    unmount_all(tmp_path)
    assert mounts_below(tmp_path) == []


def test_plugin_makes_one_and_leaves_no_probe(memory):
    snapshotter = plugin.factory(_context(memory / "root", Config(mount_options=("metacopy=off",))))
    assert sorted(os.listdir(memory / "root")) == ["records.db", "records.db-shm", "records.db-wal", "snapshots"]
    snapshotter.prepare("base")
    snapshotter.commit("base layer", "base")
    (mount,) = snapshotter.prepare("run", "base layer")
    assert "metacopy=off" in mount.options
    with temp_mount([mount], memory):
        pass
    snapshotter.close()


def test_plugin_is_skipped_where_overlay_cannot_be(memory):
    for name in ("lower", "upper", "work", "merged"):
        (memory / name).mkdir()
    options = (f"lowerdir={memory}/lower", f"upperdir={memory}/upper", f"workdir={memory}/work")
    mount_all([Mount("overlay", "overlay", options)], memory / "merged")
    with pytest.raises(PluginSkipped, match="overlay does not work on a filesystem of type overlay") as caught:
        plugin.factory(_context(memory / "merged/root"))
    assert "native" in caught.value.remedy
    assert os.listdir(memory / "merged/root") == []


def test_mounts_have_the_forms_that_clients_know(memory):
    snapshotter = OverlaySnapshotter(memory / "root")
    layers = memory / "root/snapshots"
    assert snapshotter.prepare("a") == [Mount("bind", f"{layers}/1/fs", ("rw", "rbind"))]
    snapshotter.commit("A", "a")
    assert snapshotter.view("look", "A") == [Mount("bind", f"{layers}/1/fs", ("ro", "rbind"))]
    (mount,) = snapshotter.prepare("b", "A")
    assert (mount.type, mount.source) == ("overlay", "overlay")
    assert mount.options[-3:] == (f"workdir={layers}/3/work", f"upperdir={layers}/3/fs", f"lowerdir={layers}/1/fs")
    if Path("/sys/module/overlay/parameters/index").exists():
        assert "index=off" in mount.options
    snapshotter.commit("B", "b")
    (mount,) = snapshotter.view("look at B", "B")
    assert mount.options[-1] == f"lowerdir={layers}/3/fs:{layers}/1/fs"
    snapshotter.close()


def test_hundreds_of_layers_are_mountable(memory):
    snapshotter = OverlaySnapshotter(memory / "root")
    parent = ""
    for number in range(200):
        with temp_mount(snapshotter.prepare("work"), memory) as top:
            (top / f"file-{number}").write_text(str(number))
        snapshotter.commit(f"layer-{number}", "work", parent=parent)
        parent = f"layer-{number}"
    mounts = snapshotter.prepare("run", parent)
    assert sum(map(len, mounts[0].options)) > 4096
    here = os.getcwd()
    with temp_mount(mounts, memory) as top:
        assert len(os.listdir(top)) == 200
        assert (top / "file-0").read_text() == "0"
    assert os.getcwd() == here
    snapshotter.close()


def test_a_root_that_overlayfs_would_misread_is_refused(memory):
    for name in ("a:b", "a,b", "a\\b"):
        with pytest.raises(InvalidArgument, match="comma, colon or backslash"):
            OverlaySnapshotter(memory / name)


def test_a_second_process_is_refused(memory):
    first = OverlaySnapshotter(memory / "root")
    with pytest.raises(FailedPrecondition, match="Another process"):
        OverlaySnapshotter(memory / "root")
    first.close()
    OverlaySnapshotter(memory / "root").close()
