"""Network configuration lists: what is read, and what is said, with its line, of what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intermodal_cni.lists import line_of, load, parse
from intermodal_core.errors import InvalidArgument

GOOD = """{
  "cniVersion": "1.1.0",
  "name": "web",
  "disableCheck": true,
  "plugins": [
    {
      "type": "bridge",
      "ipam": {"type": "host-local"}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
"""


def test_a_list() -> None:
    found = parse(GOOD)
    assert (found.name, found.version, found.types) == ("web", "1.1.0", ("bridge", "portmap"))
    assert found.disable_check
    assert not found.disable_gc
    assert parse(json.dumps(found.document())) == found


@pytest.mark.parametrize("suffix", ["conf", "json"])
def test_a_single_plugin_is_a_list_of_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"one.{suffix}"
    path.write_text('{"cniVersion": "0.3.1", "name": "one", "type": "bridge", "bridge": "br0"}')
    found = load(path)
    assert found.plugins == ({"type": "bridge", "bridge": "br0"},)
    assert (found.name, found.version, found.source) == ("one", "0.3.1", str(path))


def test_of_several_versions_the_newest_that_is_known() -> None:
    text = GOOD.replace('"cniVersion": "1.1.0"', '"cniVersion": "0.4.0", "cniVersions": ["0.4.0", "1.0.0", "9.9.9"]')
    assert parse(text).version == "1.0.0"


BAD = [
    (GOOD.replace('"bridge",', '"bridge"'), 8, "not JSON"),
    (GOOD.replace('"type": "bridge"', '"type": "../sh"'), 7, "no type of a plugin"),
    (GOOD.replace('"type": "bridge"', '"typ": "bridge"'), 6, "no type of a plugin"),
    (GOOD.replace('{"type": "host-local"}', '"host-local"'), 8, "ipam is a JSON object"),
    (GOOD.replace("1.1.0", "2.0.0"), 2, "cniVersion 2.0.0 is not supported"),
    (GOOD.replace('"cniVersion": "1.1.0",', '"cniVersion": 1,'), 2, "cniVersion is a text"),
    (GOOD.replace('"web"', '"a/b"'), 3, "no name of a network"),
    (GOOD.replace('"disableCheck": true', '"disableCheck": "perhaps"'), 4, "disableCheck is true or false"),
    (GOOD.replace('{"portMappings": true}', "[]"), 10, "capabilities is a JSON object"),
    ('{"cniVersion": "1.0.0",\n "name": "n",\n "plugins": []}', 3, "one plugin at least"),
    ('{"cniVersion": "1.0.0",\n "name": "n"}', 1, "one plugin at least"),
    ("[]", 1, "a JSON object"),
    ("", 1, "not JSON"),
]


@pytest.mark.parametrize(("text", "line", "words"), BAD, ids=[words for _, _, words in BAD])
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = tmp_path / "bad.conflist"
    path.write_text(text)
    with pytest.raises(InvalidArgument) as raised:
        load(path)
    assert raised.value.message.startswith(f"{path}:{line}: ")
    assert words in raised.value.message


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "bad.conflist"
    path.write_bytes(b'{"name": "\xff"}')
    with pytest.raises(InvalidArgument, match="not UTF-8 at byte 10"):
        load(path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_every_value_of_a_document_is_found_on_its_line(document: object) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False)

    def walk(value: object, path: tuple[str | int, ...]) -> None:
        line = text.split("\n")[line_of(text, path) - 1]
        if path and isinstance(path[-1], str):
            assert json.dumps(path[-1], ensure_ascii=False) in line
        if not isinstance(value, dict | list):
            assert json.dumps(value, ensure_ascii=False) in line
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            walk(inner, (*path, key))

    walk(document, ())


@given(st.text(max_size=60))
def test_no_text_is_anything_but_a_list_or_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(text)
