"""`imod plugins new`, `dev` and `serve`: a plugin from nothing, a throw-away daemon that runs it, one for other daemons."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from intermodal.cli.main import Session

__all__ = ["add_author_commands"]


def add_author_commands(commands: Any) -> None:
    """The arguments of all three."""
    new = commands.add_parser(
        "new", help="write a plugin's package to begin with", usage="imod plugins new KIND NAME [--dir DIR]"
    )
    new.add_argument("kind", metavar="KIND", help="in the singular; `imod plugins new x y` lists them")
    new.add_argument("name", metavar="NAME", help="the plugin's id: lower case letters, digits, _")
    new.add_argument("--dir", metavar="DIR", default="", help="where (default: intermodal-NAME)")
    new.set_defaults(function=_new)
    dev = commands.add_parser(
        "dev", help="run a plugin's package in a throw-away daemon", usage="imod plugins dev [DIR] [--config FILE]"
    )
    dev.add_argument("directory", metavar="DIR", nargs="?", default=".", help="the package (default: .)")
    dev.add_argument("--config", metavar="FILE", help="of the daemon (default: none, but all is logged)")
    dev.set_defaults(function=_dev)
    serve = commands.add_parser(
        "serve",
        help="serve a backend as containerd's proxy plugins are",
        usage="imod plugins serve KIND NAME --address SOCK [OPTIONS]",
    )
    serve.add_argument("kind", metavar="KIND", help="snapshotter, content or differ")
    serve.add_argument("name", metavar="NAME", help="the instance: a plugin's id, or a section of the config")
    serve.add_argument("--address", metavar="SOCK", required=True, help="the socket")
    serve.add_argument("--config", metavar="FILE", help="with the backend's section")
    serve.add_argument("--root", metavar="DIR", help="what is kept (default: /var/lib/intermodal-serve/KIND.NAME)")
    serve.add_argument("--state", metavar="DIR", help="what is not (default: /run/intermodal-serve/KIND.NAME)")
    serve.add_argument(
        "--content",
        metavar="SOCK",
        default="/run/containerd/containerd.sock",
        help="for a differ: the daemon whose content store has the layers (default: containerd's)",
    )
    serve.set_defaults(function=_serve)


def _new(session: Session, options: argparse.Namespace) -> int:
    from intermodal.cli.scaffold import write

    directory = write(options.kind, options.name, options.dir)
    print(f"{directory}: pip install -e '{directory}[test]' && pytest {directory}; then imod plugins dev {directory}")
    return 0


def _dev(session: Session, options: argparse.Namespace) -> int:
    from intermodal.cli.development import run

    sys.stdout.flush()
    return run(os.path.abspath(options.directory), options.config)


def _serve(session: Session, options: argparse.Namespace) -> int:
    from intermodal.cli.serving import serve

    return serve(options.kind, options.name, options.address, options)
