"""A throw-away daemon with a plugin's package that need not be installed: everything of it is gone when it ends.

The package's source is put on the daemon's path, beside a record of the distribution that has the entry points of its pyproject.toml.
Nothing is written to the environment or to the package.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from types import FrameType
from typing import Any

from intermodal.cli.errors import Failure

__all__ = ["overlay", "run"]

_PREFIX = "intermodal."


def run(directory: str, config: str | None) -> int:
    """Run the package below `directory` until the daemon ends or is interrupted; the daemon's status. Raises Failure."""
    source = Path(directory)
    base = Path(tempfile.mkdtemp(prefix="intermodal-dev-"))
    try:
        offered = overlay(source, base / "overlay")
        path = [str(base / "overlay"), *_roots(source), os.environ.get("PYTHONPATH", "")]
        address = base / "state/intermodal.sock"
        own = config or base / "config.toml"
        if config is None:
            (base / "config.toml").write_text('version = 1\nlog_level = "debug"\n')
        for group, name in offered:
            print(f"{group}.{name} from {source}")
        print(f"export INTERMODAL_ADDRESS={address}   # in another shell: imod plugins ls")
        print("Ctrl-C ends it and removes what it has made.", flush=True)
        command = [sys.executable, "-P", "-m", "intermodal_core.daemon", "--config", str(own)]
        command += ["--root", str(base / "root"), "--state", str(base / "state"), "--address", str(address)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        status = _until_it_ends(subprocess.Popen(command, env=environment, start_new_session=True), address)
    finally:
        _remove(base)
    return status


def overlay(source: Path, place: Path) -> list[tuple[str, str]]:
    """Make a record, below `place`, of the distribution that a pyproject.toml describes; its plugins as (group, name).

    Raises Failure for what is no plugin's package.
    """
    file = source / "pyproject.toml"
    try:
        project: dict[str, Any] = tomllib.loads(file.read_text()).get("project", {})
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}: name the directory of a plugin's package") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Failure(f"{file}: not TOML: {error}") from None
    groups = {group: points for group, points in project.get("entry-points", {}).items() if group.startswith(_PREFIX)}
    name, version = str(project.get("name", "")), str(project.get("version", "0"))
    if not groups or not name:
        raise Failure(f'{file} offers no plugin: it has no [project.entry-points."intermodal.KIND"]')
    record = place / f"{name.replace('-', '_')}-{version}.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        line for group, points in groups.items() for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points.items()))
    ]
    (record / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return [(group.removeprefix(_PREFIX), point) for group, points in groups.items() for point in points]


def _roots(source: Path) -> list[str]:
    """Where the package's modules lie."""
    return [str(source / "src")] if (source / "src").is_dir() else [str(source)]


def _until_it_ends(daemon: subprocess.Popen[bytes], address: Path) -> int:
    """Wait for the daemon; an interrupt or SIGTERM removes its containers first, and ends it."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupted)
    try:
        return daemon.wait()
    except KeyboardInterrupt:
        _remove_containers(str(address))
        daemon.terminate()
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def _remove_containers(address: str) -> None:
    """End what the daemon runs: nobody takes it up again."""
    from intermodal import Client, IntermodalError

    try:
        with Client(address) as client:
            for namespace in client.namespaces.list():
                for container in client.with_namespace(namespace.name).containers.list():
                    container.delete(force=True)
    except IntermodalError as error:
        print(f"imod: containers were left: {error}", file=sys.stderr)


def _remove(base: Path) -> None:
    """The directory, and what is mounted in it."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed([point for point in points if point.startswith(f"{base}/")]):
        subprocess.run(["umount", "--lazy", point], capture_output=True, timeout=30, check=False)
    shutil.rmtree(base, ignore_errors=True)
