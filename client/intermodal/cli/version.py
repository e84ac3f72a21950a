"""`imod version`."""

from __future__ import annotations

from intermodal_core import __version__

from intermodal.cli.errors import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from intermodal.cli.main import Parser, Session

__all__ = ["add_arguments", "version"]


def add_arguments(command: str, parser: Parser) -> None:
    """Nothing to choose."""


def version(session: Session, options: argparse.Namespace) -> int:
    """Both versions; a daemon that is not there is no failure."""
    print(f"imod        {__version__}")
    try:
        daemon = session.ask("version")
    except Failure as failure:
        print(f"intermodald (none: {failure})")
        return 0
    print(f"intermodald {daemon['version']} (pid {daemon['pid']}, {daemon['address']})")
    return 0
