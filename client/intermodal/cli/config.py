"""`imod config`: what may be in the file and what is, without a daemon where none is needed; and what one makes of it."""

from __future__ import annotations

import sys

from intermodal.cli import options as values

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

    from intermodal.cli.main import Parser, Session

__all__ = ["add_arguments", "installed"]

DEFAULT_FILE = "/etc/intermodal/config.toml"


def add_arguments(command: str, parser: Parser) -> None:
    """The arguments of `imod config`."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, what: str, function: Callable[[Session, argparse.Namespace], int], usage: str = "") -> Parser:
        added: Parser = commands.add_parser(name, help=what, usage=f"imod config {name} {usage}".rstrip())
        added.set_defaults(function=function)
        return added

    add("default", "write every option with its documentation", _default)
    add("schema", "write a JSON Schema of the file", _schema)
    check = add("check", "check a file; the daemon is not asked", _check, "[FILE]")
    migrate = add("migrate", "show a file with options in their newest form", _migrate, "[--write] [FILE]")
    migrate.add_argument("--write", action="store_true", help="change the files, and keep the old ones beside them")
    for each in (check, migrate):
        each.add_argument("file", metavar="FILE", nargs="?", default=DEFAULT_FILE, help=f"default: {DEFAULT_FILE}")
    show = add("show", "show what is in force, or what FILE would put in force", _show, "[--origin] [FILE]")
    show.add_argument("--origin", action="store_true", help="with the file and line of each value")
    show.add_argument("file", metavar="FILE", nargs="?", help="without it the daemon is asked")
    explain = add("explain", "show what is chosen for an image, and who says so", _explain, "[OPTIONS] [IMAGE]")
    explain.add_argument("image", metavar="IMAGE", nargs="?", default="", help="it need not be here")
    explain.add_argument(
        "-l", "--label", metavar="K=V", type=values.label, action="append", default=[], help="a label of the container"
    )
    for subject in ("runtime", "snapshotter", "net"):
        explain.add_argument(f"--{subject}", metavar="NAME", default="", help="as `imod run` would name it")
    add("reload", "have the daemon read its config again", _reload)


# Without a daemon.


def _default(session: Session, options: argparse.Namespace) -> int:
    from intermodal_core.config import Core

    from intermodal.cli.config_default import default_text

    kinds, plugins = installed()
    opt_in = [kind.name for kind in kinds if kind.opt_in]
    sys.stdout.write(
        default_text(Core(), {key: plugins[key] for key in sorted(plugins) if not key[1].startswith("_")}, opt_in)
    )
    return 0


def _schema(session: Session, options: argparse.Namespace) -> int:
    import json

    from intermodal.cli.config_schema import schema

    kinds, plugins = installed()
    print(json.dumps(schema([kind.name for kind in kinds], plugins), indent=2, ensure_ascii=False))
    return 0


def _check(session: Session, options: argparse.Namespace) -> int:
    """0 when a daemon would start with it, else 1 and every mistake."""
    config, _ = _read(options.file)
    for sentence in (*config.notices, *config.warnings):
        print(f"imod: {sentence}", file=sys.stderr)
    if config.warnings:
        return 1
    print(f"{options.file}: right")
    return 0


def _migrate(session: Session, options: argparse.Namespace) -> int:
    from intermodal_core.errors import IntermodalError

    from intermodal.cli.config_migrate import difference, migrated, write
    from intermodal.cli.errors import Failure

    config, plugins = _read(options.file)
    try:
        files = migrated(config, plugins)
    except IntermodalError as error:
        raise Failure(str(error), 1) from None
    for file, text in files.items():
        if options.write:
            print(f"{file} is in its newest form; the old one is {write(file, text)}")
        else:
            sys.stdout.write(difference(file, config.texts[file], text))
    if not files:
        print(f"{options.file}: everything is in its newest form")
    return 0


def _show(session: Session, options: argparse.Namespace) -> int:
    if options.file is None:
        sys.stdout.write(session.ask("config.show", origin=options.origin))
        return 0
    config, plugins = _read(options.file)
    types = {
        (kind, name): plugin
        for (kind, name), section in config.instances().items()
        if (plugin := plugins.get((kind, section.common.plugin or name)))
    }
    offered = {key: plugin for key, plugin in plugins.items() if not key[1].startswith("_")}
    types = {key: plugin for key, plugin in offered.items() if config.section(*key).common.enabled} | types
    sys.stdout.write(config.dump(options.origin, types))
    for sentence in config.warnings:
        print(f"imod: {sentence}", file=sys.stderr)
    return 1 if config.warnings else 0


def _read(file: str) -> tuple[Any, Any]:
    """The config, all its mistakes among its warnings, and the plugins that are installed. Raises Failure."""
    from pathlib import Path

    from intermodal_core.config import load
    from intermodal_core.errors import IntermodalError

    from intermodal.cli.errors import Failure

    kinds, plugins = installed()
    names = {kind.name: {name for of, name in plugins if of == kind.name} for kind in kinds}
    try:
        config = load(Path(file), permissive=True)
        config.take_proxies(kinds)
        config.check(names, plugins)
    except IntermodalError as error:
        raise Failure(str(error), 1) from None
    return config, plugins


def installed() -> tuple[list[Any], dict[tuple[str, str], Any]]:
    """The kinds, and the plugins by kind and id; one that cannot be imported is told of and left out."""
    from intermodal_core import discovery
    from intermodal_core.loading import load_attribute, load_kinds

    found = discovery.find()
    kinds = load_kinds([point for point in found if point.group == "kinds"])
    names = {kind.name for kind in kinds}
    plugins: dict[tuple[str, str], Any] = {}
    for point in found:
        if point.group not in names:
            continue
        try:
            plugins[point.group, point.name] = load_attribute(point.value)
        except Exception as error:
            print(f"imod: {point.group}.{point.name} is left out: {point.value}: {error}", file=sys.stderr)
    return kinds, plugins


# What the daemon makes of it.


def _explain(session: Session, options: argparse.Namespace) -> int:
    asked = {"runtime": options.runtime, "snapshotter": options.snapshotter, "network": options.net}
    explained = session.ask(
        "config.explain",
        image=options.image,
        labels=dict(options.label),
        asked={subject: name for subject, name in asked.items() if name},
    )
    for subject in explained:
        print(f"{subject['subject']}: {subject['error'] or subject['value']}")
        for voice in subject["considered"]:
            word = "counts" if voice["counts"] else "comes too late" if voice["applies"] else "does not match"
            print(f"  {voice['source']}: {voice['says']} ({word})")
    return 0


def _reload(session: Session, options: argparse.Namespace) -> int:
    from intermodal.cli.output import outcome

    return outcome(session.ask("config.reload"), "nothing is another than before")
