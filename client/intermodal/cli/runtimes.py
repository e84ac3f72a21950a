"""`imod runtimes`: each runtime, what it is on this machine, and which containers stay with it."""

from __future__ import annotations

from intermodal.cli.output import add_list_arguments, show_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from intermodal.cli.main import Parser, Session

__all__ = ["add_arguments", "runtimes"]


def add_arguments(command: str, parser: Parser) -> None:
    """The arguments of `imod runtimes`."""
    parser.usage = "imod runtimes [OPTIONS]"
    add_list_arguments(parser)


def runtimes(session: Session, options: argparse.Namespace) -> int:
    """`imod runtimes`, with what a switch of the default would leave behind."""
    items = session.ask("runtimes.list")
    show_list(
        options,
        items,
        lambda item: item["name"],
        {
            "RUNTIME": lambda item: item["name"],
            "STATE": lambda item: item["state"],
            "PATH": lambda item: item["binary"] or "-",
            "VERSION": lambda item: item["version"] or "-",
            "CONTAINERS": lambda item: f"{item['containers']}, {item['running']} running",
            "WHY": _why,
        },
    )
    if options.output == "table" and not options.quiet:
        for item in items:
            if item["default"] and item["containers"]:
                print(f"A switch of the default leaves {item['containers']} on {item['name']} until they are removed.")
    return 0


def _why(item: dict[str, Any]) -> str:
    other = item["otherwise"]
    named = f"{', '.join(other[:3])}{f' and {len(other) - 3} more' if len(other) > 3 else ''}"
    return "; ".join(
        part
        for part in (
            item["reason"],
            f"the default: {item['default']}" if item["default"] else "",
            f"made with other options or another version: {named}" if other else "",
        )
        if part
    )
