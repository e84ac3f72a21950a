"""Cgroups that a runtime has left behind, and how to remove them."""

from __future__ import annotations

import json
import os
import select
import signal
from typing import Any

__all__ = ["remove_cgroups", "wait_for_end"]

_CGROUPS = "/sys/fs/cgroup"
_END_WITHIN = 5.0


def remove_cgroups(id: str, bundle: str) -> None:
    """Kill what is in the container's cgroups, and remove them with all below. Idempotent."""
    for directory in _cgroup_directories(id, bundle):
        _remove_cgroup(directory)


def wait_for_end(pidfd: int) -> None:
    """Until the process has ended, or a few seconds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(_END_WITHIN * 1000)


def _cgroup_directories(id: str, bundle: str) -> list[str]:
    """Where the container's cgroup is, by its spec.

    Only one that is named for the container: a spec may name one that it shares with others. And only cgroupfs paths:
    systemd's units end with their processes.
    """
    try:
        with open(os.path.join(bundle, "config.json"), encoding="utf-8") as file:
            spec: Any = json.load(file)
        path = spec["linux"]["cgroupsPath"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if not isinstance(path, str) or ":" in path or id not in os.path.basename(path):
        return []
    roots = [_CGROUPS, *(entry.path for entry in os.scandir(_CGROUPS) if entry.is_dir())]
    found = [os.path.normpath(f"{root}/{path}") for root in roots]
    return [directory for directory in found if directory.startswith(_CGROUPS) and os.path.isdir(directory)]


def _remove_cgroup(top: str) -> None:
    """Kill what is in it, and remove it with all below; one that this process is in is not the container's alone."""
    directories = [directory for directory, _, _ in os.walk(top, topdown=False)]
    if any(os.getpid() in _members(directory) for directory in directories):
        return
    for _ in range(50):
        pidfds: list[int] = []
        for directory in directories:
            pidfds += _kill_members(directory)
        for pidfd in pidfds:
            wait_for_end(pidfd)
            os.close(pidfd)
        if not pidfds:
            break
    for directory in directories:
        try:
            os.rmdir(directory)
        except OSError:
            pass  # another's, or busy: then it is not empty, and the next cleanup tries again


def _kill_members(directory: str) -> list[int]:
    """Pidfds of the processes that were killed."""
    for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        path = os.path.join(directory, name)
        if os.path.exists(path):
            with open(path, "w", encoding="ascii") as file:
                file.write(word)
    pidfds = []
    for pid in _members(directory):
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except OSError:
            os.close(pidfd)
        else:
            pidfds.append(pidfd)
    return pidfds


def _members(directory: str) -> list[int]:
    try:
        with open(os.path.join(directory, "cgroup.procs"), encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []
