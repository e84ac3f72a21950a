"""`imod network ls|create|rm|inspect|connect|disconnect|prune`."""

from __future__ import annotations

import json
from argparse import SUPPRESS

from intermodal.cli.containers import each
from intermodal.cli.options import network_option
from intermodal.cli.output import add_list_arguments, show_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from intermodal.cli.main import Parser, Session

__all__ = ["add_arguments"]


def add_arguments(command: str, top: Parser) -> None:
    """The arguments of `imod network`."""
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    ls = commands.add_parser("ls", help="list them, the default one first", usage="imod network ls [OPTIONS]")
    add_list_arguments(ls)
    ls.set_defaults(function=_ls)
    _add_create(commands)
    for name, words, function in (
        ("rm", "remove networks that were made here", _rm),
        ("inspect", "show all that is known of networks, as JSON", _inspect),
    ):
        parser = commands.add_parser(name, help=words, usage=f"imod network {name} NETWORK...")
        parser.add_argument("networks", metavar="NETWORK", nargs="+", help=SUPPRESS)
        parser.set_defaults(function=function)
    for name, words, function in (
        ("connect", "put a container into a network", _connect),
        ("disconnect", "take a container out of a network", _disconnect),
    ):
        parser = commands.add_parser(name, help=words, usage=f"imod network {name} [OPTIONS] NETWORK CONTAINER")
        if name == "connect":
            parser.add_argument("--ip", metavar="IP", action="append", default=[], help="with this address")
        parser.add_argument("network", metavar="NETWORK", help=SUPPRESS)
        parser.add_argument("container", metavar="CONTAINER", help=SUPPRESS)
        parser.set_defaults(function=function)
    prune = commands.add_parser("prune", help="remove those that no container is in", usage="imod network prune")
    prune.set_defaults(function=_prune)


def _add_create(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser("create", help="make a network", usage="imod network create [OPTIONS] NAME")
    add = parser.add_argument
    add("--driver", metavar="TYPE", default="bridge", help="bridge (default), macvlan, ipvlan, ptp")
    add(
        "--subnet",
        metavar="CIDR",
        action="append",
        default=[],
        help="else a free one; one IPv4 and one IPv6 go together",
    )
    add("--gateway", metavar="IP", action="append", default=[], help="else the subnet's first address")
    add("--internal", action="store_true", help="it leads nowhere outside")
    add("--mtu", metavar="N", type=int, default=0, help="largest packet")
    add(
        "--opt",
        metavar="K=V",
        action="append",
        default=[],
        type=network_option,
        help="a key of the driver (master=eth1)",
    )
    add("name", metavar="NAME", help=SUPPRESS)
    parser.set_defaults(function=_create)


def _ls(session: Session, options: argparse.Namespace) -> int:
    return show_list(
        options,
        session.ask("networks.list"),
        lambda network: network["name"],
        {
            "NETWORK": lambda network: network["name"],
            "DRIVER": lambda network: network["driver"],
            "SUBNETS": lambda network: " ".join(network["subnets"]),
            "CONTAINERS": lambda network: str(network["attachments"]),
            "SOURCE": lambda network: network["error"] or network["source"],
        },
    )


def _create(session: Session, options: argparse.Namespace) -> int:
    spec = {
        "name": options.name,
        "driver": options.driver,
        "subnets": options.subnet,
        "gateways": options.gateway,
        "internal": options.internal,
        "mtu": options.mtu,
        "options": dict(options.opt),
    }
    print(session.ask("networks.create", spec=spec)["name"])
    return 0


def _rm(session: Session, options: argparse.Namespace) -> int:
    def remove(name: str) -> None:
        session.ask("networks.remove", network=name)
        print(name)

    return each(options.networks, remove)


def _inspect(session: Session, options: argparse.Namespace) -> int:
    found: list[Any] = []
    status = each(options.networks, lambda name: found.append(session.ask("networks.inspect", network=name)))
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return status


def _connect(session: Session, options: argparse.Namespace) -> int:
    made = session.ask("networks.connect", network=options.network, container=options.container, addresses=options.ip)
    for address in made["addresses"] if made else ():
        print(address)
    return 0


def _disconnect(session: Session, options: argparse.Namespace) -> int:
    session.ask("networks.disconnect", network=options.network, container=options.container)
    return 0


def _prune(session: Session, options: argparse.Namespace) -> int:
    for name in session.ask("networks.prune"):
        print(name)
    return 0
