"""`imod images pull|push`: images over the network."""

from __future__ import annotations

import sys
from argparse import SUPPRESS, ArgumentTypeError

from intermodal.cli import options as values
from intermodal.cli.progress import Bars

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from intermodal.cli.main import Session

__all__ = ["access_of", "add_access", "add_pull", "add_push", "add_verify"]


def add_pull(commands: argparse._SubParsersAction[Any]) -> None:
    """The arguments of `pull`."""
    parser = commands.add_parser(
        "pull", help="fetch one from a registry and unpack it", usage="imod images pull [OPTIONS] NAME"
    )
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--platform", metavar="OS/ARCH", default="", help="of several, this one instead of this machine's"
    )
    which.add_argument("--all-platforms", action="store_true", help="all that there are")
    unpack = parser.add_mutually_exclusive_group()
    unpack.add_argument("--no-unpack", action="store_true", help="leave unpacking to the first container")
    unpack.add_argument("--snapshotter", metavar="NAME", default="", help="unpack for this one")
    add("--label", metavar="K=V", action="append", default=[], type=values.label, help="add a label")
    add_access(parser)
    add("-q", "--quiet", action="store_true", help="print the image's name and nothing else")
    add("name", metavar="NAME", help=SUPPRESS)
    parser.set_defaults(function=_pull)


def add_push(commands: argparse._SubParsersAction[Any]) -> None:
    """The arguments of `push`."""
    parser = commands.add_parser("push", help="send one to a registry", usage="imod images push [OPTIONS] IMAGE [NAME]")
    add = parser.add_argument
    add("--platform", metavar="OS/ARCH", default="", help="of several, this one alone")
    add_access(parser)
    add("-q", "--quiet", action="store_true", help="print nothing")
    add("image", metavar="IMAGE", help=SUPPRESS)
    add("name", metavar="NAME", nargs="?", default="", help=SUPPRESS)
    parser.set_defaults(function=_push)


def add_access(parser: argparse.ArgumentParser) -> None:
    """How to reach a registry."""
    add = parser.add_argument
    add("--plain-http", action="store_true", help="without TLS")
    add("--skip-verify", action="store_true", help="whatever its certificate")
    add("--creds", metavar="USER[:PASS]", type=_credentials, help="as this user; without PASS it is asked for")


def access_of(options: argparse.Namespace) -> dict[str, Any]:
    """What `add_access` was given, for the daemon."""
    access: dict[str, Any] = {"plain_http": options.plain_http, "skip_verify": options.skip_verify}
    if options.creds is not None:
        user, password = options.creds
        if password is None:
            import getpass

            password = getpass.getpass(f"password of {user}: ")
        access |= {"username": user, "password": password}
    return access


def _credentials(text: str) -> tuple[str, str | None]:
    user, colon, password = text.partition(":")
    if not user:
        raise ArgumentTypeError("it has no user: write USER:PASS, or USER")
    return user, (password if colon else None)


def _pull(session: Session, options: argparse.Namespace) -> int:
    params = {
        "name": options.name,
        "platform": options.platform,
        "all_platforms": options.all_platforms,
        "unpack": None if options.no_unpack else options.snapshotter,
        "labels": dict(options.label),
        "access": access_of(options),
    }
    with session.call("images.pull", **params) as call, Bars() as bars:
        pulled = call.result(bars.handle)
    print(pulled["image"]["name"])
    if not options.quiet:
        print(_summary(pulled), file=sys.stderr)
    return 0


def _summary(pulled: dict[str, Any]) -> str:
    """What it took: bytes a second of each stage that moves bytes, and which one the rest waited for."""
    rates = [
        f"{stage['name']} {stage['rate'] / 1e6:.0f} MB/s"
        if stage["bytes"]
        else f"{stage['name']} {stage['seconds']:.2f} s"
        for stage in pulled["stages"]
    ]
    verified = pulled["verification"]
    verdicts = [f"{each['verifier']}: {each['reason']}" for each in verified["judged"]]
    lines = [f"verification is {verified['mode']}" + (f": {'; '.join(verdicts)}" if verdicts else "")]
    where = f"unpacked for {pulled['unpacked']}" if pulled["unpacked"] else "not unpacked"
    lines.append(
        f"{pulled['image']['target']['digest']} from {pulled['host']}, {where}: {pulled['fetched'] / 1e6:.1f} MB in "
        f"{pulled['seconds']:.2f} s ({', '.join(rates)}; slowest: {pulled['slowest']})"
    )
    return "\n".join(lines)


def add_verify(commands: argparse._SubParsersAction[Any]) -> None:
    """The arguments of `verify`."""
    parser = commands.add_parser(
        "verify", help="ask the verifiers about one that is here", usage="imod images verify [OPTIONS] IMAGE"
    )
    add_access(parser)
    parser.add_argument("image", metavar="IMAGE", help=SUPPRESS)
    parser.set_defaults(function=_verify)


def _verify(session: Session, options: argparse.Namespace) -> int:
    decision = session.ask("images.verify", image=options.image, access=access_of(options))
    print(f"verification is {decision['mode']} ({decision['why']})")
    for each in decision["judged"]:
        print(f"{each['verifier']} {'accepts' if each['accepted'] else 'refuses'}: {each['reason']}")
    return 0


def _push(session: Session, options: argparse.Namespace) -> int:
    params = {
        "image": options.image,
        "name": options.name,
        "platform": options.platform,
        "access": access_of(options),
    }
    with session.call("images.push", **params) as call, Bars() as bars:
        image = call.result(bars.handle)
    if not options.quiet:
        print(f"{options.name or image['name']} {image['target']['digest']}")
    return 0
