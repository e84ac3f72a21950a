"""`imod images`: what is taken in, made, listed and forgotten; `transfers` has what goes over the network."""

from __future__ import annotations

import os
import sys
from argparse import REMAINDER, SUPPRESS

from intermodal.cli import archives, contents, transfers
from intermodal.cli import options as values
from intermodal.cli.errors import FAILED, DaemonError, Failure
from intermodal.cli.output import add_list_arguments, age, show_list
from intermodal.cli.progress import Bars

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from intermodal.cli.main import Parser, Session

__all__ = ["add_arguments"]


def add_arguments(command: str, parser: Parser) -> None:
    """The arguments of `imod images`."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    transfers.add_pull(commands)
    transfers.add_push(commands)
    transfers.add_verify(commands)
    _add_import(commands)
    _add_from_rootfs(commands)
    archives.add_export(commands)
    archives.add_convert(commands)
    contents.add(commands)
    tag = commands.add_parser("tag", help="give one more name", usage="imod images tag IMAGE NAME")
    tag.add_argument("image", metavar="IMAGE", help=SUPPRESS)
    tag.add_argument("name", metavar="NAME", help=SUPPRESS)
    tag.set_defaults(function=_tag)
    ls = commands.add_parser("ls", help="list them", usage="imod images ls [OPTIONS]")
    add_list_arguments(ls)
    ls.set_defaults(function=_ls)
    rm = commands.add_parser("rm", help="forget images by name", usage="imod images rm IMAGE...")
    rm.add_argument("images", metavar="IMAGE", nargs="+", help=SUPPRESS)
    rm.set_defaults(function=_rm)


def _add_import(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser(
        "import",
        help="take an OCI layout or a Docker archive",
        usage="imod images import [OPTIONS] FILE|DIR|-",
        epilog="A tar file, plain or compressed; the directory of an OCI layout; or - for stdin.",
    )
    add = parser.add_argument
    add(
        "--name",
        metavar="NAME",
        action="append",
        default=[],
        help="instead of the names in the archive; may be repeated",
    )
    add("--platform", metavar="OS/ARCH", default="", help="of several, this one instead of this machine's")
    unpack = parser.add_mutually_exclusive_group()
    unpack.add_argument("--no-unpack", action="store_true", help="leave unpacking to the first container")
    unpack.add_argument("--snapshotter", metavar="NAME", default="", help="unpack for this one")
    add("-q", "--quiet", action="store_true", help="print nothing")
    add("archive", metavar="FILE", help=SUPPRESS)
    parser.set_defaults(function=_import)


def _add_from_rootfs(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser(
        "from-rootfs",
        help="make an image of a directory",
        usage="imod images from-rootfs [OPTIONS] DIR NAME [--cmd WORD...]",
    )
    add = parser.add_argument
    add(
        "--entrypoint",
        metavar="WORD",
        action="append",
        default=[],
        help="what comes before any command; may be repeated",
    )
    add("-e", "--env", metavar="K=V", action="append", default=[], type=values.environment, help="set a variable")
    add("-u", "--user", metavar="USER", default="", help="who runs it")
    add("-w", "--workdir", metavar="DIR", default="", help="working directory")
    add("--label", metavar="K=V", action="append", default=[], type=values.label, help="add a label")
    add("-q", "--quiet", action="store_true", help="print nothing")
    add(
        "--cmd",
        metavar="WORD...",
        nargs=REMAINDER,
        default=[],
        help="comes last: what a container runs if told nothing",
    )
    add("directory", metavar="DIR", help=SUPPRESS)
    add("name", metavar="NAME", help=SUPPRESS)
    parser.set_defaults(function=_from_rootfs)


def _import(session: Session, options: argparse.Namespace) -> int:
    from intermodal.cli.archive import opened

    params = {
        "names": options.name,
        "platform": options.platform,
        "unpack": None if options.no_unpack else options.snapshotter,
    }
    with opened(options.archive) as archive:
        call = session.call("images.import", [archive.fd], **params)
        archive.close()
        with call, Bars() as bars:
            images = call.result(bars.handle)
        archive.check()
    for image in images if not options.quiet else []:
        print(image["name"])
    return 0


def _from_rootfs(session: Session, options: argparse.Namespace) -> int:
    if not os.path.isdir(options.directory):
        raise Failure(f"{options.directory} is no directory")
    params = {
        "directory": os.path.abspath(options.directory),
        "name": options.name,
        "cmd": options.cmd,
        "entrypoint": options.entrypoint,
        "env": [variable for variable in options.env if variable],
        "workdir": options.workdir,
        "user": options.user,
        "labels": dict(options.label),
    }
    with session.call("images.from_rootfs", **params) as call, Bars() as bars:
        image = call.result(bars.handle)
    if not options.quiet:
        print(image["name"])
    return 0


def _tag(session: Session, options: argparse.Namespace) -> int:
    print(session.ask("images.tag", image=options.image, name=options.name)["name"])
    return 0


def _ls(session: Session, options: argparse.Namespace) -> int:
    return show_list(
        options,
        session.ask("images.list"),
        lambda image: image["name"],
        {
            "IMAGE": lambda image: image["name"],
            "DIGEST": lambda image: image["target"]["digest"][:19],
            "CREATED": lambda image: f"{age(image['created_at'])} ago",
        },
    )


def _rm(session: Session, options: argparse.Namespace) -> int:
    status = 0
    for name in options.images:
        try:
            print(session.ask("images.remove", image=name)["name"])
        except DaemonError as error:
            print(f"imod: {error}", file=sys.stderr)
            status = FAILED
    return status
