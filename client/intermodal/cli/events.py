"""`imod events`."""

from __future__ import annotations

import json
import sys

from intermodal.cli.options import moment
from intermodal.cli.output import table, utc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from intermodal.cli.main import Parser, Session

__all__ = ["add_arguments", "events"]


def add_arguments(command: str, parser: Parser) -> None:
    """The arguments of `imod events`."""
    parser.usage = "imod events [OPTIONS]"
    add = parser.add_argument
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--since", metavar="WHEN", type=moment, help="first those kept since 10m ago, or 2026-01-31T12:00Z"
    )
    group.add_argument("--cursor", metavar="N", type=int, help="first those after the event with this number")
    add("--filter", metavar="FILTER", action="append", default=[], help="such as topic~=/tasks/; of several any fits")
    add("-A", "--all-namespaces", action="store_true", help="of all namespaces")
    add("--sinks", action="store_true", help="instead: where events go, and how far that is")
    add("-o", "--output", choices=("text", "json"), default="text", help="json: one object a line")


def events(session: Session, options: argparse.Namespace) -> int:
    """`imod events`: until interrupted."""
    if options.sinks:
        return _sinks(session, options)
    show = _json if options.output == "json" else _text

    def handle(line: dict[str, Any], _: list[int]) -> None:
        event = line["event"]
        if "topic" in event:
            show(event)
            sys.stdout.flush()
        elif "lag" in event:
            print(f"imod: {event['lag']} events behind, which are kept; they follow", file=sys.stderr)

    params = {
        "filters": options.filter,
        "since": options.cursor,
        "since_time": options.since,
        "all_namespaces": options.all_namespaces,
    }
    with session.call("events.subscribe", **params) as call:
        call.result(handle)
    return 0


def _sinks(session: Session, options: argparse.Namespace) -> int:
    rows = session.ask("events.sinks")
    if options.output == "json":
        for row in rows:
            _json(row)
        return 0
    columns = ("name", "position", "lag", "delivered", "failures", "lost", "error")
    print(table([name.upper() for name in columns], [[str(row[name]) for name in columns] for row in rows]))
    return 0


def _json(event: dict[str, Any]) -> None:
    print(json.dumps(event, ensure_ascii=False))


def _text(event: dict[str, Any]) -> None:
    fields = event["fields"]
    what = event["type"] if fields is None else " ".join(f"{key}={_value(value)}" for key, value in fields.items())
    print(f"{utc(event['timestamp'])} {event['sequence']} {event['namespace']} {event['topic']} {what}".rstrip())


def _value(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() and " " not in value else json.dumps(value)
