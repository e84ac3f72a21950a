"""`imod events`."""

from __future__ import annotations

import json
import sys

from intermodal.cli.output import utc

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
    add("--since", metavar="N", type=int, default=None, help="replay those after this sequence number, then follow")
    add("--filter", metavar="FILTER", action="append", default=[], help="such as topic~=/tasks/; of several any fits")
    add("-A", "--all-namespaces", action="store_true", help="of all namespaces")
    add("-o", "--output", choices=("text", "json"), default="text", help="json: one object a line")


def events(session: Session, options: argparse.Namespace) -> int:
    """`imod events`: until interrupted."""
    show = _json if options.output == "json" else _text

    def handle(line: dict[str, Any], _: list[int]) -> None:
        event = line["event"]
        if "topic" in event:
            show(event)
            sys.stdout.flush()

    params = {"filters": options.filter, "since": options.since, "all_namespaces": options.all_namespaces}
    with session.call("events.subscribe", **params) as call:
        call.result(handle)
    return 0


def _json(event: dict[str, Any]) -> None:
    print(json.dumps(event, ensure_ascii=False))


def _text(event: dict[str, Any]) -> None:
    fields = event["fields"]
    what = event["type"] if fields is None else " ".join(f"{key}={_value(value)}" for key, value in fields.items())
    print(f"{utc(event['timestamp'])} {event['sequence']} {event['namespace']} {event['topic']} {what}".rstrip())


def _value(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() and " " not in value else json.dumps(value)
