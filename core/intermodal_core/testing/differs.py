"""The conformance kit of differs: subclass `DifferKit`, give it a factory, run pytest.

    class TestMine(DifferKit):
        capabilities = frozenset({"limits", "devices"})    # what the factory can be asked for; the others' tests are skipped

        @pytest.fixture
        def factory(self):
            return lambda root, **options: MyDiffer(root, **options)

`root` is a directory for what the differ needs while it works. The options are `limits` (an ApplyLimits), `devices` (False:
a layer with a device is forbidden) and `timeout` (seconds that a layer may take; then, too, `close` cancels), each given
only where it is declared. `worker` declares that each layer is unpacked in a process of its own.

Needs root, since layers are applied onto real mounts. A test's name says which rule of
`intermodal_core.contracts.differs` it holds to: `test_d1_...` is of [D1].
"""

# ruff: noqa: D102 - what a test holds to is the contract's rule that its name gives

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import signal
import stat
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from intermodal_core.contracts.common import Descriptor, Mount
from intermodal_core.contracts.differs import Alone, ApplyLimits, Differ, Residue
from intermodal_core.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from intermodal_core.testing.differ_fixtures import (
    DifferFixtures,
    Factory,
    Place,
    Places,
    applied_to,
    descendants,
    seen,
)
from intermodal_core.testing.layers import DOCKER, FORMS, OCI, digest_of, entry, form_of, tar, zstd_zeros
from intermodal_core.testing.trees import fill, tree_of

__all__ = ["DifferKit", "Factory"]

_TYPES = [OCI, f"{OCI}+gzip", f"{OCI}+zstd", DOCKER, f"{DOCKER}.gzip"]
_KINDS = [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE]
_NOISE = random.Random(1).randbytes(100 * 512)  # which no codec makes smaller
_SMALL = tar(entry("a", data=b"a" * 700), entry("b", data=_NOISE), entry("d/e", data=b"e"))
_SMALL_BLOCKS = 106  # without the zeros at the end


class DifferKit(DifferFixtures):
    """The rules of the contract, each a test or several."""

    # -- D1: nothing outside ------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", _KINDS)
    @pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil", "..", "../evil/.wh.x"])
    def test_d1_names_that_climb_out(self, differ: Differ, place: Path, bind: Place, name: str, kind: bytes) -> None:
        with pytest.raises(InvalidArgument):
            applied_to(differ, bind.mounts, tar(entry("x"), entry(name, kind, linkname="x")))
        assert list(place.rglob("evil")) == []

    @pytest.mark.parametrize("target", ["../{}", "/../{}", "x/../../{}"])
    def test_d1_hard_links_outward(self, differ: Differ, bind: Place, target: str) -> None:
        outside = bind.top.parent / "outside"
        outside.write_text("secret")
        link = entry("link", tarfile.LNKTYPE, linkname=target.format("outside"))
        with pytest.raises(InvalidArgument):
            applied_to(differ, bind.mounts, tar(entry("x/y"), link))
        assert outside.stat().st_nlink == 1

    def test_d1_hard_links_through_a_link(self, differ: Differ, place: Path, bind: Place) -> None:
        outside = place / "outside"
        outside.write_text("secret")
        up = entry("up", tarfile.SYMTYPE, linkname=str(place))
        with pytest.raises(InvalidArgument):
            applied_to(differ, bind.mounts, tar(up, entry("link", tarfile.LNKTYPE, linkname="up/outside")))
        assert outside.stat().st_nlink == 1

    @pytest.mark.parametrize("target", ["{}", "../../../../../../../../../../..{}", "/proc/self/root{}"])
    def test_d1_links_outward_are_content(self, differ: Differ, place: Path, any_place: Place, target: str) -> None:
        """What is written, removed or marked through a link goes to the same path within the root, or is refused."""
        victims = place / "victims"
        (victims / "kept").mkdir(parents=True)
        (victims / "kept/file").write_text("kept")
        before = tree_of(victims)
        told = target.format(victims)
        link = entry("d/link", tarfile.SYMTYPE, linkname=told)
        applied_to(differ, any_place.mounts, tar(link))
        with seen(any_place.mounts, place) as top:
            assert os.readlink(top / "d/link") == told
        for more in (
            entry("d/link/kept/file", data=b"mine"),
            entry("d/link/new", data=b"mine"),
            entry("d/link/.wh.kept"),
            entry("d/link/kept/.wh..wh..opq"),
            entry("d/link/kept", tarfile.DIRTYPE, mode=0o700, uid=1),
        ):
            where = any_place.again()
            try:
                applied_to(differ, where.mounts, tar(link, more))
            except InvalidArgument:
                pass
            assert tree_of(victims) == before, more[0].name

    def test_d1_absolute_names_are_below_the_root(self, differ: Differ, place: Path, bind: Place) -> None:
        name = place / "absolute"
        applied_to(differ, bind.mounts, tar(entry(str(name), data=b"mine")))
        assert not name.exists()
        assert (bind.top / name.relative_to("/")).read_bytes() == b"mine"

    def test_d1_nothing_of_the_layer_is_run(self, differ: Differ, place: Path, bind: Place) -> None:
        """Modules, where an interpreter that has the layer for its root would look for them, and one that fails after."""
        marker = place / "marker"
        inside = bind.top / marker.relative_to("/")
        code = f"import os\nos.makedirs({str(place)!r}, exist_ok=True)\nopen({str(marker)!r}, 'w').close()\n".encode()
        names = ["sitecustomize.py", "encodings/idna.py", "encodings/latin_1.py", "linecache.py", "traceback.py"]
        paths = {path.lstrip("/") for path in sys.path if path.startswith("/")} | {"."}
        modules = [entry(f"{path}/{name}", data=code) for path in sorted(paths) for name in names]
        shell = [
            entry(path, data=b"#!/bin/sh\n: > " + os.fsencode(marker), mode=0o755) for path in ("bin/sh", "bin/tar")
        ]
        with pytest.raises(InvalidArgument):
            applied_to(differ, bind.mounts, tar(*modules, *shell, entry("../\N{SNOWMAN}")))
        assert not marker.exists()
        assert not inside.exists()

    # -- D2: whole, or an error and nothing else ----------------------------------------------------------------------

    @pytest.mark.parametrize("cut", [1, 3, 10, 1000, -1, -4, -600])
    @pytest.mark.parametrize("form", FORMS)
    def test_d2_truncated(self, differ: Differ, bind: Place, form: str, cut: int) -> None:
        media_type = f"{OCI}+{form}" if form else OCI
        self.need(differ, media_type)
        data = FORMS[form](_SMALL if form else _SMALL[: 512 * _SMALL_BLOCKS])
        with pytest.raises(InvalidArgument):
            applied_to(differ, bind.mounts, data[:cut], media_type)

    @pytest.mark.parametrize("bad", [False, True])
    def test_d2_nothing_remains(self, differ: Differ, root: Path, any_place: Place, remains: Any, bad: bool) -> None:
        """Mounts, processes, descriptors and temporary files, after a layer that was applied and one that was not."""
        applied_to(differ, any_place.mounts, _SMALL)  # what a differ makes once, at its first layer, is no leftover
        before = remains()
        where = any_place.again()
        for number in range(3):
            if bad:
                with pytest.raises(InvalidArgument):
                    applied_to(differ, where.mounts, tar(entry(f"{number}"), entry("../evil")))
            else:
                applied_to(differ, where.mounts, tar(entry(f"{number}")))
        assert remains() == before

    def test_d2_killed(self, differ: Differ, bind: Place, remains: Any) -> None:
        """Unavailable where the worker was killed; nothing of it remains."""
        self.declares("worker")
        applied_to(differ, bind.mounts, _SMALL)
        before, running = remains(), descendants(os.getpid())

        def kill() -> None:
            for pid in descendants(os.getpid()) - running:
                os.kill(pid, signal.SIGKILL)

        with pytest.raises(Unavailable):
            self.while_applying(differ, bind.mounts, kill, lambda: bool(descendants(os.getpid()) - running))
        assert remains() == before

    def test_d2_closed_meanwhile(self, differ: Any, bind: Place, remains: Any) -> None:
        self.declares("timeout")
        applied_to(differ, bind.mounts, _SMALL)
        before, running = remains(), descendants(os.getpid())
        with pytest.raises(Cancelled):
            self.while_applying(differ, bind.mounts, differ.close, lambda: bool(descendants(os.getpid()) - running))
        assert remains() == before

    def test_d2_a_layer_that_never_ends(self, open_differ: Factory, bind: Place, remains: Any) -> None:
        self.declares("timeout")
        differ = open_differ(timeout=0.5)
        applied_to(differ, bind.mounts, _SMALL)
        before = remains()
        read, write = os.pipe()
        try:
            with pytest.raises(DeadlineExceeded):
                differ.apply(read, Descriptor(self.plain(differ), "sha256:0", 0), bind.mounts)
        finally:
            os.close(read)
            os.close(write)
        assert remains() == before

    # -- D3: media types ----------------------------------------------------------------------------------------------

    def test_d3_media_types(self, differ: Differ) -> None:
        types = differ.media_types()
        assert types
        assert len(set(types)) == len(types)
        assert all("/" in media_type for media_type in types)

    @pytest.mark.parametrize("media_type", [*_TYPES, "application/x-unknown.tar+lzma"])
    def test_d3_what_is_told_is_taken(self, differ: Differ, bind: Place, media_type: str) -> None:
        """And nothing else."""
        form = form_of(media_type)
        data = FORMS.get(form, bytes)(_SMALL)
        if media_type in differ.media_types():
            applied_to(differ, bind.mounts, data, media_type)
            assert (bind.top / "d/e").read_bytes() == b"e"
        else:
            with pytest.raises(Unimplemented):
                applied_to(differ, bind.mounts, data, media_type)
            assert list(bind.top.iterdir()) == []

    # -- D4: what apply does ------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("media_type", _TYPES)
    def test_d4_digests_of_both_forms(self, differ: Differ, bind: Place, media_type: str) -> None:
        self.need(differ, media_type)
        archive = _SMALL + b"what follows the end is read and hashed all the same"
        data = FORMS[form_of(media_type)](archive)
        applied = applied_to(differ, bind.mounts, data, media_type)
        assert (applied.diff_id, applied.size) == (digest_of(archive), len(archive))
        assert (applied.source_digest, applied.source_size) == (digest_of(data), len(data))
        assert (bind.top / "b").read_bytes() == _NOISE

    def test_d4_a_pipe_is_read_to_its_end_and_not_closed(self, differ: Differ, bind: Place) -> None:
        read, write = os.pipe()
        data = _SMALL + bytes(1 << 20)  # more than a pipe holds

        def feed() -> None:
            with open(write, "wb") as file:
                file.write(data)

        thread = threading.Thread(target=feed, daemon=True)
        thread.start()
        try:
            applied = differ.apply(read, Descriptor(self.plain(differ), "sha256:0", len(data)), bind.mounts)
            thread.join(10)
            assert not thread.is_alive()
            assert os.read(read, 1) == b""
        finally:
            os.close(read)
        assert (applied.diff_id, applied.source_size) == (digest_of(data), len(data))

    def test_d4_everything_of_an_entry(self, differ: Differ, place: Path, any_place: Place) -> None:
        xattrs = {"SCHILY.xattr.user.mark": "here"}
        layer = tar(
            entry("dir", tarfile.DIRTYPE, mode=0o1750, uid=3, gid=4, mtime=123, pax_headers=xattrs),
            entry("dir/file", data=b"content", mode=0o4711, uid=70_000, gid=6, pax_headers={"mtime": "1000.5"}),
            entry("linked", tarfile.LNKTYPE, linkname="dir/file"),
            entry("link", tarfile.SYMTYPE, linkname="dir/nowhere", uid=7, gid=8),
            entry("fifo", tarfile.FIFOTYPE, mode=0o620),
            entry("null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3),
            entry("empty"),
        )
        applied_to(differ, any_place.mounts, layer)
        with seen(any_place.mounts, place) as top:
            found = tree_of(top)
            first, second = (top / "dir/file").stat(), (top / "linked").stat()
        old, now = 123 * 10**9, 1_700_000_000 * 10**9
        found.pop(".")
        assert found == {
            "dir": (oct(stat.S_IFDIR | 0o1750), 3, 4, old, 0, b"", {"user.mark": b"here"}),
            "dir/file": (oct(stat.S_IFREG | 0o4711), 70_000, 6, 1000_500_000_000, 0, b"content", {}),
            "linked": (oct(stat.S_IFREG | 0o4711), 70_000, 6, 1000_500_000_000, 0, b"content", {}),
            "link": (oct(stat.S_IFLNK | 0o777), 7, 8, now, 0, "dir/nowhere", {}),
            "fifo": (oct(stat.S_IFIFO | 0o620), 0, 0, now, 0, b"", {}),
            "null": (oct(stat.S_IFCHR | 0o666), 0, 0, now, os.makedev(1, 3), b"", {}),
            "empty": (oct(stat.S_IFREG | 0o644), 0, 0, now, 0, b"", {}),
        }
        assert (first.st_ino, first.st_nlink) == (second.st_ino, 2)

    def test_d4_whiteouts(self, differ: Differ, place: Path, any_place: Place) -> None:
        """They hide what is below, and never an entry of their own layer, before or after it."""
        applied_to(
            differ,
            any_place.mounts,
            tar(*(entry(f"{top}/{name}", data=b"x") for top in "abcde" for name in ("1", "2", "sub/3"))),
        )
        above = any_place.above()
        layer = tar(
            entry("a/.wh.1"),
            entry("b/new", data=b"new"),
            entry("b/.wh..wh..opq"),
            entry("b/sub/after", data=b"after"),
            entry(".wh.c"),
            entry("c/again", data=b"again"),
            entry("d/sub/mine", data=b"mine"),
            entry("d/.wh.sub"),
            entry("d/.wh.nothing"),
            entry("e/.wh.1"),
            entry("e/1", data=b"replaced"),
        )
        applied_to(differ, above.mounts, layer)
        kept = (
            "a a/2 a/sub a/sub/3 b b/new b/sub b/sub/after c c/again d d/1 d/2 d/sub d/sub/mine e e/1 e/2 e/sub e/sub/3"
        )
        with seen(above.mounts, place) as top:
            assert sorted(tree_of(top)) == [".", *kept.split()]
            assert (top / "e/1").read_bytes() == b"replaced"

    def test_d4_implied_directories_stay_as_they_are(self, differ: Differ, place: Path, any_place: Place) -> None:
        xattrs = {"SCHILY.xattr.user.mark": "here"}
        etc = entry("etc", tarfile.DIRTYPE, mode=0o2750, uid=3, gid=4, mtime=123, pax_headers=xattrs)
        applied_to(differ, any_place.mounts, tar(etc, entry("etc/old"), entry("var/sub", tarfile.DIRTYPE, mtime=55)))
        with seen(any_place.mounts, place) as top:
            before = tree_of(top)
        assert before["etc"][:4] == (oct(stat.S_IFDIR | 0o2750), 3, 4, 123 * 10**9)
        above = any_place.above()
        applied_to(differ, above.mounts, tar(entry("etc/new"), entry("var/sub/deep/new"), entry("etc/.wh.old")))
        with seen(above.mounts, place) as top:
            after = tree_of(top)
        assert {path: after[path] for path in ("etc", "var/sub")} == {path: before[path] for path in ("etc", "var/sub")}
        assert "etc/old" not in after

    def test_d4_both_forms_are_the_same_tree(self, differ: Differ, place: Path, places: Places) -> None:
        """What an overlay shows is what a plain directory holds."""
        layers = (
            tar(
                entry(".", tarfile.DIRTYPE, mtime=9),
                entry("a/1", data=b"1"),
                entry("x", tarfile.SYMTYPE, linkname="a"),
                entry("gone/with/it"),
                entry("tool", data=b"tool", mode=0o4755, uid=8),
            ),
            tar(
                entry("a/.wh.1"),
                entry("a/2", data=b"2"),
                entry("gone", tarfile.SYMTYPE, linkname="a"),
                entry("alias", tarfile.LNKTYPE, linkname="tool"),
            ),
            tar(entry("x/4", data=b"4"), entry("a/1", tarfile.DIRTYPE), entry("gone", data=b"a file")),
        )
        trees = []
        for where in (places.bind(), places.overlay()):
            for layer in layers:
                applied_to(differ, where.mounts, layer)
                where = where.above()
            with seen(where.mounts, place) as top:
                trees.append(tree_of(top))
        for tree in trees:  # of a directory that no layer lists, the time is the differ's own
            tree["a"] = tree["a"][:3] + tree["a"][4:]
        assert trees[0] == trees[1]

    @pytest.mark.parametrize(
        "data",
        [
            b"no archive, but long enough for a header of one" * 40,
            bytes(512) + _SMALL,
            _SMALL[:512] + _SMALL[1024:],
            tar(entry(".wh..")),
            tar(entry("a"), entry("a/b")),
            tar(entry("missing", tarfile.LNKTYPE, linkname="nowhere")),
            tar(entry("x" * 256)),
        ],
        ids=["garbage", "zeros first", "a block lost", "a whiteout of ..", "below a file", "a link to nothing", "long"],
    )
    def test_d4_malformed(self, differ: Differ, bind: Place, data: bytes) -> None:
        with pytest.raises(InvalidArgument):
            applied_to(differ, bind.mounts, data)

    @pytest.mark.parametrize("form", ["gzip", "zstd"])
    def test_d4_damaged(self, differ: Differ, bind: Place, form: str) -> None:
        """What the codec finds: another form than the type tells, bytes after the end, bits flipped."""
        media_type = f"{OCI}+{form}"
        self.need(differ, media_type)
        other = {"gzip": "zstd", "zstd": "gzip"}[form]
        good = FORMS[form](_SMALL)
        flipped = bytearray(good)
        flipped[-6 if form == "gzip" else 6] ^= 0x06
        for data in (FORMS[other](_SMALL), _SMALL, good + b"garbage after the end", bytes(flipped)):
            with pytest.raises(InvalidArgument):
                applied_to(differ, bind.mounts, data, media_type)

    @pytest.mark.parametrize("limits", [ApplyLimits(bytes=100_000), ApplyLimits(files=3), ApplyLimits(depth=3)])
    def test_d4_limits(self, differ: Differ, places: Places, limits: ApplyLimits) -> None:
        layer = tar(*(entry(f"d/d/d/d{number}/f", data=b"x" * 30_000) for number in range(4)))
        applied_to(differ, places.bind().mounts, layer)
        with pytest.raises(ResourceExhausted):
            applied_to(differ, places.bind().mounts, layer, limits=limits)

    def test_d4_limits_that_it_is_configured_with(self, open_differ: Factory, places: Places) -> None:
        self.declares("limits")
        differ = open_differ(limits=ApplyLimits(files=2))
        with pytest.raises(ResourceExhausted):
            applied_to(differ, places.bind().mounts, _SMALL)
        applied_to(differ, places.bind().mounts, _SMALL, limits=ApplyLimits(files=3))

    @pytest.mark.parametrize("form", ["gzip", "zstd"])
    def test_d4_bombs(self, differ: Differ, bind: Place, form: str) -> None:
        media_type = f"{OCI}+{form}"
        self.need(differ, media_type)
        info, _ = entry("big")
        info.size = 1 << 28
        header = info.tobuf(tarfile.PAX_FORMAT)
        if form == "zstd":
            bomb = zstd_zeros(header, 1 << 28)
        else:
            bomb = gzip.compress(header + bytes(1 << 28), 1, mtime=0)
        with pytest.raises(ResourceExhausted):
            applied_to(differ, bind.mounts, bomb, media_type, ApplyLimits(ratio=100))

    def test_d4_a_full_disk(self, differ: Differ, places: Places) -> None:
        where = places.memory("1m")
        with pytest.raises(ResourceExhausted):
            applied_to(differ, where.mounts, tar(entry("big", data=bytes(2 << 20))))

    def test_d4_read_only_mounts(self, differ: Differ, bind: Place) -> None:
        mounts = (Mount("bind", str(bind.top), ("rbind", "ro")),)
        with pytest.raises(FailedPrecondition):
            applied_to(differ, mounts, tar(entry("a")))
        assert list(bind.top.iterdir()) == []

    def test_d4_forbidden_entries(self, open_differ: Factory, bind: Place) -> None:
        self.declares("devices")
        disk = entry("dev/disk", tarfile.BLKTYPE, devmajor=8, devminor=0)
        with pytest.raises(PermissionDenied):
            applied_to(open_differ(devices=False), bind.mounts, tar(disk))
        assert not (bind.top / "dev/disk").exists()

    # -- D5: layers side by side --------------------------------------------------------------------------------------

    def test_d5_applied_alone_is_as_applied_in_turn(self, differ: Differ, place: Path, places: Places) -> None:
        """Where it says so; and the first layer of which it does not is the one that goes through a link of below."""
        self.declares("alone")
        base = tar(
            entry(".", tarfile.DIRTYPE, mode=0o751, uid=5, mtime=9),
            entry("etc", tarfile.DIRTYPE, mode=0o2750, uid=3, gid=4, mtime=123),
            *(entry(f"{top}/{name}", data=b"x") for top in "abc" for name in ("1", "sub/2")),
            entry("lib", tarfile.SYMTYPE, linkname="usr/lib"),
        )
        layers = (
            tar(entry("etc/new"), entry("a/.wh.1"), entry("b/.wh..wh..opq"), entry("b/3"), entry(".wh.nothing")),
            tar(entry("etc/.wh.new"), entry("a/1", data=b"again"), entry("b/sub/4"), entry(".wh.c"), entry("c/5")),
            tar(entry("lib/through"), entry("usr", tarfile.DIRTYPE, mtime=1)),
        )
        where = places.overlay()
        for layer in (base, *layers[:2]):
            applied_to(differ, where.mounts, layer)
            where = where.above()
        with seen(where.mounts, place) as top:
            expected = tree_of(top)
        lowest = places.bind()
        applied_to(differ, lowest.mounts, base)
        alone = []
        stack = [lowest.top]
        for layer in layers:
            own = places.bind()
            residue = applied_to(differ, own.mounts, layer, alone=True).residue
            assert residue is not None
            alone.append(Alone(own.mounts, residue))
            stack.insert(0, own.top)
        assert differ.settle(tuple(alone), (Mount("bind", str(lowest.top), ("rbind", "ro")),)) == 2
        with seen(places.overlay(*stack[1:]).mounts, place) as top:
            found = tree_of(top)
        for tree in (expected, found):
            for path in "abc":  # a directory that no layer lists: the time is the differ's own
                tree[path] = tree[path][:3] + tree[path][4:]
        assert found == expected

    def test_d5_what_cannot_be_alone(self, differ: Differ, places: Places) -> None:
        self.declares("alone")
        link = tar(entry("alias", tarfile.LNKTYPE, linkname="of/below"))
        applied = applied_to(differ, places.bind().mounts, link, alone=True)
        assert (applied.residue, applied.diff_id) == (None, digest_of(link))
        with pytest.raises(FailedPrecondition):
            differ.settle((Alone((Mount("tmpfs", "tmpfs"),), Residue()),), ())

    # -- D6: layers from trees ----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("form", ["", "gzip", "zstd"])
    def test_d6_what_is_compared_can_be_applied(self, differ: Differ, place: Path, places: Places, form: str) -> None:
        """A change made through an overlay, as a layer, onto a copy of what was below gives the same tree."""
        self.declares("compare")
        media_type = f"{OCI}+{form}" if form else OCI
        self.need(differ, media_type)
        below, again = places.bind(), places.bind()
        names = ("kept/file", "gone/deep/er", "replaced/by/file", "file", "mode", "time", "new/old")
        base = tar(*(entry(name, data=name.encode()) for name in names))
        for where in (below, again):
            applied_to(differ, where.mounts, base)
        changed = places.overlay(below.top)
        with seen(changed.mounts, place) as top:
            shutil.rmtree(top / "gone")
            shutil.rmtree(top / "replaced")
            (top / "replaced").write_bytes(b"a file now")
            (top / "file").write_bytes(b"other")
            (top / "mode").chmod(0o4711)
            os.utime(top / "time", ns=(1, 1_234_567_890_123_456_789))
            fill(top / "new")
        lower = (Mount("bind", str(below.top), ("rbind", "ro")),)
        layers = []
        for _ in range(2):
            with tempfile.TemporaryFile() as file:
                compared = differ.compare(lower, changed.mounts, file.fileno(), media_type)
                file.seek(0)
                layers.append(file.read())
        assert layers[0] == layers[1]
        assert (compared.digest, compared.size) == (digest_of(layers[0]), len(layers[0]))
        applied = applied_to(differ, again.mounts, layers[0], media_type)
        assert (applied.diff_id, applied.size) == (compared.diff_id, compared.tar_size)
        with seen(changed.mounts, place) as top:
            expected = tree_of(top)
            linked = (top / "new/etc/hosts").stat().st_ino == (top / "new/opt/linked").stat().st_ino
        found = tree_of(again.top)
        assert linked
        assert (again.top / "new/etc/hosts").stat().st_nlink == 2
        for path in expected:  # what only the kernel's root may set is no layer's
            expected[path][-1].pop("trusted.mark", None)
        for tree in (expected, found):
            for path in (".", "kept", "new"):  # no layer lists them, or their times are of now
                tree[path] = tree[path][:3] + tree[path][4:]
        assert found == expected
        if form != "zstd":
            with tarfile.open(fileobj=io.BytesIO(layers[0])) as archive:
                assert "kept/file" not in archive.getnames()

    def test_d6_a_latest_time(self, differ: Differ, places: Places) -> None:
        self.declares("compare")
        where = places.bind()
        applied_to(differ, where.mounts, tar(entry("old", mtime=5), entry("new", mtime=2_000_000_000)))
        with tempfile.TemporaryFile() as file:
            differ.compare((), where.mounts, file.fileno(), self.plain(differ), 1_000_000_000 * 10**9)
            file.seek(0)
            with tarfile.open(fileobj=file) as archive:
                times = {member.name: member.mtime for member in archive}
        assert times == {".": 1_000_000_000, "old": 5, "new": 1_000_000_000}

    def test_d6_other_media_types(self, differ: Differ, bind: Place) -> None:
        self.declares("compare")
        with tempfile.TemporaryFile() as file, pytest.raises(Unimplemented):
            differ.compare((), bind.mounts, file.fileno(), "application/x-unknown.tar+lzma")

    # -- helpers ------------------------------------------------------------------------------------------------------

    def while_applying(
        self, differ: Differ, mounts: tuple[Mount, ...], act: Callable[[], object], begun: Callable[[], bool]
    ) -> None:
        """Apply a layer whose end does not come, and `act` once `begun`; raises what `apply` raises."""
        read, write = os.pipe()
        pause, ended = threading.Event(), threading.Event()

        def run() -> None:
            for _ in range(2000):
                if begun() or ended.is_set():
                    break
                pause.wait(0.005)
            act()
            if not ended.wait(30):
                os.write(write, b"not an end, but an error")
                os.close(write)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        os.write(write, _SMALL[:300])
        try:
            differ.apply(read, Descriptor(self.plain(differ), "sha256:0", 0), mounts)
        finally:
            ended.set()
            thread.join(60)
            os.close(read)
            try:
                os.close(write)
            except OSError:
                pass
