"""`imod plugins ls`."""

from __future__ import annotations

from intermodal.cli.output import add_list_arguments, show_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from intermodal.cli.main import Parser, Session

__all__ = ["add_arguments"]


def add_arguments(command: str, parser: Parser) -> None:
    """The arguments of `imod plugins`."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    ls = commands.add_parser("ls", help="each plugin, its state and why", usage="imod plugins ls [OPTIONS]")
    add_list_arguments(ls)
    ls.set_defaults(function=_ls)


def _ls(session: Session, options: argparse.Namespace) -> int:
    return show_list(
        options,
        session.ask("plugins.list"),
        lambda item: f"{item['kind']}.{item['name']}",
        {
            "PLUGIN": lambda item: f"{item['kind']}.{item['name']}",
            "STATE": lambda item: item["state"],
            "FROM": lambda item: item["distribution"],
            "WHY": _why,
        },
    )


def _why(item: dict[str, Any]) -> str:
    return "; ".join(part for part in (item["reason"], item["remedy"]) if part)
