"""`imod gc`, `imod du`, `imod fsck`: what is on disk, why, what nobody needs, and whether it fits together."""

from __future__ import annotations

import sys
from argparse import SUPPRESS

from intermodal.cli.output import add_list_arguments, show_list, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from intermodal.cli.main import Parser, Session

__all__ = ["add_arguments", "du", "fsck", "gc"]


def add_arguments(command: str, parser: Parser) -> None:
    """The arguments of the three."""
    if command == "du":
        parser.usage = "imod du [OPTIONS]"
        parser.add_argument("-a", "--all", action="store_true", help="each object, the largest first")
        add_list_arguments(parser)
        return
    if command == "fsck":
        parser.usage = "imod fsck [OPTIONS]"
        parser.epilog = "The status is 1 where something does not fit."
        parser.add_argument("--deep", action="store_true", help="read every blob, and compare its digest")
        parser.add_argument(
            "--rebuild",
            action="store_true",
            help="at the next start: the newest good copy of the records, and the disk",
        )
        add_list_arguments(parser)
        return
    parser.usage = "imod gc [OPTIONS] | imod gc explain [OPTIONS] KEY"
    parser.add_argument("--dry-run", action="store_true", help="remove nothing; say what would go, and why")
    add_list_arguments(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    explain = commands.add_parser(
        "explain",
        help="why an object stays or goes",
        usage="imod gc explain [OPTIONS] KEY",
        epilog="KEY: a digest, an image, a container, a lease or a snapshot, or how it begins.",
    )
    explain.add_argument("--all-namespaces", action="store_true", help="not only in the one given by -n")
    explain.add_argument("-o", "--output", choices=("text", "json"), default="text", help="json: as programs read it")
    explain.add_argument("key", metavar="KEY", help=SUPPRESS)
    explain.set_defaults(function=_explain)


def gc(session: Session, options: argparse.Namespace) -> int:
    """`imod gc`."""
    done = session.ask("storage.collect", dry_run=options.dry_run)
    garbage = done["garbage"]
    columns = {
        "TYPE": lambda each: each["type"],
        "NAMESPACE": lambda each: each["namespace"],
        "KEY": lambda each: each["key"],
        "SIZE": lambda each: size(each["size"]) if each["size"] else "",
        "WHY": lambda each: each["why"],
    }
    if garbage or options.output == "json" or options.quiet:
        show_list(options, garbage, lambda each: each["key"], columns)
    if options.output == "table" and not options.quiet:
        verb = "would go" if options.dry_run else "went"
        freed = size(sum(each["size"] for each in garbage))
        print(f"{len(garbage)} objects {verb}, {freed} of content; {done['kept']} stay", file=sys.stderr)
    return 0


def _explain(session: Session, options: argparse.Namespace) -> int:
    found = session.ask("storage.explain", key=options.key, all_namespaces=options.all_namespaces)
    if options.output == "json":
        import json

        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    for number, each in enumerate(found):
        if number:
            print()
        print(f"{each['type']} {each['key']} ({each['namespace']})")
        if not each["chain"]:
            print(f"  goes at the next collection: {each['why']}")
        above = ""
        for depth, link in enumerate(each["chain"]):
            how = link["how"] if not depth else f"{link['how']} of {above}" if "label" in link["how"] else link["how"]
            print(f"{'  ' * (depth + 1)}{link['type']} {link['key']}: {how}")
            above = link["type"]
    return 0


def fsck(session: Session, options: argparse.Namespace) -> int:
    """`imod fsck`."""
    if options.rebuild:
        asked = session.ask("storage.rebuild")
        print(
            f"{', '.join(asked)} will be rebuilt: restart the daemon, then imod fsck shows what came back",
            file=sys.stderr,
        )
        return 0
    done = session.ask("storage.check", deep=options.deep)
    found, rebuilt = done["findings"], done["rebuilt"]
    if options.output == "json":
        import json

        print(json.dumps(done, indent=2, ensure_ascii=False))
        return 1 if found else 0
    columns = {
        "TYPE": lambda each: each["type"],
        "NAMESPACE": lambda each: each["namespace"],
        "KEY": lambda each: each["key"],
        "WHAT": lambda each: each["what"],
    }
    if rebuilt and not options.quiet:
        print(f"rebuilt at this start from {rebuilt['source']}:", file=sys.stderr)
        show_list(
            options, [*rebuilt["images"], *rebuilt["returned"], *rebuilt["gone"]], lambda each: each["key"], columns
        )
    if found:
        show_list(options, found, lambda each: each["key"], columns)
    elif not options.quiet:
        print("all fits", file=sys.stderr)
    return 1 if found else 0


def du(session: Session, options: argparse.Namespace) -> int:
    """`imod du`."""
    uses = session.ask("storage.usage")
    if options.all or options.output == "json" or options.quiet:
        return show_list(
            options,
            uses,
            lambda use: use["key"],
            {
                "SIZE": lambda use: size(use["size"]),
                "TYPE": lambda use: use["type"],
                "NAMESPACES": lambda use: ",".join(use["namespaces"]),
                "KEY": lambda use: use["key"],
                "KEPT BY": lambda use: use["kept_by"] or "nothing",
            },
        )
    kinds: dict[str, list[dict[str, Any]]] = {}
    for use in uses:
        kinds.setdefault(use["type"], []).append(use)
    rows = [
        {
            "type": kind,
            "count": len(those),
            "size": sum(use["size"] for use in those),
            "free": sum(use["size"] for use in those if not use["kept_by"]),
        }
        for kind, those in sorted(kinds.items())
    ]
    return show_list(
        options,
        rows,
        lambda row: row["type"],
        {
            "TYPE": lambda row: row["type"],
            "OBJECTS": lambda row: str(row["count"]),
            "SIZE": lambda row: size(row["size"]),
            "RECLAIMABLE": lambda row: size(row["free"]),
        },
    )
