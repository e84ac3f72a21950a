r"""Regular expressions that match in time linear in the text, whatever the pattern.

Clients of the API send patterns in filters and write them for Go's engine (RE2 syntax). Python's `re` backtracks, so that
`(a|a)*b` from one caller would stop the daemon for everyone. Here a pattern becomes a nondeterministic automaton
(Thompson's construction) whose state sets are followed one character at a time and remembered as they are met.

Syntax is RE2's, with these limits: Unicode classes (`\pL`) are refused, and a pattern whose repeats unfold to more than
`MAX_STEPS` parts is refused. As there, look-around and back references do not exist, `\d \w \s \b` are ASCII, and `$`
without `(?m)` is the end of the text alone. Only whether a match exists is answered, so greedy and lazy repeats are equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from intermodal_core.errors import InvalidArgument

__all__ = ["compile_regex"]

MAX_STEPS = 3_000
MAX_REPEAT = 1_000
MAX_DEPTH = 100
MAX_CACHED = 50_000  # members of remembered state sets, a few megabytes, before all are forgotten

_CLASSES = {
    "d": "0-9",
    "D": "\\x00-/:-\U0010ffff",
    "w": "0-9A-Za-z_",
    "W": "\\x00-/:-@\\[-\\^`{-\U0010ffff",
    "s": "\\t\\n\\f\\r ",
    "S": "\\x00-\\x08\\x0b\\x0e-\\x1f!-\U0010ffff",
}
_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": "\\x00-\\x7f",
    "blank": "\\t ",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": "\\t\\n\\v\\f\\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_CONTROLS = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ASSERTIONS = {"A": "text-start", "z": "text-end", "b": "boundary", "B": "no-boundary"}
_WORD = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")


class _Chars(NamedTuple):
    """One character that `test` accepts."""

    test: Callable[[str], object]


class _Assert(NamedTuple):
    kind: str


class _Cat(NamedTuple):
    parts: list[_Node]


class _Alt(NamedTuple):
    choices: list[_Node]


class _Repeat(NamedTuple):
    part: _Node
    least: int
    most: int | None


_Node = _Chars | _Assert | _Cat | _Alt | _Repeat


class _Parser:
    """Recursive descent over one pattern; `flags` are those in force at `at`."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.depth = 0
        self.flags: frozenset[str] = frozenset()

    def fail(self, why: str, at: int | None = None) -> InvalidArgument:
        column = (self.at if at is None else at) + 1
        return InvalidArgument(f"regular expression {self.pattern!r}, column {column}: {why}")

    def take(self, text: str) -> bool:
        if self.pattern.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def whole(self) -> _Node:
        node = self.alternation()
        if self.at < len(self.pattern):
            raise self.fail("a ')' without its '('")
        return node

    def alternation(self) -> _Node:
        choices = [self.sequence()]
        while self.take("|"):
            choices.append(self.sequence())
        return choices[0] if len(choices) == 1 else _Alt(choices)

    def sequence(self) -> _Node:
        parts: list[_Node] = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            start = self.at
            if self.take("\\Q"):
                end = self.pattern.find("\\E", self.at)
                end = len(self.pattern) if end < 0 else end
                literals = [self.literal(char) for char in self.pattern[self.at : end]]
                self.at = min(end + 2, len(self.pattern))
                parts += [*literals[:-1], *(self.repeated(last, start) for last in literals[-1:])]
                continue
            atom = self.atom()
            if atom is not None:
                parts.append(self.repeated(atom, start))
        return parts[0] if len(parts) == 1 else _Cat(parts)

    def repeated(self, atom: _Node, start: int) -> _Node:
        bounds = self.bounds()
        if bounds is None:
            return atom
        least, most = bounds
        if least > MAX_REPEAT or (most or 0) > MAX_REPEAT or (most is not None and most < least):
            raise self.fail(f"a repeat goes from a number to one not below it, at most {MAX_REPEAT}", start)
        self.take("?")
        again = self.at
        if self.bounds() is not None:
            raise self.fail("a repeat of a repeat needs parentheses", again)
        return _Repeat(atom, least, most)

    def bounds(self) -> tuple[int, int | None] | None:
        """The quantifier at `at`; braces that hold no numbers are literal characters."""
        if self.take("*"):
            return 0, None
        if self.take("+"):
            return 1, None
        if self.take("?"):
            return 0, 1
        found = re.compile(r"\{([0-9]+)(?:(,)([0-9]*))?\}").match(self.pattern, self.at)
        if found is None:
            return None
        self.at = found.end()
        least = int(found[1][:9])
        return least, (least if not found[2] else int(found[3][:9]) if found[3] else None)

    def atom(self) -> _Node | None:
        char = self.pattern[self.at]
        if char in "*+?":
            raise self.fail(f"nothing before {char!r} to repeat")
        if char == "[":
            return self.charset()
        if char == "\\":
            start = self.at
            self.at += 1
            if self.at < len(self.pattern) and self.pattern[self.at] in _ASSERTIONS:
                self.at += 1
                return _Assert(_ASSERTIONS[self.pattern[self.at - 1]])
            found = self.escape(start)
            if len(found) > 1:  # a class is the same in both cases; folding would add "s" to \W by way of U+017F
                return _Chars(re.compile(f"[{found[1:]}]").fullmatch)
            return self.literal(found)
        self.at += 1
        if char == "(":
            return self.group()
        if char == "^":
            return _Assert("line-start" if "m" in self.flags else "text-start")
        if char == "$":
            return _Assert("line-end" if "m" in self.flags else "text-end")
        if char == ".":
            return self.matcher("[\\x00-\U0010ffff]" if "s" in self.flags else "[^\\n]")
        return self.literal(char)

    def group(self) -> _Node | None:
        """What follows a `(`; flags alone, `(?i)`, hold until the enclosing group ends and give no node."""
        start, outer = self.at - 1, self.flags
        if self.take("?"):
            named = re.compile(r"P?<\w+>").match(self.pattern, self.at)
            flags = re.compile(r"([imsU]*)(-[imsU]+)?([:)])").match(self.pattern, self.at)
            if named:
                self.at = named.end()
            elif flags:
                self.at = flags.end()
                self.flags = (self.flags | set(flags[1])) - set((flags[2] or "")[1:])
                if flags[3] == ")":
                    return None
            else:
                raise self.fail("expected (?:...), (?P<name>...) or flags; look-around does not exist here", start)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.fail(f"more than {MAX_DEPTH} groups inside each other", start)
        node = self.alternation()
        if not self.take(")"):
            raise self.fail("this '(' is never closed", start)
        self.depth -= 1
        self.flags = outer
        return node

    def charset(self) -> _Node:
        start = self.at
        self.at += 1
        items = ["[^" if self.take("^") else "["]
        first = True
        while first or not self.take("]"):
            first = False
            posix = re.compile(r"\[:(\w+):\]").match(self.pattern, self.at)
            if posix:
                if posix[1] not in _POSIX:
                    raise self.fail(f"no class [:{posix[1]}:]; there are {', '.join(_POSIX)}")
                self.at = posix.end()
                items.append(_POSIX[posix[1]])
                continue
            low = self.member(start)
            ahead = self.pattern[self.at : self.at + 2]
            if len(low) == 1 and len(ahead) == 2 and ahead[0] == "-" and ahead[1] != "]":
                self.at += 1
                high = self.member(start)
                if len(high) > 1 or high < low:
                    raise self.fail("a range goes from a character to one not below it", start)
                items.append(f"{re.escape(low)}-{re.escape(high)}")
            else:
                items.append(low[1:] if len(low) > 1 else re.escape(low))
        return self.matcher("".join(items) + "]")

    def member(self, start: int) -> str:
        if self.at >= len(self.pattern):
            raise self.fail("this '[' is never closed", start)
        self.at += 1
        char = self.pattern[self.at - 1]
        return self.escape(self.at - 1) if char == "\\" else char

    def escape(self, start: int) -> str:
        r"""The character after a backslash, or for `\d` and its like the members of the class after a backslash."""
        rest = self.pattern[self.at : self.at + 12]
        number = re.compile(r"x\{([0-9A-Fa-f]{1,6})\}|x([0-9A-Fa-f]{2})|(0[0-7]{0,2}|[1-7][0-7]{1,2})").match(rest)
        if number:
            self.at += number.end()
            code = int(number[3], 8) if number[3] else int(number[1] or number[2], 16)
            if code > 0x10FFFF:
                raise self.fail("no such character", start)
            return chr(code)
        char = rest[:1]
        self.at += 1
        if char in _CLASSES:
            return "\\" + _CLASSES[char]
        if char in _CONTROLS:
            return _CONTROLS[char]
        if not char or char.isalnum():
            raise self.fail(f"no escape \\{char} here (back references and \\p classes do not exist)", start)
        return char

    def literal(self, char: str) -> _Node:
        return self.matcher(re.escape(char)) if "i" in self.flags else _Chars(char.__eq__)

    def matcher(self, one: str) -> _Node:
        """A node that takes the one character described by `one`, a literal or a set for `re`."""
        return _Chars(re.compile(one, re.IGNORECASE if "i" in self.flags else 0).fullmatch)


class _Program:
    """The automaton: node i is (what it takes, where it goes); `None` takes nothing; node 0 is the match."""

    def __init__(self, node: _Node, pattern: str) -> None:
        self.takes: list[_Chars | _Assert | None] = [None]
        self.goes: list[tuple[int, ...]] = [()]
        self.pattern = pattern
        self.steps = 0
        self.start = self.emit(node, 0)

    def add(self, takes: _Chars | _Assert | None, *goes: int) -> int:
        self.takes.append(takes)
        self.goes.append(goes)
        return len(self.takes) - 1

    def emit(self, node: _Node, after: int) -> int:
        """Adds the nodes of `node`, which go on to `after`; the index to enter at."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise InvalidArgument(f"regular expression {self.pattern[:80]!r}: too large when its repeats are unfolded")
        if isinstance(node, _Chars | _Assert):
            return self.add(node, after)
        if isinstance(node, _Cat):
            for part in reversed(node.parts):
                after = self.emit(part, after)
            return after
        if isinstance(node, _Alt):
            return self.add(None, *[self.emit(choice, after) for choice in node.choices])
        if node.most is None:
            loop = self.add(None)
            self.goes[loop] = (self.emit(node.part, loop), after)
            after = loop
        else:
            end = after
            for _ in range(node.most - node.least):
                after = self.add(None, self.emit(node.part, after), end)
        for _ in range(node.least):
            after = self.emit(node.part, after)
        return after


def _holds(kind: str, before: str, after: str) -> bool:
    """Whether an assertion holds between two characters; "" is beyond the text."""
    if kind == "text-start":
        return not before
    if kind == "text-end":
        return not after
    if kind == "line-start":
        return before in ("", "\n")
    if kind == "line-end":
        return after in ("", "\n")
    return ((before in _WORD) != (after in _WORD)) == (kind == "boundary")


def compile_regex(pattern: str) -> Callable[[str], bool]:
    """A function that says whether `pattern` matches anywhere in a text; InvalidArgument where it is malformed."""
    program = _Program(_Parser(pattern).whole(), pattern)
    takes, goes, start = program.takes, program.goes, program.start
    # (nodes waiting, the character before) -> next character -> the nodes after it, or None for a match.
    memory: dict[tuple[frozenset[int], str], dict[str, frozenset[int] | None]] = {}
    kept = 0

    def advance(waiting: frozenset[int], before: str, char: str) -> frozenset[int] | None:
        stack, seen, onward = [*waiting, start], set[int](), set[int]()
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if node == 0:
                return None
            taking = takes[node]
            if isinstance(taking, _Chars):
                if char and taking.test(char):
                    onward.update(goes[node])
            elif taking is None or _holds(taking.kind, before, char):
                stack.extend(goes[node])
        return frozenset(onward)

    def search(text: str) -> bool:
        nonlocal kept
        waiting, before = frozenset[int](), ""
        for char in (*text, ""):
            known = memory.setdefault((waiting, before), {})
            try:
                onward = known[char]
            except KeyError:
                onward = advance(waiting, before, char)
                kept += 1 + len(onward or ())
                if kept > MAX_CACHED:
                    memory.clear()
                    kept = 0
                known[char] = onward
            if onward is None:
                return True
            waiting, before = onward, ("\n" if char == "\n" else "w" if char in _WORD else ".")
        return False

    return search
