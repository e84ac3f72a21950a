"""`WWW-Authenticate`: what a server that refuses asks for (RFC 9110, section 11; the distribution project's token scheme)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["Challenge", "parse"]

_SCHEME: Final = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9-]*)(?:\s+|$)(?![=])")
_PARAMETER: Final = re.compile(r'\s*,?\s*([A-Za-z][A-Za-z0-9_-]*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


class Challenge(NamedTuple):
    """A scheme in lower case and its parameters, names in lower case."""

    scheme: str
    parameters: dict[str, str]


def parse(headers: Sequence[str]) -> list[Challenge]:
    """The challenges of all the headers, in order; what is malformed ends its header."""
    found = []
    for header in headers:
        at = 0
        while scheme := _SCHEME.match(header, at):
            at = scheme.end()
            parameters = {}
            while parameter := _PARAMETER.match(header, at):
                name, quoted, word = parameter.groups()
                parameters[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else word
                at = parameter.end()
            found.append(Challenge(scheme[1].lower(), parameters))
    return found
