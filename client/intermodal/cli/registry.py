"""`imod registry explain`: which hosts would be asked for an image, how, and what they answer."""

from __future__ import annotations

import json
from argparse import SUPPRESS

from intermodal.cli.transfers import access_of, add_access

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from intermodal.cli.main import Parser, Session

__all__ = ["add_arguments"]


def add_arguments(command: str, parser: Parser) -> None:
    """The arguments of `imod registry`."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    explain = commands.add_parser(
        "explain",
        help="the hosts in order, whom TLS trusts, where credentials are from, what they answer",
        usage="imod registry explain [OPTIONS] NAME",
    )
    explain.add_argument("-o", "--output", choices=("text", "json"), default="text", help="json: for programs")
    add_access(explain)
    explain.add_argument("name", metavar="NAME", help=SUPPRESS)
    explain.set_defaults(function=_explain)


def _explain(session: Session, options: argparse.Namespace) -> int:
    hosts = session.ask("registry.explain", name=options.name, access=access_of(options))
    if options.output == "json":
        print(json.dumps(hosts, indent=2, ensure_ascii=False))
        return 0
    for number, host in enumerate(hosts, 1):
        print(f"{number}. {host['url']}")
        print(f"   for          {', '.join(host['capabilities'])}")
        print(f"   because of   {host['origin']}")
        print(f"   TLS          {host['tls']}")
        print(f"   credentials  {host['credentials'] or 'none'}")
        if host["answer"]:
            print(f"   answers      {host['answer']}")
    return 0
