"""Networks of a test's own, and what this kernel cannot do."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from intermodal_core.syscalls import CLONE_NEWNET, setns, unshare


@contextmanager
def own_network() -> Iterator[None]:
    """This thread, and what it starts, in a new network namespace that ends with it; loopback is up."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        unshare(CLONE_NEWNET)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        setns(home, CLONE_NEWNET)
        os.close(home)


def missing_kind(kind: str) -> str:
    """Why links of a kind cannot be made here; "" where they can."""
    words = {"macvlan": ["link", "lo"], "ipvlan": ["link", "lo"], "vlan": ["link", "lo"]}.get(kind, [])
    more = ["id", "9"] if kind == "vlan" else []
    done = subprocess.run(
        ["ip", "link", "add", *words, "name", "probe0", "type", kind, *more],
        capture_output=True,
        text=True,
        check=False,
    )
    subprocess.run(["ip", "link", "delete", "probe0"], capture_output=True, check=False)
    return f"this kernel has no links of the kind {kind}" if "Unknown device type" in done.stderr else ""


def listening(port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A socket of the host that holds a port."""
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("0.0.0.0", port))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock
