"""Lists on stdout: aligned columns for people, JSON or names alone for programs."""

from __future__ import annotations

import json
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from intermodal.cli.main import Parser

__all__ = ["add_list_arguments", "age", "outcome", "show_list", "size", "table", "utc"]

_SPANS = (
    (86400 * 365, "years"),
    (86400 * 30, "months"),
    (86400, "days"),
    (3600, "hours"),
    (60, "minutes"),
    (1, "seconds"),
)


def add_list_arguments(parser: Parser) -> None:
    """-o and -q, which every list has."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="json: everything that is known"
    )
    form.add_argument("-q", "--quiet", action="store_true", help="names alone")


def show_list(
    options: argparse.Namespace,
    items: Sequence[Mapping[str, Any]],
    name: Callable[[Any], str],
    columns: Mapping[str, Callable[[Any], str]],
) -> int:
    """Print `items` as the options ask; `columns` are heading and cell. Returns the status 0."""
    if options.output == "json":
        print(json.dumps(items, indent=2, ensure_ascii=False))
    elif options.quiet:
        for item in items:
            print(name(item))
    else:
        print(table(list(columns), [[cell(item) for cell in columns.values()] for item in items]))
    return 0


def outcome(found: Mapping[str, Any], nothing: str) -> int:
    """Print what a change did, and what it could not do while the daemon runs. Returns the status 0."""
    for sentence in found["applied"] or ([] if found["restart"] else [nothing]):
        print(sentence)
    for sentence in found["restart"]:
        print(f"needs a restart of the daemon, which touches no container: {sentence}")
    return 0


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns with two spaces between, the last one as long as it is; control characters are shown as escapes."""
    shown = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(headings, *shown, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [headings, *shown]
    ]
    if sys.stdout.isatty():
        lines[0] = f"\x1b[1m{lines[0]}\x1b[0m"
    return "\n".join(lines)


def age(nanoseconds: int) -> str:
    """How long ago, in one unit ("3 hours"); "" for never."""
    if not nanoseconds:
        return ""
    passed = max(0, time.time() - nanoseconds / 1e9)
    for span, unit in _SPANS:
        if passed >= span:
            count = int(passed // span)
            return f"{count} {unit if count != 1 else unit[:-1]}"
    return "0 seconds"


def size(count: int) -> str:
    """Bytes in the unit that fits."""
    amount, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"


def utc(nanoseconds: int) -> str:
    """A time as RFC 3339 has it, with nanoseconds."""
    second, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)) + f".{rest:09d}Z"


def _printable(cell: str) -> str:
    return (
        cell
        if cell.isprintable()
        else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cell)
    )
