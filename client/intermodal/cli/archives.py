"""`imod images export|convert`."""

from __future__ import annotations

import os
import threading
from argparse import SUPPRESS

from intermodal.cli.errors import Failure
from intermodal.cli.progress import Bars

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from intermodal.cli.main import Session

__all__ = ["add_convert", "add_export"]


def add_export(commands: argparse._SubParsersAction[Any]) -> None:
    """The arguments of `export`."""
    parser = commands.add_parser(
        "export",
        help="write an archive",
        usage="imod images export [OPTIONS] FILE|DIR/|- IMAGE...",
        epilog="A tar file; a directory, new or with a slash at its end; or - for stdout.",
    )
    add = parser.add_argument
    add("--format", choices=("oci", "docker"), default="oci", help="oci: a layout that Docker's tools read, too")
    add("--platform", metavar="OS/ARCH", default="", help="of several, this one instead of this machine's")
    add("-q", "--quiet", action="store_true", help="show no progress")
    add("target", metavar="FILE", help=SUPPRESS)
    add("images", metavar="IMAGE", nargs="+", help=SUPPRESS)
    parser.set_defaults(function=_export)


def add_convert(commands: argparse._SubParsersAction[Any]) -> None:
    """The arguments of `convert`."""
    parser = commands.add_parser(
        "convert",
        help="compress its layers in another way",
        usage="imod images convert [OPTIONS] IMAGE NAME",
    )
    add = parser.add_argument
    add("--to", choices=("gzip", "zstd", "none"), default="zstd", help="how (zstd)")
    add("--platform", metavar="OS/ARCH", default="", help="of several, this one instead of this machine's")
    add("image", metavar="IMAGE", help=SUPPRESS)
    add("name", metavar="NAME", help=SUPPRESS)
    parser.set_defaults(function=_convert)


def _export(session: Session, options: argparse.Namespace) -> int:
    params = {"images": options.images, "format": options.format, "platform": options.platform}
    if options.target == "-":
        if os.isatty(1):
            raise Failure("stdout is a terminal: write imod images export - IMAGE > FILE, or name the file")
        _write(session, options, 1, params)
    elif options.target.endswith("/") or os.path.isdir(options.target):
        _unpacked(session, options, params)
    else:
        _to_file(session, options, params)
    return 0


def _to_file(session: Session, options: argparse.Namespace, params: dict[str, Any]) -> None:
    """Through a file beside it, so that one that fails leaves what was there."""
    partial = f"{options.target}.partial-{os.getpid()}"
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise Failure(f"{options.target}: {error.strerror}") from None
    try:
        _write(session, options, fd, params)
        os.rename(partial, options.target)
    except BaseException:
        os.unlink(partial)
        raise
    finally:
        os.close(fd)


def _unpacked(session: Session, options: argparse.Namespace, params: dict[str, Any]) -> None:
    """The files of the archive in a directory, which must be new or empty."""
    import tarfile

    directory = options.target
    try:
        os.makedirs(directory, exist_ok=True)
        if os.listdir(directory):
            raise Failure(f"{directory} is not empty")
    except OSError as error:
        raise Failure(f"{directory}: {error.strerror}") from None
    reader, writer = os.pipe()
    failed: list[str] = []

    def extract() -> None:
        try:
            with open(reader, "rb") as pipe, tarfile.open(fileobj=pipe, mode="r|") as tar:
                for member in tar:
                    tar.extract(member, directory, filter="data")
        except (OSError, tarfile.TarError) as error:
            failed.append(f"writing below {directory}: {error}")

    thread = threading.Thread(target=extract)
    thread.start()
    try:
        _write(session, options, writer, params, close=True)
    finally:
        thread.join()
    if failed:
        raise Failure(failed[0])


def _write(session: Session, options: argparse.Namespace, fd: int, params: dict[str, Any], close: bool = False) -> None:
    try:
        call = session.call("images.export", [fd], **params)
    finally:
        if close:
            os.close(fd)  # the daemon has its own
    with call, Bars() as bars:
        call.result(None if options.quiet else bars.handle)


def _convert(session: Session, options: argparse.Namespace) -> int:
    params = {"image": options.image, "name": options.name, "to": options.to, "platform": options.platform}
    with session.call("images.convert", **params) as call, Bars() as bars:
        image = call.result(bars.handle)
    print(image["name"])
    return 0
