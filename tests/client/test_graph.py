"""The drawing of what requires what: nothing is left out, nothing lies on another, circles end."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st
from intermodal.cli.graph import as_svg, as_text

SVG = "{http://www.w3.org/2000/svg}"
NAMES = [f"kind{'x' * n}.name{n}" for n in range(8)]

edges = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=14)


def graph(pairs: list[tuple[str, str]]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    nodes = [{"id": name, "kind": "k", "state": "ready" if name != NAMES[0] else "failed"} for name in NAMES]
    return nodes, [{"from": a, "to": b, "how": "default" if a > b else "b"} for a, b in pairs]


@given(edges)
def test_every_plugin_is_in_the_text_and_every_requirement_below_its_owner(pairs: list[tuple[str, str]]) -> None:
    lines = as_text(*graph(pairs)).splitlines()
    drawn: dict[str, set[str]] = {name: set() for name in NAMES}
    path: list[str] = []
    seen = set()
    for line in filter(None, lines):
        found = re.match(r"^((?:[│ ] {2})*(?:[├└]─ )?)(\S+)", line)
        assert found is not None, line
        depth = len(found[1]) // 3
        path = [*path[:depth], found[2]]
        seen.add(found[2])
        if depth:
            drawn[path[-2]].add(path[-1])
    assert seen == set(NAMES)
    assert drawn == {name: {b for a, b in pairs if a == name} for name in NAMES}
    assert f"{NAMES[0]} [failed]" in "\n".join(lines)


@given(edges)
def test_no_box_of_the_picture_lies_on_another(pairs: list[tuple[str, str]]) -> None:
    root = ET.fromstring(as_svg(*graph(pairs)))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = [{key: float(box.attrib[key]) for key in ("x", "y", "width", "height")} for box in root.iter(f"{SVG}rect")]
    assert len(boxes) == len(NAMES)
    for box in boxes:
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width + 1
        assert box["y"] + box["height"] <= height + 1
    for one, other in itertools.combinations(boxes, 2):
        apart = one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
        assert apart or one["y"] != other["y"]
    assert len(list(root.iter(f"{SVG}path"))) == len(set(pairs))
