"""`imod config default|check`: without a daemon, from what is installed here."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from intermodal.cli.main import Parser, Session

__all__ = ["add_arguments"]

DEFAULT_FILE = "/etc/intermodal/config.toml"


def add_arguments(command: str, parser: Parser) -> None:
    """The arguments of `imod config`."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    default = commands.add_parser("default", help="write every option with its documentation")
    default.set_defaults(function=_default)
    check = commands.add_parser("check", help="check a file; the daemon is not asked", usage="imod config check [FILE]")
    check.add_argument("file", metavar="FILE", nargs="?", default=DEFAULT_FILE, help=f"default: {DEFAULT_FILE}")
    check.set_defaults(function=_check)


def _default(session: Session, options: argparse.Namespace) -> int:
    from intermodal_core.config import Core
    from intermodal_core.config_text import default_text

    plugins = _installed()
    instances = [(kind, name, plugin.config) for (kind, name), plugin in sorted(plugins.items())]
    tables = {name: table for plugin in plugins.values() for name, table in plugin.tables.items()}
    sys.stdout.write(default_text(Core(), instances, tables))
    return 0


def _check(session: Session, options: argparse.Namespace) -> int:
    """0 when a daemon would start with it, else 1 and every mistake."""
    from pathlib import Path

    from intermodal_core.config import load
    from intermodal_core.errors import IntermodalError

    plugins = _installed()
    names: dict[str, set[str]] = {kind: set() for kind in _kinds()}
    for kind, name in plugins:
        names.setdefault(kind, set()).add(name)
    try:
        config = load(Path(options.file), permissive=True)
        config.check(names, plugins)
    except IntermodalError as error:
        print(f"imod: {error}", file=sys.stderr)
        return 1
    for sentence in (*config.notices, *config.warnings):
        print(f"imod: {sentence}", file=sys.stderr)
    if config.warnings:
        return 1
    print(f"{options.file}: right")
    return 0


def _kinds() -> list[str]:
    from intermodal_core import discovery
    from intermodal_core.loading import load_attribute

    return [load_attribute(point.value).name for point in discovery.find() if point.group == "kinds"]


def _installed() -> dict[tuple[str, str], Any]:
    """The plugins by kind and id; one that cannot be imported is told of and left out."""
    from intermodal_core import discovery
    from intermodal_core.loading import load_attribute

    plugins: dict[tuple[str, str], Any] = {}
    kinds = _kinds()
    for point in discovery.find():
        if point.group not in kinds:
            continue
        try:
            plugins[point.group, point.name] = load_attribute(point.value)
        except Exception as error:
            print(f"imod: {point.group}.{point.name} is left out: {point.value}: {error}", file=sys.stderr)
    return plugins
