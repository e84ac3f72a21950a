"""The linear-time engine against Python's own, and against the patterns that ruin a backtracking one."""

from __future__ import annotations

import random
import re
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from intermodal_core.errors import InvalidArgument
from intermodal_core.regex import compile_regex

ATOMS = ["a", "b", "\\n", ".", "[ab]", "[^a]", "[b-d]", "\\d", "\\W", "\\b", "\\B", "^", "$", "(?:)", "\\.", "é"]


def patterns() -> st.SearchStrategy[str]:
    def extend(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.lists(inner, min_size=1, max_size=3).map("".join),
            st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
            st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,2}", "{0,}"])).map(
                lambda pair: f"(?:{pair[0]}){pair[1]}"
            ),
            inner.map(lambda part: f"(?i:{part})"),
            inner.map(lambda part: f"(?s:{part})"),
            inner.map(lambda part: f"(?m:{part.replace('$', '^')})"),
        )

    return st.recursive(st.sampled_from(ATOMS), extend, max_leaves=8)


def translated(pattern: str) -> re.Pattern[str]:
    """For Python's engine, whose `$` also matches before a last newline and whose `\\B` never does in an empty text."""
    return re.compile(pattern.replace("$", "\\Z").replace("\\B", "(?!\\b)"), re.ASCII)


@settings(max_examples=500, deadline=None)
@given(patterns(), st.text(alphabet="abAB1.\né_ ", max_size=8))
def test_same_answer_as_a_backtracking_engine(pattern: str, text: str) -> None:
    assert compile_regex(pattern)(text) == (translated(pattern).search(text) is not None)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("^a$", "a", "a\n"),
        ("(?m)^a$", "b\na\nb", "ab"),
        ("[[:alpha:]]+[[:digit:]]", "--x1", "1x"),
        ("[]a]", "]", "b"),
        ("[^]a]", "b", "]"),
        ("[a-]", "-", "b"),
        ("[\\d-]", "-", "x"),
        ("\\Qa.b\\E+", "a.bb", "axb"),
        ("\\x41\\x{1F600}", "A\U0001f600", "A"),
        ("\\101\\012", "A\n", "A"),
        ("a{,2}", "a{,2}", "aa"),
        ("a{2", "a{2", "aa"),
        ("(?P<name>x)y", "xy", "x"),
        ("(?i)STRASSE|x", "strasse", "s"),
        ("(?i)\\W", "-", "s"),
        ("(?i:a)b", "Ab", "AB"),
        ("\\s", "\t", "\v"),
        ("^docker\\.io/library/(busybox|alpine):.*$", "docker.io/library/alpine:3", "docker.io/library/alpine"),
    ],
)
def test_syntax(pattern: str, matching: str, other: str) -> None:
    search = compile_regex(pattern)
    assert search(matching)
    assert not search(other)


@pytest.mark.parametrize(
    ("pattern", "column", "word"),
    [
        ("a(b", 2, "closed"),
        ("ab)", 3, "without"),
        ("[a", 1, "closed"),
        ("*a", 1, "repeat"),
        ("a**", 3, "parentheses"),
        ("a{3,2}", 1, "repeat"),
        ("a{1001}", 1, "repeat"),
        ("a{99999999999999}", 1, "repeat"),
        ("(?=a)", 1, "look-around"),
        ("(a)\\1", 4, "back references"),
        ("\\pL", 1, "classes"),
        ("[z-a]", 1, "range"),
        ("[[:none:]]", 2, "xdigit"),
        ("a\\", 2, "escape"),
        ("\\x{110000}", 1, "character"),
        ("(" * 101, 101, "groups"),
    ],
)
def test_malformed_says_where(pattern: str, column: int, word: str) -> None:
    with pytest.raises(InvalidArgument, match=f"column {column}: .*{word}"):
        compile_regex(pattern)


def test_what_unfolds_too_far_is_refused() -> None:
    for pattern in ("(a{1000}){1000}", "((){1000}){1000}", "((((a{9}){9}){9}){9}){9}"):
        with pytest.raises(InvalidArgument, match="too large"):
            compile_regex(pattern)


@pytest.mark.parametrize(
    "pattern", ["(a|a)*b", "(a*)*b", "(aa|a)+$b", "^(a+)+$", "a*a*a*a*a*a*b", "(.*)(.*)(.*)(.*)[^a]"]
)
def test_patterns_that_ruin_backtracking_stay_linear(pattern: str) -> None:
    search = compile_regex(pattern)
    began = time.process_time()
    assert not search("a" * 4096 + "!") or pattern.endswith("[^a]")
    assert time.process_time() - began < 1


@settings(max_examples=300, deadline=2000)
@given(st.text(alphabet="ab()[]{}*+?|\\^$.-0129,:P<>imsdwQE", max_size=30))
def test_any_pattern_ends_in_an_answer_or_an_error(pattern: str) -> None:
    try:
        search = compile_regex(pattern)
    except InvalidArgument:
        return
    assert search("ab12(") in (True, False)


def test_forgetting_transitions_changes_no_answer() -> None:
    search = compile_regex("^(?:..)*é$")
    many = "".join(chr(0x4E00 + n % 20_000) for n in range(60_000))
    assert search(many + "é") is True
    assert search(many + "xé") is False
    assert search(many + "é") is True


def test_memory_stays_bounded() -> None:
    generator = random.Random(1)
    text = "".join(generator.choice("ab") for _ in range(3000))
    search = compile_regex("[ab]*a[ab]{900}c")
    tracemalloc.start()
    try:
        assert not search(text)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
