"""The conformance kit of snapshotters: subclass `SnapshotterKit`, give it a factory, run pytest.

    class TestMine(SnapshotterKit):
        capabilities = frozenset({"rebase"})          # as the plugin declares them; the others' tests are skipped

        @pytest.fixture
        def factory(self):
            return lambda root: MySnapshotter(root)

Needs root, since what a snapshotter returns is really mounted. A test's name says which rule of
`intermodal_core.contracts.snapshotters` it holds to: `test_s05_...` is of [S5].
"""

# ruff: noqa: D102 - what a test holds to is the contract's rule that its name gives

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from intermodal_core.contracts.snapshotters import Snapshotter
from intermodal_core.errors import (
    AlreadyExists,
    FailedPrecondition,
    IntermodalError,
    InvalidArgument,
    NotFound,
    Unimplemented,
)
from intermodal_core.syscalls import CLONE_NEWNS, MS_PRIVATE, MS_REC, mount, unshare
from intermodal_core.testing.crashes import kill_at_every_step, killed_at
from intermodal_core.testing.snapshotter_fixtures import Factory, SnapshotterFixtures, directories_below, state_of
from intermodal_core.testing.trees import THREADS, age, at_once, fill, tree_of

__all__ = ["Factory", "SnapshotterKit"]


class SnapshotterKit(SnapshotterFixtures):
    """The rules of the contract, each a test or several."""

    # -- S1: crashes --------------------------------------------------------------------------------------------------

    def test_s01_killed_at_any_step(
        self, factory: Factory, root: Path, place: Path, mounted: Any, layer: Any, tree: Any
    ) -> None:
        self.needs_fork()
        steps: list[Callable[[Snapshotter], object]] = [
            lambda s: s.prepare("work", "base", {"a": "1"}),
            lambda s: s.commit("layer", "work", {"b": "2"}),
            lambda s: s.prepare("run", "layer"),
            lambda s: s.view("look", "layer"),
            lambda s: s.update("run", {"c": "3"}),
            lambda s: s.remove("look"),
            lambda s: s.remove("run"),
            lambda s: s.cleanup(),
        ]

        def prepare_root(root: Path) -> Snapshotter:
            snapshotter = factory(root)
            layer(snapshotter, "base", "", fill)
            return snapshotter

        model = prepare_root(place / "model")
        states = [state_of(model)]
        for call in steps:
            call(model)
            states.append(state_of(model))
        content = tree(model, "base")
        for name in ("layer", "base"):
            model.remove(name)
        model.cleanup()
        model.close()
        empty = directories_below(place / "model")
        number = 0

        def fresh() -> Callable[[Callable[[], None]], None]:
            nonlocal number
            number += 1
            here = root / str(number)
            prepare_root(here).close()

            def scenario(done: Callable[[], None]) -> None:
                snapshotter = factory(here)
                for call in steps:
                    call(snapshotter)
                    done()
                snapshotter.close()

            return scenario

        root.mkdir()
        kills = 0
        for step, calls in kill_at_every_step(fresh):
            kills += 1
            snapshotter = factory(root / str(number))
            state = state_of(snapshotter)
            assert state in states[calls : calls + 2], f"killed at step {step}, after {calls} calls: {state}"
            for key, (kind, _parent, _labels) in state.items():
                if kind == "committed":
                    assert tree(snapshotter, key) == content, f"killed at step {step}: {key} differs"
                else:
                    with mounted(snapshotter.mounts(key)) as top:
                        assert tree_of(top) == content, f"killed at step {step}: {key} differs"
                snapshotter.usage(key)
            for key in sorted(state, key=["look", "run", "work", "layer", "base"].index):
                snapshotter.remove(key)
            snapshotter.cleanup()
            snapshotter.close()
            assert directories_below(root / str(number)) == empty, f"killed at step {step}: something is left behind"
            shutil.rmtree(root / str(number))
        assert kills > len(steps)

    def test_s01_killed_while_files_are_written(
        self, factory: Factory, root: Path, place: Path, layer: Any, tree: Any, mounted: Any
    ) -> None:
        """The caller dies with the snapshotter: what it had begun to write is an active snapshot, nothing else."""
        self.needs_fork()
        factory(root).close()

        def scenario(done: Callable[[], None]) -> None:
            unshare(CLONE_NEWNS)
            mount("none", "/", "", MS_REC | MS_PRIVATE)
            snapshotter = factory(root)
            layer(snapshotter, "base", "", fill)
            done()
            with mounted(snapshotter.prepare("half", "base")) as top:
                for index in range(100):
                    (top / f"new-{index}").write_text("x")
                os.kill(os.getpid(), 9)

        assert killed_at(1 << 30, scenario) == (True, 1)
        snapshotter = factory(root)
        assert set(state_of(snapshotter)) == {"base", "half"}
        assert "new-0" not in tree(snapshotter, "base")
        snapshotter.remove("half")
        snapshotter.cleanup()
        snapshotter.close()

    # -- S2, S15: closing ---------------------------------------------------------------------------------------------

    def test_s02_close_deletes_nothing(self, factory: Factory, root: Path, layer: Any, tree: Any, mounted: Any) -> None:
        first = factory(root)
        layer(first, "base", "", fill)
        with mounted(first.prepare("run", "base", {"containerd.io/snapshot/x": "y"})) as top:
            (top / "written").write_text("kept")
        first.view("look", "base")
        before, shown = list(first.walk()), tree(first, "base")
        first.close()
        second = factory(root)
        assert list(second.walk()) == before
        assert tree(second, "base") == shown
        with mounted(second.mounts("run")) as top:
            assert (top / "written").read_text() == "kept"
        second.close()

    def test_s15_close_lets_go(self, factory: Factory, root: Path, layer: Any) -> None:
        factory(root).close()
        files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        snapshotter = factory(root)
        layer(snapshotter, "base", "", fill)
        for index in range(8):
            snapshotter.prepare(f"run-{index}", "base")
        for index in range(8):
            snapshotter.remove(f"run-{index}")
        snapshotter.close()
        snapshotter.close()
        assert threading.active_count() == threads
        assert len(os.listdir("/proc/self/fd")) == files
        again = factory(root)
        assert [info.key for info in again.walk()] == ["base"]
        again.close()

    # -- S3: one bad snapshot -----------------------------------------------------------------------------------------

    def test_s03_a_bad_snapshot_harms_no_other(
        self, factory: Factory, root: Path, layer: Any, tree: Any, mounted: Any
    ) -> None:
        snapshotter = factory(root)
        layer(snapshotter, "good", "", fill)
        layer(snapshotter, "bad", "", lambda top: (top / "marker-of-bad").write_text("x"))
        shown = tree(snapshotter, "good")
        snapshotter.close()
        self.damage(root, "marker-of-bad")
        snapshotter = factory(root)
        assert {info.key for info in snapshotter.walk()} == {"good", "bad"}
        assert tree(snapshotter, "good") == shown
        assert snapshotter.usage("good").inodes > 0
        with mounted(snapshotter.prepare("run", "good")) as top:
            (top / "written").write_text("x")
        with suppress(IntermodalError):  # an error by meaning, or an answer: nothing else
            snapshotter.usage("bad")
        with suppress(IntermodalError):
            snapshotter.prepare("on bad", "bad")
            snapshotter.remove("on bad")
        snapshotter.cleanup()
        snapshotter.remove("bad")
        snapshotter.cleanup()
        snapshotter.close()

    # -- S4: isolation ------------------------------------------------------------------------------------------------

    def test_s04_siblings_do_not_see_each_other(self, snapshotter: Snapshotter, layer: Any, mounted: Any) -> None:
        layer(snapshotter, "base", "", fill)
        made = snapshotter.prepare("one", "base"), snapshotter.prepare("two", "base"), snapshotter.view("look", "base")
        with mounted(made[0]) as one, mounted(made[1]) as two, mounted(made[2]) as look:
            before = tree_of(two)
            (one / "etc/hosts").write_text("changed\n")
            (one / "etc/passwd").unlink()
            (one / "new").write_text("x")
            (one / "etc").chmod(0o700)
            assert tree_of(two) == before == tree_of(look)

    # -- S5: prepare --------------------------------------------------------------------------------------------------

    def test_s05_prepare_without_parent_is_empty(self, snapshotter: Snapshotter, mounted: Any) -> None:
        with mounted(snapshotter.prepare("a")) as top:
            assert os.listdir(top) == []
            status = top.stat()
            assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o755, 0, 0)
            (top / "x").write_text("x")

    def test_s05_prepare_shows_the_parent(self, snapshotter: Snapshotter, layer: Any, tree: Any, mounted: Any) -> None:
        def write(top: Path) -> None:
            fill(top)
            os.chown(top, 3, 4)
            top.chmod(0o1711)
            os.utime(top, ns=(10**18 + 5, 10**18 + 6))

        layer(snapshotter, "base", "", write)
        shown = tree(snapshotter, "base")
        with mounted(snapshotter.prepare("run", "base")) as top:
            assert tree_of(top) == shown
            hosts, linked = (top / "etc/hosts").stat(), (top / "opt/linked").stat()
            assert hosts.st_ino == linked.st_ino
            assert hosts.st_nlink == 2

    def test_s05_prepare_errors(self, snapshotter: Snapshotter, layer: Any, root: Path) -> None:
        layer(snapshotter, "base")
        snapshotter.prepare("active", "base")
        snapshotter.view("view", "base")
        before, directories = list(snapshotter.walk()), directories_below(root)
        for make in (snapshotter.prepare, snapshotter.view):
            for taken in ("base", "active", "view"):
                with pytest.raises(AlreadyExists):
                    make(taken, "base")
            with pytest.raises(NotFound):
                make("new", "nowhere")
            for parent in ("active", "view"):
                with pytest.raises(InvalidArgument):
                    make("new", parent)
            with pytest.raises(InvalidArgument):
                make("", "base")
        assert list(snapshotter.walk()) == before
        assert directories_below(root) == directories

    def test_s05_one_of_many_wins(self, snapshotter: Snapshotter, layer: Any) -> None:
        layer(snapshotter, "base", "", fill)
        outcomes = at_once(lambda _: snapshotter.prepare("run", "base"))
        assert sorted(type(o).__name__ for o in outcomes) == ["AlreadyExists"] * (THREADS - 1) + ["list"]
        assert [o for o in outcomes if isinstance(o, list)] == [snapshotter.mounts("run")]

    # -- S6, S7: views and mounts -------------------------------------------------------------------------------------

    def test_s06_views_cannot_be_written(self, snapshotter: Snapshotter, layer: Any, tree: Any, mounted: Any) -> None:
        layer(snapshotter, "base", "", fill)
        layer(snapshotter, "second", "base", lambda top: (top / "more").write_text("x"))
        shown = tree(snapshotter, "second")
        for key, parent in (("none", ""), ("one", "base"), ("two", "second")):
            with mounted(snapshotter.view(key, parent)) as top:
                assert os.path.exists(top / "etc/hosts") == bool(parent)
                for attempt in (
                    lambda top=top: (top / "new").write_text("x"),
                    lambda top=top: top.chmod(0o700),
                    lambda top=top: os.unlink(top / "etc/hosts") if (top / "etc").exists() else os.mkdir(top / "d"),
                ):
                    with pytest.raises(OSError, match="Read-only"):
                        attempt()
            assert snapshotter.stat(key).kind == "view"
            with pytest.raises(FailedPrecondition):
                snapshotter.commit(f"from {key}", key)
        assert tree(snapshotter, "second") == shown

    def test_s07_mounts_are_the_same_each_time(self, snapshotter: Snapshotter, layer: Any, mounted: Any) -> None:
        layer(snapshotter, "base", "", fill)
        layer(snapshotter, "second", "base", lambda top: (top / "more").write_text("x"))
        made = {
            "active": snapshotter.prepare("active", "second"),
            "alone": snapshotter.prepare("alone"),
            "view": snapshotter.view("view", "second"),
        }
        with mounted(made["active"]) as top:
            (top / "written").write_text("kept")
        for key, mounts in made.items():
            assert snapshotter.mounts(key) == mounts
            assert snapshotter.mounts(key) == mounts
        with mounted(snapshotter.mounts("active")) as top:
            assert (top / "written").read_text() == "kept"
        with pytest.raises(FailedPrecondition):
            snapshotter.mounts("base")
        with pytest.raises(NotFound):
            snapshotter.mounts("nowhere")

    # -- S8: commit ---------------------------------------------------------------------------------------------------

    def test_s08_commit(self, snapshotter: Snapshotter, layer: Any, tree: Any, mounted: Any) -> None:
        layer(snapshotter, "base", "", fill)
        with mounted(snapshotter.prepare("work", "base", {"containerd.io/snapshot/old": "1"})) as top:
            (top / "added").write_text("x")
            shown = tree_of(top)
        snapshotter.commit("layer", "work", {"containerd.io/snapshot/new": "2"})
        info = snapshotter.stat("layer")
        assert (info.kind, info.parent, info.labels) == ("committed", "base", {"containerd.io/snapshot/new": "2"})
        with pytest.raises(NotFound):
            snapshotter.stat("work")
        assert tree(snapshotter, "layer") == shown
        snapshotter.prepare("work", "layer", {"a": "b"})
        snapshotter.commit("bare", "work")
        assert snapshotter.stat("bare").labels == {}

    def test_s08_commit_errors(self, snapshotter: Snapshotter, layer: Any) -> None:
        layer(snapshotter, "base")
        snapshotter.prepare("work", "base", {"a": "b"})
        snapshotter.view("view", "base")
        before = list(snapshotter.walk())
        for name, key, error in (
            ("base", "work", AlreadyExists),
            ("view", "work", AlreadyExists),
            ("work", "work", AlreadyExists),
            ("new", "nowhere", NotFound),
            ("new", "base", FailedPrecondition),
            ("new", "view", FailedPrecondition),
            ("", "work", InvalidArgument),
        ):
            with pytest.raises(error):
                snapshotter.commit(name, key)
        if "rebase" not in self.capabilities:
            snapshotter.prepare("alone")
            before = list(snapshotter.walk())
            with pytest.raises(Unimplemented):
                snapshotter.commit("new", "alone", parent="base")
        assert list(snapshotter.walk()) == before
        # Naming the parent that it has needs no capability.
        snapshotter.commit("new", "work", parent="base")
        assert snapshotter.stat("new").parent == "base"

    def test_s08_deletions_and_replacements(self, snapshotter: Snapshotter, layer: Any, tree: Any) -> None:
        layer(snapshotter, "base", "", fill)
        expected: dict[str, tuple[Any, ...]] = {}

        def write(top: Path) -> None:
            (top / "etc/hosts").unlink()
            (top / "etc/passwd").rename(top / "etc/shadow")
            shutil.rmtree(top / "opt/deep")
            (top / "opt/deep").mkdir()
            (top / "opt/deep/fresh").write_text("only this")
            (top / "opt/link").unlink()
            (top / "opt/link").mkdir()
            (top / "opt/null").unlink()
            (top / "opt/null").write_text("a file now")
            age(top)
            expected.update(tree_of(top))

        layer(snapshotter, "changed", "base", write)
        assert "etc/hosts" not in expected
        assert "opt/deep/er" not in expected
        assert tree(snapshotter, "changed") == expected
        layer(snapshotter, "again", "changed", lambda top: (top / "etc/hosts").write_text("back"))
        assert tree(snapshotter, "again")["etc/hosts"][5] == b"back"
        assert set(tree(snapshotter, "again")) == {*expected, "etc/hosts"}

    def test_s08_rebase_shows_what_layer_on_layer_shows(
        self, snapshotter: Snapshotter, layer: Any, tree: Any, mounted: Any
    ) -> None:
        self.declares("rebase")

        def second(top: Path) -> None:
            (top / "etc/hosts").unlink()
            shutil.rmtree(top / "opt/deep")
            (top / "opt/deep").mkdir()
            (top / "opt/deep/fresh").write_text("x")
            age(top)

        def second_in_overlay_form(top: Path) -> None:
            for directory in ("etc", "opt", "opt/deep"):
                (top / directory).mkdir()
            os.mknod(top / "etc/hosts", stat.S_IFCHR, 0)
            os.setxattr(top / "opt/deep", "trusted.overlay.opaque", b"y")
            (top / "opt/deep/fresh").write_text("x")
            age(top)

        def third(top: Path) -> None:
            (top / "etc").mkdir(exist_ok=True)
            (top / "etc/hosts").write_text("back")
            age(top)

        layer(snapshotter, "1", "", fill)
        layer(snapshotter, "2", "1", second)
        layer(snapshotter, "3", "2", third)
        keys = ("side 1", "side 2", "side 3")
        for key, write in zip(keys, (fill, second_in_overlay_form, third), strict=True):
            with mounted(snapshotter.prepare(key)) as top:
                write(top)
        snapshotter.commit("r1", "side 1")
        snapshotter.commit("r2", "side 2", parent="r1")
        snapshotter.commit("r3", "side 3", parent="r2")
        for name in "123":
            assert tree(snapshotter, f"r{name}") == tree(snapshotter, name)
        assert [snapshotter.stat(f"r{n}").parent for n in "123"] == ["", "r1", "r2"]
        with pytest.raises(FailedPrecondition):
            snapshotter.remove("r2")

    def test_s08_rebase_errors(self, snapshotter: Snapshotter, layer: Any) -> None:
        self.declares("rebase")
        layer(snapshotter, "base")
        layer(snapshotter, "other")
        snapshotter.prepare("alone")
        snapshotter.prepare("work", "base")
        before = list(snapshotter.walk())
        with pytest.raises(NotFound):
            snapshotter.commit("new", "alone", parent="nowhere")
        with pytest.raises(InvalidArgument):
            snapshotter.commit("new", "alone", parent="work")
        with pytest.raises(InvalidArgument):
            snapshotter.commit("new", "work", parent="other")
        assert list(snapshotter.walk()) == before

    def test_s08_one_of_many_wins(self, snapshotter: Snapshotter) -> None:
        snapshotter.prepare("work")
        outcomes = at_once(lambda number: snapshotter.commit(f"name-{number}", "work"))
        winners = [number for number, outcome in enumerate(outcomes) if outcome is None]
        assert len(winners) == 1
        assert {type(outcome) for outcome in outcomes if outcome} <= {NotFound, FailedPrecondition}
        assert [info.key for info in snapshotter.walk()] == [f"name-{winners[0]}"]

    # -- S9: remove ---------------------------------------------------------------------------------------------------

    def test_s09_remove(self, snapshotter: Snapshotter, layer: Any, tree: Any, mounted: Any) -> None:
        layer(snapshotter, "base", "", fill)
        layer(snapshotter, "second", "base")
        snapshotter.prepare("run", "second")
        snapshotter.view("look", "second")
        shown = tree(snapshotter, "base")
        for parent in ("base", "second"):
            with pytest.raises(FailedPrecondition):
                snapshotter.remove(parent)
        assert tree(snapshotter, "base") == shown
        for key in ("run", "look", "second", "base"):
            snapshotter.remove(key)
            for call in (snapshotter.remove, snapshotter.stat, snapshotter.mounts, snapshotter.usage):
                with pytest.raises(NotFound):
                    call(key)
        with mounted(snapshotter.prepare("base")) as top:  # the name is free at once, nothing old shows
            assert os.listdir(top) == []

    def test_s09_removing_a_parent_while_children_are_made(self, snapshotter: Snapshotter, mounted: Any) -> None:
        rounds = THREADS // 2
        for number in range(rounds):
            with mounted(snapshotter.prepare("work")) as top:
                (top / "file").write_text(str(number))
            snapshotter.commit(f"base-{number}", "work")

        def race(number: int) -> object:
            if number % 2:
                snapshotter.remove(f"base-{number // 2}")
                return None
            return snapshotter.prepare(f"run-{number // 2}", f"base-{number // 2}")

        outcomes = at_once(race)
        for number in range(rounds):
            prepared, removed = outcomes[2 * number], outcomes[2 * number + 1]
            if isinstance(prepared, list):
                assert isinstance(removed, FailedPrecondition)
                with mounted(prepared) as top:
                    assert (top / "file").read_text() == str(number)
            else:
                assert isinstance(prepared, NotFound)
                assert removed is None

    # -- S10, S11, S12: records ---------------------------------------------------------------------------------------

    def test_s10_stat(self, snapshotter: Snapshotter, layer: Any) -> None:
        start = time.time_ns()
        layer(snapshotter, "base")
        snapshotter.prepare("run", "base", {"containerd.io/snapshot/x": "y", "z": ""})
        info = snapshotter.stat("run")
        assert (info.key, info.parent, info.kind) == ("run", "base", "active")
        assert info.labels == {"containerd.io/snapshot/x": "y", "z": ""}
        assert start - 10**9 <= info.created_at <= info.updated_at <= time.time_ns() + 10**9
        for key in ("nowhere", ""):
            with pytest.raises(NotFound):
                snapshotter.stat(key)

    def test_s11_update_replaces_labels_alone(self, snapshotter: Snapshotter) -> None:
        snapshotter.prepare("run", labels={"a": "1", "b": "2"})
        before = snapshotter.stat("run")
        after = snapshotter.update("run", {"b": "3", "c": "4"})
        assert after == snapshotter.stat("run")
        assert after.labels == {"b": "3", "c": "4"}
        assert after.updated_at >= before.updated_at
        assert (after.key, after.parent, after.kind, after.created_at) == ("run", "", "active", before.created_at)
        assert snapshotter.update("run", {}).labels == {}
        with pytest.raises(NotFound):
            snapshotter.update("nowhere", {})

    def test_s12_walk(self, snapshotter: Snapshotter, layer: Any) -> None:
        layer(snapshotter, "base")
        snapshotter.prepare("run", "base", {"containerd.io/snapshot/tier": "web"})
        snapshotter.view("look", "base")
        assert {info.key: info for info in snapshotter.walk()} == {
            key: snapshotter.stat(key) for key in ("base", "run", "look")
        }
        for filters, keys in (
            (("kind==committed",), {"base"}),
            (("kind==active", "kind==view"), {"run", "look"}),
            (("parent==base,kind!=view",), {"run"}),
            (("name~=^(run|base)$",), {"run", "base"}),
            (('labels."containerd.io/snapshot/tier"==web',), {"run"}),
            (('labels."containerd.io/snapshot/tier"',), {"run"}),
            (("name==nowhere",), set()),
            (("parent",), {"run", "look"}),
        ):
            assert {info.key for info in snapshotter.walk(filters)} == keys, filters
        with pytest.raises(InvalidArgument):
            list(snapshotter.walk(("kind==",)))

    # -- S13: usage ---------------------------------------------------------------------------------------------------

    def test_s13_usage(self, snapshotter: Snapshotter, layer: Any, mounted: Any) -> None:
        mebibyte = 1 << 20
        with mounted(snapshotter.prepare("work")) as top:
            before = snapshotter.usage("work")
            (top / "file").write_bytes(os.urandom(mebibyte))
            for number in range(9):
                os.link(top / "file", top / f"link-{number}")
            os.sync()
        after = snapshotter.usage("work")
        assert after.inodes - before.inodes == 1
        assert mebibyte <= after.size - before.size < mebibyte * 1.25
        snapshotter.commit("layer", "work")
        assert snapshotter.usage("layer") == snapshotter.usage("layer") == after
        with pytest.raises(NotFound):
            snapshotter.usage("nowhere")

    # -- S14: cleanup -------------------------------------------------------------------------------------------------

    def test_s14_cleanup_frees(self, snapshotter: Snapshotter, layer: Any, root: Path, tree: Any) -> None:
        layer(snapshotter, "base", "", fill)
        snapshotter.cleanup()
        directories, shown = directories_below(root), tree(snapshotter, "base")
        for number in range(20):
            snapshotter.prepare(f"run-{number}", "base")
        for number in range(20):
            snapshotter.remove(f"run-{number}")
        snapshotter.cleanup()
        assert directories_below(root) == directories
        assert tree(snapshotter, "base") == shown

    def test_s14_cleanup_spares_what_is_being_made(self, snapshotter: Snapshotter, layer: Any, mounted: Any) -> None:
        layer(snapshotter, "base", "", fill)

        working = {number for number in range(THREADS) if number % 16}
        over = threading.Event()

        def work(number: int) -> None:
            if number % 16 == 0:
                while not over.wait(0.001):
                    snapshotter.cleanup()
                return
            try:
                for turn in range(4):
                    key = f"run-{number}-{turn}"
                    snapshotter.prepare(key, "base")
                    snapshotter.commit(f"{key}-done", key)
                    snapshotter.prepare(key, f"{key}-done")
                    if turn % 2:
                        snapshotter.remove(key)
                        snapshotter.remove(f"{key}-done")
            finally:
                working.discard(number)
                if not working:
                    over.set()

        assert [o for o in at_once(work) if o is not None] == []
        keys = [info for info in snapshotter.walk() if info.kind == "active"]
        assert len(keys) == THREADS * 15 // 16 * 2
        for info in keys:
            with mounted(snapshotter.mounts(info.key)) as top:
                assert (top / "etc/hosts").read_text() == "localhost\n"
