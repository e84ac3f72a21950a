"""The filter grammar: what the public source's own examples select, and the same by a naive reader."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from intermodal_core.errors import InvalidArgument
from intermodal_core.filters import compile_filters, quote, resolver_of

ITEMS: list[dict[str, Any]] = [
    {"id": 0, "name": "foo", "labels": {"foo": "true"}},
    {"id": 1, "name": "bar"},
    {"id": 2, "name": "foo", "labels": {"foo": "present", "more complex label": "present"}},
    {"id": 3, "name": "bar", "labels": {"bar": "true", "empty": ""}},
    {"id": 4, "name": "fooer", "labels": {'with \\ and "': "present"}},
    {"id": 5, "name": "fooer", "labels": {'with \\ and ".post': "present"}},
    {"id": 6, "name": "baz", "other": "too complex, yo"},
    {"id": 7, "name": "bazo", "other": "abc"},
    {"id": 8, "name": "compound", "labels": {"foo": "omg_asdf.asdf-qwer"}},
]


def selected(*filters: str) -> list[int]:
    holds = compile_filters(filters)
    return [item["id"] for item in ITEMS if holds(resolver_of(item))]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", list(range(9))),
        ("name", list(range(9))),
        ("labels.foo", [0, 2, 8]),
        ("labels.foo,name", [0, 2, 8]),
        ("labels.foo==true", [0]),
        ("labels.foo==omg_asdf.asdf-qwer", [8]),
        ("name==bar", [1, 3]),
        (" name == bar , labels . bar ", [3]),
        ("name!=bar", [0, 2, 4, 5, 6, 7, 8]),
        ("labels.none!=x", list(range(9))),
        ("labels.none==", None),
        ('labels.none==""', []),
        ('labels.empty==""', [3]),
        ("labels.empty", [3]),
        ('labels.none!=""', []),
        ("name==bar,labels.bar", [3]),
        ("name==bar,labels.bar==wrong", []),
        ('other=="too complex, yo"', [6]),
        ("other~=[abc]+,name!=foo", [6, 7]),
        ("other~=/[abc]+/,name!=foo", [6, 7]),
        ("other~=|^[abc]{1,3}$|", [7]),
        ("other~=/^$/", [0, 1, 2, 3, 4, 5, 8]),
        ('name~="^foo$"', [0, 2]),
        ("name~=/^ba[\\x7A]\\\\w*/", [6, 7]),
        ('other~=/[abc]{0,1}"\\//,name!=foo', []),
        ('name==foo,labels."more complex label"', [2]),
        ('labels."with \\\\ and \\""==present', [4]),
        ('labels."with \\\\ and \\"".post==present', [5]),
        ('name=="\\x66\\157\\u006f"', [0, 2]),
        ("id==3", [3]),
    ],
)
def test_selects(text: str, ids: list[int] | None) -> None:
    if ids is None:
        with pytest.raises(InvalidArgument):
            selected(text)
    else:
        assert selected(text) == ids


def test_several_filters_match_what_any_does() -> None:
    assert selected() == list(range(9))
    assert selected("labels.bar", "other==abc") == [3, 7]
    assert selected("labels.bar", "") == list(range(9))


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("name=foo", 5, "'==', '!=' or '~='"),
        ("name==!foo", 5, "'=='"),
        ("name foo", 6, "'=='"),
        ("name==foo bar", 11, "',' or the end, found 'b'"),
        ("name==foo,", 11, "a field name .* found its end"),
        ("labels.", 8, "a field name"),
        ("labels.?x==y", 8, "a field name"),
        ("labels.|foo|==x", 8, "a field name"),
        ("image~=,id?=?fbaq", 8, 'a value, or one in quotes \\(" / \\|\\)'),
        ("labels.ns/key==value", 10, "'=='"),
        ("labels.key==/value", 13, "a value"),
        ('a=="x', 6, 'the closing " of the part that begins at column 4'),
        ('a=="x\ny"', 6, "the closing"),
        ('a=="\\d"', 6, "an escape"),
        ('a=="\\777"', 6, "an escape"),
        ('a=="\\ud800"', 6, "an escape"),
        ('a=="\\UFFFFFFFF"', 6, "an escape"),
        ("a==\x01", 4, "a value of visible characters"),
        ("a~=/(/", 4, "regular expression '\\(', column 1"),
    ],
)
def test_malformed_says_where_and_what_was_expected(text: str, column: int, expected: str) -> None:
    with pytest.raises(InvalidArgument, match=f"column {column}: .*{expected}"):
        compile_filters([text])


def test_resolver_reads_structs_dataclasses_and_plain_values() -> None:
    class Inner(msgspec.Struct):
        names: list[str]
        on: bool = True

    @dataclasses.dataclass
    class Outer:
        inner: Inner
        labels: dict[str, str]
        note: str | None = None

    resolve = resolver_of(Outer(Inner(["a", "b"]), {"x.y/z": "1", "empty": ""}))
    assert resolve(("inner", "names")) == ("a,b", True)
    assert resolve(("inner", "on")) == ("true", True)
    assert resolve(("labels", "x", "y/z")) == ("1", True)
    assert resolve(("labels", "empty")) == ("", True)
    assert resolve(("labels",)) == ("", False)
    assert resolve(("note",)) == ("", False)
    assert resolve(("inner", "__class__")) == ("", False)
    assert resolver_of({"name": ""})(("name",)) == ("", False)


texts = st.text(max_size=12)


@given(texts, texts)
def test_what_is_quoted_reads_back(key: str, value: str) -> None:
    resolve = resolver_of({"labels": {key: value}})
    assert compile_filters([f"labels.{quote(key)}=={quote(value)}"])(resolve)
    assert not compile_filters([f"labels.{quote(key)}=={quote(value + 'x')}"])(resolve)
    assert not compile_filters([f"labels.{quote(key)}!={quote(value)}"])(resolve)


selectors = st.tuples(
    st.sampled_from(["a", "b", "c"]), st.sampled_from(["", "==", "!=", "~="]), st.sampled_from(["", "x", "xy", "y"])
)


@given(
    st.lists(st.lists(selectors, min_size=1, max_size=3), max_size=3),
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from(["", "x", "xy", "yx"])),
)
def test_same_answer_as_a_naive_reader(filters: list[list[tuple[str, str, str]]], labels: dict[str, str]) -> None:
    def one(field: str, operator: str, value: str) -> bool:
        if operator == "":
            return field in labels
        if operator == "==":
            return labels.get(field) == value
        if operator == "!=":
            return labels.get(field, "") != value
        return re.search(value, labels.get(field, "")) is not None

    texts = [
        ",".join(f"labels.{field}{operator}{quote(value) if operator else ''}" for field, operator, value in group)
        for group in filters
    ]
    expected = not filters or any(all(one(*selector) for selector in group) for group in filters)
    assert compile_filters(texts)(resolver_of({"labels": labels})) is expected


@settings(max_examples=500, deadline=2000)
@given(st.one_of(st.text(max_size=40), st.text(alphabet='ab.,=!~"/|\\x0 \n(*+', max_size=40)))
def test_any_text_ends_in_a_predicate_or_an_error(text: str) -> None:
    try:
        holds = compile_filters([text])
    except InvalidArgument as error:
        column = int(re.search(r"column (\d+)", error.message[len(repr(text)) :])[1])  # type: ignore[index]
        assert 1 <= column <= len(text) + 1
        return
    assert holds(resolver_of(ITEMS[0])) in (True, False)
