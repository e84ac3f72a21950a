"""`imod plugins`: what there is, what became of each and why, and changes while the daemon serves."""

from __future__ import annotations

import json

from intermodal.cli.authoring import add_author_commands
from intermodal.cli.output import add_list_arguments, outcome, show_list

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
    for name, what, function in (
        ("inspect", "all that is known of one, as JSON", _inspect),
        ("why", "why it is in its state, what needs it, and who chose it", _explain),
        ("reload", "make a new instance with what the config says now", _reload),
    ):
        each = commands.add_parser(name, help=what, usage=f"imod plugins {name} PLUGIN")
        each.add_argument("plugin", metavar="PLUGIN", help="KIND.NAME, or NAME where one kind has it")
        each.set_defaults(function=function)
    graph = commands.add_parser("graph", help="draw what requires what", usage="imod plugins graph [--svg]")
    graph.add_argument("--svg", action="store_true", help="as an SVG, not as text")
    graph.set_defaults(function=_graph)
    rescan = commands.add_parser("rescan", help="find what was installed since the daemon's start")
    rescan.set_defaults(function=_rescan)
    add_author_commands(commands)


def _ls(session: Session, options: argparse.Namespace) -> int:
    return show_list(
        options,
        session.ask("plugins.list"),
        _id,
        {
            "PLUGIN": _id,
            "STATE": lambda item: item["state"],
            "CODE": lambda item: item["code"] or "-",
            "FROM": lambda item: item["distribution"] or "-",
            "WHY": _why,
        },
    )


def _inspect(session: Session, options: argparse.Namespace) -> int:
    print(json.dumps(session.ask("plugins.inspect", plugin=options.plugin), indent=2, ensure_ascii=False))
    return 0


def _explain(session: Session, options: argparse.Namespace) -> int:
    item = session.ask("plugins.why", plugin=options.plugin)
    if item["state"] == "available":
        item["reason"] = "installed, and not needed so far"
    code = f" ({item['code']})" if item["code"] else ""
    print(f"{_id(item)} is {item['state']}{code}{f': {_why(item)}' if _why(item) else ''}")
    if item["distribution"]:
        print(f"  it is the plugin {item['plugin']} of {item['distribution']}")
    if len(item["broken"]) > 1:
        print(f"  what keeps it from being ready: {' -> '.join(item['broken'])}")
    for path in item["needed_by"]:
        print(f"  needed by: {' -> '.join(path)}")
    for sentence in item["chosen"]:
        print(f"  {sentence}")
    if not item["needed_by"] and not item["chosen"]:
        print("  no plugin that is known so far requires it, and nothing in the config chooses it")
    return 0


def _graph(session: Session, options: argparse.Namespace) -> int:
    from intermodal.cli.graph import as_svg, as_text

    drawn = session.ask("plugins.graph")
    print((as_svg if options.svg else as_text)(drawn["nodes"], drawn["edges"]))
    return 0


def _rescan(session: Session, options: argparse.Namespace) -> int:
    return outcome(session.ask("plugins.rescan"), "nothing new")


def _reload(session: Session, options: argparse.Namespace) -> int:
    return outcome(session.ask("plugins.reload", plugin=options.plugin), "nothing new")


def _id(item: dict[str, Any]) -> str:
    return f"{item['kind']}.{item['name']}"


def _why(item: dict[str, Any]) -> str:
    process = item["process"] or {"restarts": 0}
    restarts = f"started again {process['restarts']} times: {process['last_error']}" if process["restarts"] else ""
    return "; ".join(part for part in (item["reason"], item["remedy"], item["trouble"] or restarts) if part)
