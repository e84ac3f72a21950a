"""`imod restart`, `attach`, `stats`, `top`, `diff`, `update`, `checkpoint`, `restore`, `swap`."""

from __future__ import annotations

import json
import time
from argparse import SUPPRESS

from intermodal.cli import options as values
from intermodal.cli.errors import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from intermodal.cli.main import Parser, Session

__all__ = ["add_arguments", "attach", "checkpoint", "diff", "restart", "restore", "stats", "swap", "top", "update"]

_COLUMNS = ("CONTAINER", "RUNTIME", "CPU", "MEMORY", "LIMIT", "PIDS", "READ", "WRITTEN", "SOURCE")


def add_arguments(command: str, parser: Parser) -> None:
    """The arguments of `command`."""
    add = parser.add_argument
    several = command in ("restart", "stats")
    parser.usage = f"imod {command} [OPTIONS] CONTAINER{'...' if several else ''}"
    if command == "restart":
        add("-t", "--time", metavar="SECS", type=values.seconds, default=10.0, help="before SIGKILL (default: 10)")
    elif command == "stats":
        parser.usage = "imod stats [OPTIONS] [CONTAINER...]"
        add("--no-stream", action="store_true", help="once, instead of each second")
        add(
            "-o",
            "--output",
            choices=("text", "json"),
            default="text",
            help="json: counters as they are, an object a line",
        )
    elif command == "update":
        add("--memory", metavar="BYTES", type=values.memory, help="limit: 512m, 1g")
        add("--cpus", metavar="N", type=values.cpus, help="limit: 0.5, 2")
        add("--pids", metavar="N", type=int, help="limit on processes")
        add("--restart", metavar="POLICY", help="no, always, unless-stopped, on-failure[:N]")
    elif command == "checkpoint":
        add("--leave-running", action="store_true", help="go on after it, where the runtime can")
        add("--name", metavar="NAME", default="default", help="of the checkpoint")
    elif command == "restore":
        add("--name", metavar="NAME", default="default", help="of the checkpoint")
    elif command == "swap":
        parser.usage = "imod swap [OPTIONS] CONTAINER"
        add("--runtime", metavar="NAME", default="", help="the runtime to go on with")
        add("--snapshotter", metavar="NAME", default="", help="the snapshotter to go on with")
        add("--dry-run", action="store_true", help="only say what would be otherwise")
    add("containers", metavar="CONTAINER", nargs="+" if command == "restart" else "*" if several else 1, help=SUPPRESS)


def restart(session: Session, options: argparse.Namespace) -> int:
    """`imod restart`."""
    from intermodal.cli.containers import each

    def one(name: str) -> None:
        session.ask("containers.restart", container=name, timeout=options.time)
        print(name)

    return each(options.containers, one)


def attach(session: Session, options: argparse.Namespace) -> int:
    """`imod attach`: our streams beside the container's log; a signal is its own."""
    from intermodal.cli.foreground import run_process

    (name,) = options.containers
    made_with = session.ask("containers.inspect", container=name)["options"] or {}
    interactive = bool(made_with.get("interactive"))
    return run_process(
        session, "containers.attach", interactive=interactive, tty=bool(made_with.get("terminal")), container=name
    )


def stats(session: Session, options: argparse.Namespace) -> int:
    """`imod stats`: each second, until it is interrupted."""
    before = _counted(session, options)
    if options.output == "json" and options.no_stream:
        _show_json(before)
        return 0
    while True:
        time.sleep(1)
        now = _counted(session, options)
        if options.output == "json":
            _show_json(now)
        else:
            _show(before, now)
        if options.no_stream:
            return 0
        before = now


def _counted(session: Session, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    found = session.ask("containers.stats", containers=options.containers)
    return {counters["id"]: counters for counters in found}


def _show_json(counted: dict[str, dict[str, Any]]) -> None:
    for counters in counted.values():
        print(json.dumps(counters), flush=True)


def _show(before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> None:
    rows = [_COLUMNS]
    for id, counters in sorted(now.items()):
        rows.append(
            (
                id,
                counters["runtime"],
                _share(before.get(id, {}), counters),
                _size(counters.get("memory")),
                _size(counters.get("memory_limit")),
                str(counters.get("pids", "-")),
                _size(counters.get("read_bytes")),
                _size(counters.get("written_bytes")),
                counters["source"],
            )
        )
    widths = [max(len(row[number]) for row in rows) for number in range(len(_COLUMNS))]
    for row in rows:
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip(), flush=True)


def _share(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Of one processor, since the last time."""
    if "cpu" not in before or "cpu" not in now:
        return "-"
    elapsed = now["timestamp"] - before["timestamp"]
    return f"{100 * max(0, now['cpu'] - before['cpu']) / max(1, elapsed):.1f}%"


def _size(value: int | None) -> str:
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 10240 or unit == "GiB":
            break
        value //= 1024
    return f"{value} {unit}"


def top(session: Session, options: argparse.Namespace) -> int:
    """`imod top`."""
    print(f"{'PID':>8} {'UID':>8} {'CPU':>9} {'MEMORY':>10}  COMMAND")
    for process in session.ask("containers.top", container=options.containers[0]):
        cpu, memory = f"{process['cpu'] / 1e9:.2f} s", _size(process["memory"])
        print(f"{process['pid']:>8} {process['uid']:>8} {cpu:>9} {memory:>10}  {process['command']}")
    return 0


def diff(session: Session, options: argparse.Namespace) -> int:
    """`imod diff`: A, C or D, and the path."""
    for change in session.ask("containers.diff", container=options.containers[0]):
        print(change["kind"][0].upper(), change["path"])
    return 0


def update(session: Session, options: argparse.Namespace) -> int:
    """`imod update`."""
    wanted = {name: getattr(options, name) for name in ("memory", "cpus", "pids", "restart")}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    if not wanted:
        raise Failure("update needs something to change: --memory, --cpus, --pids or --restart")
    session.ask("containers.update", container=options.containers[0], options=wanted)
    print(options.containers[0])
    return 0


def checkpoint(session: Session, options: argparse.Namespace) -> int:
    """`imod checkpoint`."""
    given = {"name": options.name, "leave_running": options.leave_running}
    print(session.ask("containers.checkpoint", container=options.containers[0], **given)["path"])
    return 0


def restore(session: Session, options: argparse.Namespace) -> int:
    """`imod restore`."""
    session.ask("containers.restore", container=options.containers[0], name=options.name)
    print(options.containers[0])
    return 0


def swap(session: Session, options: argparse.Namespace) -> int:
    """`imod swap`."""
    if not options.runtime and not options.snapshotter:
        raise Failure("swap needs something to go on with: --runtime or --snapshotter")
    given = {"runtime": options.runtime, "snapshotter": options.snapshotter, "dry_run": options.dry_run}
    report = session.ask("containers.swap", container=options.containers[0], **given)
    print(f"{report['container']}: {report['before']} -> {report['after']}{'' if report['done'] else ' (not done)'}")
    for sentence in report["differences"]:
        print(f"  {sentence}")
    return 0
