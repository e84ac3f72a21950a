"""`imod commit`: an image of what a container has changed."""

from __future__ import annotations

import shlex
from argparse import SUPPRESS

from intermodal.cli import options as values

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from intermodal.cli.main import Parser, Session

__all__ = ["add_arguments", "commit"]


def add_arguments(command: str, parser: Parser) -> None:
    """The arguments."""
    parser.usage = "imod commit [OPTIONS] CONTAINER NAME"
    add = parser.add_argument
    add("--author", metavar="TEXT", default="", help="who made it")
    add("-m", "--message", metavar="TEXT", default="", help="what was changed")
    add("--cmd", metavar="WORDS", type=shlex.split, help="what it runs if told nothing, as a shell reads it")
    add("--entrypoint", metavar="WORDS", type=shlex.split, help="what comes before any command")
    add("-e", "--env", metavar="K=V", action="append", default=[], type=values.environment, help="set a variable")
    add("-u", "--user", metavar="USER", default="", help="who runs it")
    add("-w", "--workdir", metavar="DIR", default="", help="working directory")
    add("--label", metavar="K=V", action="append", default=[], type=values.label, help="add a label")
    add("--no-pause", action="store_true", help="do not stop the container meanwhile")
    add("container", metavar="CONTAINER", help=SUPPRESS)
    add("name", metavar="NAME", help=SUPPRESS)


def commit(session: Session, options: argparse.Namespace) -> int:
    """`imod commit`."""
    request = {
        "container": options.container,
        "name": options.name,
        "author": options.author,
        "message": options.message,
        "cmd": options.cmd,
        "entrypoint": options.entrypoint,
        "env": [variable for variable in options.env if variable],
        "workdir": options.workdir,
        "user": options.user,
        "labels": dict(options.label),
    }
    print(session.ask("images.commit", request=request, pause=not options.no_pause)["name"])
    return 0
