"""`imod ps`, `inspect`, `stop`, `kill`, `pause`, `unpause`, `wait`, `rm`: commands on containers that there are."""

from __future__ import annotations

import json
import sys
from argparse import SUPPRESS

from intermodal.cli import options as values
from intermodal.cli.errors import FAILED, DaemonError
from intermodal.cli.output import add_list_arguments, age, show_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

    from intermodal.cli.main import Parser, Session

__all__ = ["add_arguments", "each", "inspect", "kill", "pause", "ps", "rm", "stop", "unpause", "wait"]

COMMAND_WIDTH = 32


def add_arguments(command: str, parser: Parser) -> None:
    """The arguments of `command`."""
    if command == "ps":
        parser.usage = "imod ps [OPTIONS]"
        parser.add_argument("-a", "--all", action="store_true", help="those that do not run, too")
        add_list_arguments(parser)
        return
    parser.usage = f"imod {command} [OPTIONS] CONTAINER..."
    if command == "kill":
        parser.add_argument("-s", "--signal", metavar="SIG", type=values.signal_number, default=9, help="default: KILL")
        parser.add_argument("-a", "--all", action="store_true", help="to all of its processes")
    elif command == "stop":
        parser.add_argument(
            "-t", "--time", metavar="SECS", type=values.seconds, default=10.0, help="before SIGKILL (default: 10)"
        )
    elif command == "rm":
        parser.add_argument("-f", "--force", action="store_true", help="those that run, too")
    parser.add_argument("containers", metavar="CONTAINER", nargs="+", help=SUPPRESS)


def ps(session: Session, options: argparse.Namespace) -> int:
    """`imod ps`."""
    items = session.ask("containers.list", all=options.all)
    return show_list(
        options,
        items,
        lambda item: item["id"],
        {
            "CONTAINER": lambda item: item["id"],
            "IMAGE": lambda item: item["image"],
            "COMMAND": lambda item: _shorten(item["command"]),
            "STATUS": _status,
            "CREATED": lambda item: f"{age(item['created_at'])} ago",
            "RUNTIME": lambda item: item["runtime"],
            "NETWORK": lambda item: item["network"],
        },
    )


def inspect(session: Session, options: argparse.Namespace) -> int:
    """`imod inspect`: a list, also of one."""
    found: list[Any] = []
    status = each(options.containers, lambda name: found.append(session.ask("containers.inspect", container=name)))
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return status


def stop(session: Session, options: argparse.Namespace) -> int:
    """`imod stop`."""
    return each(options.containers, lambda name: _named(session, "containers.stop", name, timeout=options.time))


def kill(session: Session, options: argparse.Namespace) -> int:
    """`imod kill`."""
    params = {"signal": options.signal, "all": options.all}
    return each(options.containers, lambda name: _named(session, "containers.kill", name, **params))


def pause(session: Session, options: argparse.Namespace) -> int:
    """`imod pause`."""
    return each(options.containers, lambda name: _named(session, "containers.pause", name))


def unpause(session: Session, options: argparse.Namespace) -> int:
    """`imod unpause`."""
    return each(options.containers, lambda name: _named(session, "containers.resume", name))


def rm(session: Session, options: argparse.Namespace) -> int:
    """`imod rm`."""
    return each(options.containers, lambda name: _named(session, "containers.remove", name, force=options.force))


def wait(session: Session, options: argparse.Namespace) -> int:
    """`imod wait`."""
    return each(options.containers, lambda name: print(session.ask("containers.wait", container=name)["status"]))


def _named(session: Session, method: str, name: str, **params: Any) -> None:
    session.ask(method, container=name, **params)
    print(name)


def each(names: list[str], action: Callable[[str], None]) -> int:
    """Do it to each; one that fails is told of and does not keep the others from it."""
    status = 0
    for name in names:
        try:
            action(name)
        except DaemonError as error:
            print(f"imod: {error}", file=sys.stderr)
            status = FAILED
    return status


def _status(item: dict[str, Any]) -> str:
    if item["status"] == "stopped":
        return f"stopped ({item['exit_code']}) {age(item['exited_at'])} ago".replace("(None)", "")
    since = age(item["started_at"]) if item["status"] in ("running", "paused") else ""
    return f"{item['status']} {since}".rstrip()


def _shorten(command: str) -> str:
    return command if len(command) <= COMMAND_WIDTH else command[: COMMAND_WIDTH - 1] + "…"
