"""`imod run`, `create`, `start`, `exec`: commands that bring processes to life."""

from __future__ import annotations

from argparse import REMAINDER, SUPPRESS

from intermodal.cli import options as values
from intermodal.cli.errors import Failure
from intermodal.cli.foreground import run_process, show_timings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from intermodal.cli.main import Parser, Session

__all__ = ["add_arguments", "create", "exec", "run", "start"]


def add_arguments(command: str, parser: Parser) -> None:
    """The arguments of `command`."""
    if command in ("run", "create"):
        parser.usage = f"imod {command} [OPTIONS] IMAGE [COMMAND...]"
        if command == "run":
            parser.add_argument(
                "--rm", action="store_true", help="remove it at its end; or --restart always, on-failure:5"
            )
            parser.add_argument(
                "-d",
                "--detach",
                action="store_true",
                help="print its name and leave it running; --timings",
            )
            parser.add_argument("--timings", action="store_true", help=SUPPRESS)
        _add_container(parser)
        _add_process(parser)
        parser.add_argument("image", metavar="IMAGE", help=SUPPRESS)
        parser.add_argument("args", metavar="COMMAND", nargs=REMAINDER, help=SUPPRESS)
    elif command == "exec":
        parser.usage = "imod exec [OPTIONS] CONTAINER COMMAND..."
        parser.add_argument("-d", "--detach", action="store_true", help="leave it running")
        _add_process(parser)
        parser.add_argument("container", metavar="CONTAINER", help=SUPPRESS)
        parser.add_argument("args", metavar="COMMAND", nargs=REMAINDER, help=SUPPRESS)
    else:
        parser.usage = "imod start [OPTIONS] CONTAINER..."
        parser.add_argument("-a", "--attach", action="store_true", help="stay in the foreground until it ends")
        parser.add_argument("-i", "--interactive", action="store_true", help="with -a: pass stdin on")
        parser.add_argument("--timings", action="store_true", help="show on stderr what the start took")
        parser.add_argument("containers", metavar="CONTAINER", nargs="+", help=SUPPRESS)


def _add_process(parser: Parser) -> None:
    add = parser.add_argument
    add("-i", "--interactive", action="store_true", help="pass stdin on")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add(
        "-e",
        "--env",
        metavar="K=V",
        action="append",
        default=[],
        type=values.environment,
        help="set a variable; K alone: as it is here",
    )
    add("-u", "--user", metavar="USER", default="", help="name or number, :GROUP after it")
    add("-w", "--workdir", metavar="DIR", default="", help="working directory inside")


def _add_container(parser: Parser) -> None:
    add = parser.add_argument
    add("--name", metavar="NAME", default="", help="its name; else one is made up")
    add(
        "--net",
        metavar="NAME",
        action="append",
        default=[],
        help="network (imod network ls); also --ip --mac --dns",
    )
    add(
        "-p",
        "--publish",
        metavar="PORTS",
        action="append",
        default=[],
        type=values.port_mappings,
        help="[IP:]HOST:CONTAINER, ports of this machine and its; /udp",
    )
    add("--ip", metavar="IP", action="append", default=[], help=SUPPRESS)
    add("--mac", metavar="MAC", default="", help=SUPPRESS)
    add("--dns", metavar="IP", action="append", default=[], type=values.address, help=SUPPRESS)
    add("--runtime", metavar="NAME", default="", help="runtime, as in the config")
    add("--snapshotter", metavar="NAME", default="", help="snapshotter, as in the config")
    add(
        "-v",
        "--volume",
        metavar="SRC:DST",
        action="append",
        default=[],
        type=values.bind_mount,
        help="mount a directory or file of this machine; :ro after it",
    )
    add("--memory", metavar="BYTES", default=0, type=values.memory, help="limit: 512m, 1g")
    add("--cpus", metavar="N", default=0.0, type=values.cpus, help="limit: 0.5, 2")
    pulls = ("missing", "always", "never")
    add("--pull", metavar="WHEN", choices=pulls, default="missing", help="pull the image: missing, always, never")
    add("--restart", metavar="POLICY", default="no", help=SUPPRESS)
    add("--hostname", metavar="NAME", default="", help="its host name")
    add("--entrypoint", metavar="COMMAND", default=None, help='replace the image\'s entrypoint ("": none)')
    add("--label", metavar="K=V", action="append", default=[], type=values.label, help="add a label")
    add("--read-only", action="store_true", help="no writing to the image's files")
    add("--userns", metavar="RANGES", default="", help=SUPPRESS)
    add("--privileged", action="store_true", help="all capabilities and devices; or --userns IDS")


def run(session: Session, options: argparse.Namespace) -> int:
    """`imod run`."""
    wanted = _run_options(options) | {"remove": options.rm}
    if options.detach:
        if options.interactive:
            raise Failure("-d leaves the container running without us, and -i passes our stdin on: choose one")
        return _detached(session, "containers.run", options.timings, options=wanted)
    return run_process(
        session,
        "containers.run",
        interactive=options.interactive,
        tty=options.tty,
        timings=options.timings,
        options=wanted,
    )


def create(session: Session, options: argparse.Namespace) -> int:
    """`imod create`."""
    print(session.ask("containers.create", options=_run_options(options))["container"])
    return 0


def start(session: Session, options: argparse.Namespace) -> int:
    """`imod start`."""
    if not options.attach:
        for container in options.containers:
            _detached(session, "containers.start", options.timings, container=container)
        return 0
    if len(options.containers) != 1:
        raise Failure("-a attaches to one container, and several are named")
    container = options.containers[0]
    made_with = session.ask("containers.inspect", container=container)["options"] or {}
    return run_process(
        session,
        "containers.start",
        interactive=options.interactive,
        tty=bool(made_with.get("terminal")),
        timings=options.timings,
        container=container,
    )


def exec(session: Session, options: argparse.Namespace) -> int:
    """`imod exec`."""
    if not options.args:
        raise Failure("exec needs a command to run in the container; see imod exec --help")
    wanted = _process_options(options)
    if options.detach:
        session.ask("containers.exec", container=options.container, options=wanted)
        return 0
    return run_process(
        session,
        "containers.exec",
        interactive=options.interactive,
        tty=options.tty,
        container=options.container,
        options=wanted,
    )


def _detached(session: Session, method: str, timings: bool, **params: Any) -> int:
    answer = session.ask(method, timings=timings, **params)
    print(answer["container"])
    if timings:
        show_timings(answer["timings"])
    return 0


def _process_options(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "args": options.args,
        "env": [variable for variable in options.env if variable],
        "user": options.user,
        "workdir": options.workdir,
        "terminal": options.tty,
        "interactive": options.interactive,
    }


def _run_options(options: argparse.Namespace) -> dict[str, Any]:
    wanted = _process_options(options) | {
        "image": options.image,
        "name": options.name,
        "net": options.net,
        "ports": [mapping for each in options.publish for mapping in each],
        "ips": options.ip,
        "mac": options.mac,
        "dns": options.dns,
        "runtime": options.runtime,
        "snapshotter": options.snapshotter,
        "mounts": options.volume,
        "memory": options.memory,
        "cpus": options.cpus,
        "pull": options.pull,
        "restart": options.restart,
        "hostname": options.hostname,
        "labels": dict(options.label),
        "readonly": options.read_only,
        "privileged": options.privileged,
        "userns": options.userns,
    }
    if options.entrypoint is not None:
        wanted["entrypoint"] = [options.entrypoint] if options.entrypoint else []
    return wanted
