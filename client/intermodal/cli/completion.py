"""`imod completion`: what a shell needs to complete imod's words."""

from __future__ import annotations

import argparse

from intermodal.cli import main

__all__ = ["add_arguments", "completion", "whole_parser"]


def add_arguments(command: str, parser: main.Parser) -> None:
    """The arguments of `imod completion`."""
    parser.usage = "imod completion bash|zsh"
    parser.add_argument("shell", choices=("bash", "zsh"), help="put its output where the shell looks (docs/install.md)")


def completion(session: main.Session, options: argparse.Namespace) -> int:
    """`imod completion`."""
    import shtab

    print(shtab.complete(whole_parser(), options.shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """All commands in one parser, which imod itself never needs."""
    parser = main.Parser(prog="imod")
    main.add_globals(parser)
    commands = parser.add_subparsers()
    for name, (_, what) in main.COMMANDS.items():
        main.module_of(name).add_arguments(name, commands.add_parser(name, help=what))
    return parser
