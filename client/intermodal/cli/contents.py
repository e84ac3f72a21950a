"""`imod images inspect|history|prune|mount|unmount`: what is in an image, and what needs it."""

from __future__ import annotations

import json
import os
import sys
from argparse import SUPPRESS

from intermodal.cli.errors import DaemonError, Failure
from intermodal.cli.output import add_list_arguments, age, show_list, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from intermodal.cli.main import Session

__all__ = ["add"]


def add(commands: argparse._SubParsersAction[Any]) -> None:
    """The arguments of all of them."""
    inspect = commands.add_parser(
        "inspect", help="show all that is known, as JSON", usage="imod images inspect [OPTIONS] IMAGE..."
    )
    inspect.add_argument("--platform", metavar="OS/ARCH", default="", help="of several, this one")
    inspect.add_argument("images", metavar="IMAGE", nargs="+", help=SUPPRESS)
    inspect.set_defaults(function=_inspect)
    history = commands.add_parser(
        "history", help="show how one came to be", usage="imod images history [OPTIONS] IMAGE"
    )
    history.add_argument("--platform", metavar="OS/ARCH", default="", help="of several, this one")
    add_list_arguments(history)
    history.add_argument("image", metavar="IMAGE", help=SUPPRESS)
    history.set_defaults(function=_history)
    prune = commands.add_parser(
        "prune", help="forget those that no container uses", usage="imod images prune [OPTIONS]"
    )
    prune.add_argument("--dry-run", action="store_true", help="forget none; say which would go")
    prune.set_defaults(function=_prune)
    mount = commands.add_parser("mount", help="mount the tree of one", usage="imod images mount [OPTIONS] IMAGE DIR")
    mount.add_argument("--rw", action="store_true", help="writable; what is written goes with the mount")
    mount.add_argument("--snapshotter", metavar="NAME", default="", help="snapshotter, as in the config")
    mount.add_argument("image", metavar="IMAGE", help=SUPPRESS)
    mount.add_argument("directory", metavar="DIR", help=SUPPRESS)
    mount.set_defaults(function=_mount)
    unmount = commands.add_parser("unmount", help="the other way", usage="imod images unmount DIR")
    unmount.add_argument("directory", metavar="DIR", help=SUPPRESS)
    unmount.set_defaults(function=_unmount)


def _inspect(session: Session, options: argparse.Namespace) -> int:
    views = [session.ask("images.inspect", image=image, platform=options.platform) for image in options.images]
    print(json.dumps(views, indent=2, ensure_ascii=False))
    return 0


def _history(session: Session, options: argparse.Namespace) -> int:
    return show_list(
        options,
        session.ask("images.history", image=options.image, platform=options.platform),
        lambda step: step["digest"] or "-",
        {
            "LAYER": lambda step: step["digest"][:19] or "-",
            "CREATED": lambda step: _ago(step["created"]),
            "SIZE": lambda step: size(step["size"]) if step["digest"] else "",
            "BY": lambda step: step["created_by"],
            "COMMENT": lambda step: step["comment"],
        },
    )


def _prune(session: Session, options: argparse.Namespace) -> int:
    images = session.ask("images.prune", dry_run=options.dry_run)
    for image in images:
        print(image["name"])
    verb = "would be forgotten" if options.dry_run else "forgotten, with what only they needed"
    print(f"{len(images)} images {verb}", file=sys.stderr)
    return 0


def _mount(session: Session, options: argparse.Namespace) -> int:
    from intermodal_core.contracts.common import Mount
    from intermodal_core.errors import IntermodalError
    from intermodal_snapshots.mounts import mount_all

    directory = os.path.realpath(options.directory)
    if not os.path.isdir(directory):
        raise Failure(f"{options.directory} is no directory: make it first")
    made = session.ask(
        "images.mount", image=options.image, key=_key(directory), writable=options.rw, snapshotter=options.snapshotter
    )
    mounts = [
        Mount(each["type"], each["source"], tuple(each.get("options", ())), each.get("target", ""))
        for each in made["mounts"]
    ]
    try:
        mount_all(mounts, directory)
    except IntermodalError as error:
        session.ask("images.unmount", key=made["key"])
        raise Failure(f"mounting on {directory}: {error}") from None
    print(directory)
    return 0


def _unmount(session: Session, options: argparse.Namespace) -> int:
    from intermodal_core.errors import IntermodalError
    from intermodal_snapshots.mounts import unmount_all

    directory = os.path.realpath(options.directory)
    try:
        unmount_all(directory)
    except IntermodalError as error:
        raise Failure(str(error)) from None
    try:
        session.ask("images.unmount", key=_key(directory))
    except DaemonError as error:
        if error.reason != "not_found":
            raise
        raise Failure(f"no image of this namespace is mounted on {directory}") from None
    return 0


def _key(directory: str) -> str:
    return f"mounted on {directory}"


def _ago(created: str) -> str:
    """How long before now; as it is written where it is no RFC 3339 time."""
    import datetime

    try:
        when = datetime.datetime.fromisoformat(created)
        return f"{age(int(when.timestamp() * 1e9))} ago" if created else ""
    except ValueError:
        return created
