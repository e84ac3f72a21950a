"""The entry of `imod`: the global options, then the one command that is named, and nothing else, is imported."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from intermodal.cli.errors import Failure

TYPE_CHECKING = False  # typing takes a fifth of imod's start-up
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any, NoReturn

    from intermodal.cli.channel import Call

__all__ = ["COMMANDS", "Parser", "Session", "add_globals", "command_parser", "global_parser", "main", "module_of"]

DEFAULT_ADDRESS = "/run/intermodal/intermodal.sock"

#: Command -> module below this package, and what it does. A module has, for each of its commands, a function
#: COMMAND(session, options) -> status, and add_arguments(command, parser).
COMMANDS = {
    "run": ("process", "run a command in a new container"),
    "create": ("process", "make a container without starting it"),
    "start": ("process", "start containers that are created or stopped"),
    "exec": ("process", "run a command in a running container"),
    "ps": ("containers", "list containers"),
    "logs": ("logs", "show a container's output"),
    "inspect": ("containers", "show all that is known of containers, as JSON"),
    "stop": ("containers", "stop containers, with SIGKILL after a while"),
    "kill": ("containers", "send a signal to containers"),
    "pause": ("containers", "freeze containers"),
    "unpause": ("containers", "thaw containers"),
    "wait": ("containers", "wait until containers end, print their status"),
    "rm": ("containers", "remove containers"),
    "restart": ("lifecycle", "stop containers and start them again"),
    "attach": ("lifecycle", "see, and feed, a running container"),
    "stats": ("lifecycle", "show what containers use"),
    "top": ("lifecycle", "show a container's processes"),
    "diff": ("lifecycle", "show what a container has changed"),
    "update": ("lifecycle", "change a container's limits and restart policy"),
    "checkpoint": ("lifecycle", "write a running container's state"),
    "restore": ("lifecycle", "start a container from a checkpoint"),
    "swap": ("lifecycle", "go on with another runtime or snapshotter"),
    "commit": ("commit", "make an image of what a container has changed"),
    "images": ("images", "pull, push, ls, rm, import, export, inspect, mount, ..."),
    "registry": ("registry", "show how a registry would be asked for an image"),
    "gc": ("storage", "remove what nothing needs; say why the rest stays"),
    "du": ("storage", "show where the bytes are"),
    "network": ("network", "ls, create, rm, inspect, connect, disconnect, prune"),
    "fsck": ("storage", "check what is on disk; rebuild lost records"),
    "events": ("events", "show events as they come"),
    "runtimes": ("runtimes", "list runtimes, their versions, and what stays with each"),
    "plugins": ("plugins", "ls, inspect, why, graph, rescan, reload"),
    "config": ("config", "default, check, show, explain, schema, migrate, reload"),
    "completion": ("completion", "write completion for bash or zsh"),
    "version": ("version", "show imod's version and the daemon's"),
}


class Parser(argparse.ArgumentParser):
    """argparse with one line for a mistake, imod's own status, and help that fits on a screen."""

    def __init__(self, **keywords: Any) -> None:
        keywords.setdefault("formatter_class", _Formatter)
        super().__init__(allow_abbrev=False, add_help=False, **keywords)
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is."""
        raise Failure(f"{message}; see {self.prog} --help")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Options in one column of words and one of help; an option's value is shown once, not for each of its forms."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=25, width=82)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


class Session:
    """Where a command's calls go."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.namespace: str = options.namespace
        self._address = ""

    @property
    def address(self) -> str:
        """The daemon's main socket; with --embedded a daemon is there when this returns. Raises Failure."""
        if not self._address:
            if self._options.embedded:
                from intermodal.cli.embedded import join

                self._address = join(self._options.root, self._options.state)
            else:
                self._address = self._options.address or os.environ.get("INTERMODAL_ADDRESS") or DEFAULT_ADDRESS
        return self._address

    def call(self, method: str, descriptors: Sequence[int] = (), **params: Any) -> Call:
        """Begin a call. Raises Failure when no daemon answers."""
        from intermodal.cli.channel import Call

        return Call(self.address, method, self.namespace, params, descriptors)

    def ask(self, method: str, **params: Any) -> Any:
        """A call that is nothing but its result. Raises DaemonError."""
        with self.call(method, **params) as call:
            return call.result()


class _GlobalParser(Parser):
    """The options before the command; its help is the list of commands."""

    def format_help(self) -> str:
        """One screen."""
        commands = "\n".join(f"  {name:<12}{what}" for name, (_, what) in COMMANDS.items())
        options = super().format_help().rpartition("\n\n")[2].partition("\n")[2]
        return f"usage: imod [OPTIONS] COMMAND [ARGUMENTS]   (imod COMMAND --help)\n{commands}\n{options}"


def global_parser() -> Parser:
    """The options before the command, `command`, and the `arguments` that the command's own parser gets."""
    parser = _GlobalParser(prog="imod")
    parser.add_argument("command", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    add_globals(parser)
    return parser


def add_globals(parser: argparse.ArgumentParser) -> None:
    """The options themselves."""
    add = parser.add_argument
    namespace = os.environ.get("INTERMODAL_NAMESPACE") or "default"
    add("--address", metavar="SOCK", help="the daemon's socket (or INTERMODAL_ADDRESS)")
    add("-n", "--namespace", metavar="NAME", default=namespace, help="whose containers (or INTERMODAL_NAMESPACE)")
    add("--embedded", action="store_true", help="start a daemon if none runs, for as long as needed")
    add("--root", metavar="DIR", help="with --embedded: where things are kept; also --state DIR")
    add("--state", metavar="DIR", help=argparse.SUPPRESS)
    add("--version", action=_Version, nargs=0, help=argparse.SUPPRESS)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from intermodal_core import __version__

        print(f"imod {__version__}")
        parser.exit()


def module_of(command: str) -> ModuleType:
    """The module of a command, imported now."""
    return importlib.import_module(f"intermodal.cli.{COMMANDS[command][0]}")


def command_parser(command: str) -> Parser:
    """The parser of one command."""
    parser = Parser(prog=f"imod {command}", description=None)
    module_of(command).add_arguments(command, parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the status is the container's where there is one, else 0, or 125 with a sentence on stderr."""
    try:
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    except Failure as failure:
        print(f"imod: {failure}", file=sys.stderr)
        return failure.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; nothing is left to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141


def _run(arguments: list[str]) -> int:
    parser = global_parser()
    if not arguments:
        raise Failure("no command was given; see imod --help")
    options = parser.parse_args(arguments)
    command = options.command
    if command not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(command, COMMANDS, 1)
        raise Failure(f"there is no command {command}; " + (f"did you mean {near[0]}?" if near else "see imod --help"))
    if (options.root or options.state) and not options.embedded:
        raise Failure("--root and --state go with --embedded; a daemon that runs has its own")
    chosen = command_parser(command).parse_args(options.arguments)
    function = getattr(chosen, "function", None) or getattr(module_of(command), command)
    status: int = function(Session(options), chosen)
    sys.stdout.flush()
    return status


if __name__ == "__main__":
    sys.exit(main())
