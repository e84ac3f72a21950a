"""A layer gives the same tree whatever it is applied onto: an overlay's upper directory, its merged view, a plain copy."""

from __future__ import annotations

import os
import tarfile
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.differs import Alone
from intermodal_core.errors import IntermodalError

MERGED = ("uuid=off",)  # an option under which only the merged view will do


def three_ways(lab: Any, base: bytes, layer: bytes) -> list[Any]:
    """The listing, or the error's kind, from each way of applying `layer` onto `base`."""
    lower = lab.unpacked(base)
    results = []
    for way in ("upper", "merged", "native"):
        if way == "native":
            _, mount = lab.copied(lower)
        else:
            _, mount = lab.overlay(lower, extra=MERGED if way == "merged" else ())
        try:
            lab.apply(layer, [mount])
        except IntermodalError as error:
            results.append((type(error).__name__, str(error)))
        else:
            with lab.seen(mount) as path:
                results.append(lab.listing(path))
    return results


NAMES = st.sampled_from(["a", "b", "c", "a/b", "b/a", "a/b/c", "b/c", "a/c", "c/a/b", "c/b"])
TARGETS = st.sampled_from(["a", "../a", "/a", "/b/c", "c", "../../..", "/nowhere/x", "b"])
STAMPS = st.integers(1, 2_000_000_000)
OWNERS = st.sampled_from([(0, 0), (1000, 100)])


@st.composite
def entries(draw: Any, base: bool) -> tuple[str, bytes, dict[str, Any], bytes]:
    kinds = ["file", "dir", "link"] + ([] if base else ["hard", "white", "opaque", "fifo", "file", "dir"])
    kind = draw(st.sampled_from(kinds))
    name = draw(NAMES)
    uid, gid = draw(OWNERS)
    fields = {"mtime": draw(STAMPS), "uid": uid, "gid": gid}
    if kind == "dir":
        mode = draw(st.sampled_from([0o755, 0o700, 0o2775, 0o1777]))
        pax = draw(st.sampled_from([{}, {"SCHILY.xattr.user.k": "v"}]))
        return name, tarfile.DIRTYPE, {**fields, "mode": mode, "pax_headers": pax}, b""
    if kind == "link":
        return name, tarfile.SYMTYPE, {**fields, "linkname": draw(TARGETS)}, b""
    if kind == "hard":
        return name, tarfile.LNKTYPE, {**fields, "linkname": draw(NAMES)}, b""
    if kind == "fifo":
        return name, tarfile.FIFOTYPE, fields, b""
    parent, _, last = name.rpartition("/")
    where = parent + "/" if parent else ""
    if kind == "white":
        return f"{where}.wh.{last}", tarfile.REGTYPE, fields, b""
    if kind == "opaque":
        return f"{where}.wh..wh..opq", tarfile.REGTYPE, fields, b""
    mode = draw(st.sampled_from([0o644, 0o4755, 0o600]))
    return name, tarfile.REGTYPE, {**fields, "mode": mode}, draw(st.binary(max_size=3))


def layers(base: bool) -> Any:
    return st.lists(entries(base), min_size=1, max_size=8)


def build(lab: Any, specs: Any) -> bytes:
    return bytes(lab.tar(*(lab.entry(name, kind, data, **fields) for name, kind, fields, data in specs)))


def check(lab: Any, below: Any, above: Any) -> None:
    try:
        base = build(lab, below)
        lab.unpacked(base)
    except IntermodalError:
        return  # a base that is none
    upper, merged, native = three_ways(lab, base, build(lab, above))
    lab.clear()
    if isinstance(upper, tuple):
        assert upper == merged == native
    else:
        assert isinstance(native, dict), native
        assert upper == native
        assert merged == native


def check_alone(lab: Any, specs: Any) -> None:
    """Layers applied alone and settled show what layers applied in turn do, as far as they can be settled."""
    try:
        data = [build(lab, each) for each in specs]
        expected = []
        native, mount = lab.directory("native")
        for number, layer in enumerate(data):
            lab.apply(layer, [mount])
            expected.append(lab.listing(native))
            if not number:
                stack, _ = lab.copied(native)
    except IntermodalError:
        return  # what is no layer one way or the other
    lowers, alone = [stack], []
    for layer in data[1:]:
        path, mount = lab.directory("alone")
        residue = lab.apply(layer, [mount], alone=True).residue
        if residue is None:
            break
        alone.append(Alone((mount,), residue))
        lowers.insert(0, path)
    done = lab.differ.settle(tuple(alone), (Mount("bind", str(stack), ("rbind", "ro")),))
    for number in range(1, done + 1):
        _, mount = lab.overlay(*lowers[len(lowers) - 1 - number :])
        with lab.seen(mount) as path:
            assert lab.listing(path) == expected[number]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(specs=st.tuples(layers(True), layers(False), layers(False)))
def test_random_layers_alone(lab: Any, specs: Any) -> None:
    check_alone(lab, specs)
    lab.clear()


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(specs=st.tuples(layers(True), layers(False), layers(False)))
def test_many_random_layers_alone(lab: Any, specs: Any) -> None:
    check_alone(lab, specs)
    lab.clear()


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(below=layers(True), above=layers(False))
def test_random_layers(lab: Any, below: Any, above: Any) -> None:
    check(lab, below, above)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(below=layers(True), above=layers(False))
def test_many_random_layers(lab: Any, below: Any, above: Any) -> None:
    check(lab, below, above)


def test_what_the_layer_does_not_list_is_as_below(lab: Any) -> None:
    base = lab.tar(
        lab.entry(
            "etc", tarfile.DIRTYPE, mode=0o2750, uid=3, gid=4, mtime=123, pax_headers={"SCHILY.xattr.user.x": "1"}
        ),
        lab.entry("etc/old", data=b"old", mtime=55),
        lab.entry("lib", tarfile.SYMTYPE, linkname="usr/lib"),
        lab.entry("usr/lib", tarfile.DIRTYPE, mtime=77),
        lab.entry("usr/bin/tool", data=b"tool", mode=0o4755, uid=8, mtime=99),
    )
    layer = lab.tar(
        lab.entry("etc/new", data=b"new"),
        lab.entry("lib/added", data=b"added"),
        lab.entry("alias", tarfile.LNKTYPE, linkname="usr/bin/tool"),
    )
    upper, merged, native = three_ways(lab, base, layer)
    assert upper == merged == native
    assert upper[b"etc"][:4] == ("0o42750", 3, 4, 123 * 10**9)
    assert upper[b"etc"][6] == {"user.x": b"1"}
    assert upper[b"lib"][4] == b"usr/lib"
    assert upper[b"usr/lib"][3] == 77 * 10**9
    assert b"usr/lib/added" in upper
    assert upper[b"alias"][:4] == ("0o104755", 8, 0, 99 * 10**9)
    assert upper[b"usr/bin/tool"][5] == b"alias"
    assert upper[b"usr"][3] == 0  # nobody said when: always the same


def test_whiteouts_hide_what_is_below_and_nothing_of_their_layer(lab: Any) -> None:
    base = lab.tar(
        *(lab.entry(f"{top}/{name}", data=b"x") for top in ("a", "b", "c", "d") for name in ("1", "2", "sub/3"))
    )
    layer = lab.tar(
        lab.entry("a/.wh.1"),
        lab.entry("b/new", data=b"new"),
        lab.entry("b/.wh..wh..opq"),
        lab.entry("b/sub/after", data=b"after"),
        lab.entry(".wh.c"),
        lab.entry("c/again", data=b"again"),
        lab.entry("d/sub/mine", data=b"mine"),
        lab.entry("d/.wh.sub"),
        lab.entry("d/.wh.nothing"),
        lab.entry("e/.wh.nothing"),
    )
    upper, merged, native = three_ways(lab, base, layer)
    assert upper == merged == native
    kept = "a a/2 a/sub a/sub/3 b b/new b/sub b/sub/after c c/again d d/1 d/2 d/sub d/sub/mine e"
    assert sorted(upper) == [b"", *kept.encode().split(b" ")]


def test_whiteouts_in_what_becomes_opaque(lab: Any) -> None:
    base = lab.tar(*(lab.entry(f"{top}/sub/x", data=b"x") for top in ("a", "b")))
    layer = lab.tar(
        lab.entry("a/sub/.wh.x"),
        lab.entry(".wh.a"),
        lab.entry("b/sub/.wh.x"),
        lab.entry("b/.wh..wh..opq"),
        lab.entry("b/n"),
    )
    upper, merged, native = three_ways(lab, base, layer)
    assert upper == merged == native
    assert sorted(upper) == [b"", b"a", b"a/sub", b"b", b"b/n", b"b/sub"]


def test_what_was_linked_to_below_is_hidden_all_the_same(lab: Any) -> None:
    base = lab.tar(lab.entry("a", data=b"a"), lab.entry("d/e/f", data=b"f"), lab.entry("g", data=b"g"))
    layer = lab.tar(
        lab.entry("1", tarfile.LNKTYPE, linkname="a"),
        lab.entry("2", tarfile.LNKTYPE, linkname="d/e/f"),
        lab.entry("g", tarfile.LNKTYPE, linkname="g"),
        lab.entry(".wh.a"),
        lab.entry(".wh.d"),
        lab.entry(".wh.g"),
    )
    upper, merged, native = three_ways(lab, base, layer)
    assert upper == merged == native
    assert sorted(upper) == [b"", b"1", b"2", b"d", b"d/e", b"g"]


def test_a_link_below_is_replaced_after_names_went_through_it(lab: Any) -> None:
    base = lab.tar(
        lab.entry("b", tarfile.SYMTYPE, linkname="/far/away"),
        lab.entry("self", tarfile.SYMTYPE, linkname="."),
        lab.entry("x", data=b"x"),
    )
    layer = lab.tar(
        lab.entry("c", tarfile.SYMTYPE, linkname="b"),
        lab.entry("c/1"),
        lab.entry("b", tarfile.DIRTYPE),
        lab.entry("c/2"),
        lab.entry("self/self", data=b"a file now"),
    )
    upper, merged, native = three_ways(lab, base, layer)
    assert upper == merged == native
    assert sorted(upper) == [b"", b"b", b"b/2", b"c", b"far", b"far/away", b"far/away/1", b"self", b"x"]


def test_links_in_circles_where_a_directory_was(lab: Any) -> None:
    layer = lab.tar(
        lab.entry("a", tarfile.SYMTYPE, linkname="/b/c"),
        lab.entry("a/b"),
        lab.entry("c", tarfile.LNKTYPE, linkname="a"),
    )
    upper, merged, native = three_ways(lab, lab.tar(lab.entry("b", tarfile.SYMTYPE, linkname="c")), layer)
    assert upper == merged == native
    assert sorted(upper) == [b"", b"a", b"b", b"c"]


def test_an_opaque_root(lab: Any) -> None:
    base = lab.tar(lab.entry("a/1", data=b"x"), lab.entry("b", data=b"y"), lab.entry("c/2", data=b"z"))
    layer = lab.tar(lab.entry("a/new", data=b"n"), lab.entry(".wh..wh..opq"), lab.entry("c/new", data=b"m"))
    upper, merged, native = three_ways(lab, base, layer)
    assert upper == merged == native
    assert sorted(upper) == [b"", b"a", b"a/new", b"c", b"c/new"]


def test_overlay_form_is_what_overlayfs_writes(lab: Any) -> None:
    lower = lab.unpacked(lab.tar(lab.entry("a/1", data=b"x"), lab.entry("b/1", data=b"x")))
    upper, mount = lab.overlay(lower)
    lab.apply(lab.tar(lab.entry("a/.wh.1"), lab.entry("b/.wh..wh..opq"), lab.entry("c/.wh.absent")), [mount])
    status = os.stat(upper / "a/1", follow_symlinks=False)
    assert (status.st_mode, status.st_rdev) == (0o020000, 0)
    assert os.getxattr(upper / "b", "trusted.overlay.opaque") == b"y"
    assert list((upper / "c").iterdir()) == []


def test_three_layers_deep(lab: Any) -> None:
    layers = [
        lab.tar(
            lab.entry(".", tarfile.DIRTYPE, mtime=9),
            lab.entry("a/1", data=b"1"),
            lab.entry("x", tarfile.SYMTYPE, linkname="a"),
        ),
        lab.tar(lab.entry("a/.wh.1"), lab.entry("a/2", data=b"2"), lab.entry("b/3", data=b"3")),
        lab.tar(lab.entry("x/4", data=b"4"), lab.entry("b/.wh..wh..opq"), lab.entry("a/1", tarfile.DIRTYPE)),
    ]
    native = lab.listing(lab.unpacked(*layers))
    first, mount = lab.directory()
    lab.apply(layers[0], [mount])
    second, mount = lab.overlay(first)
    lab.apply(layers[1], [mount])
    _, mount = lab.overlay(second, first)
    lab.apply(layers[2], [mount])
    with lab.seen(mount) as path:
        assert lab.listing(path) == native
    assert sorted(native) == [b"", b"a", b"a/1", b"a/2", b"a/4", b"b", b"x"]
