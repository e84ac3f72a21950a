"""Where the daemon listens and which namespace is meant, from the environment."""

import os
import socket
from collections.abc import Mapping
from typing import Final

from intermodal_core.errors import InvalidArgument

DEFAULT_ADDRESS: Final = "/run/intermodal/intermodal.sock"
DEFAULT_NAMESPACE: Final = "default"


def address_from(environment: Mapping[str, str]) -> str:
    """INTERMODAL_ADDRESS, else CONTAINERD_ADDRESS, else the default socket."""
    return environment.get("INTERMODAL_ADDRESS") or environment.get("CONTAINERD_ADDRESS") or DEFAULT_ADDRESS


def namespace_from(environment: Mapping[str, str]) -> str:
    """INTERMODAL_NAMESPACE, else CONTAINERD_NAMESPACE, else "default"."""
    return environment.get("INTERMODAL_NAMESPACE") or environment.get("CONTAINERD_NAMESPACE") or DEFAULT_NAMESPACE


def socket_path(address: str) -> str:
    """The path in `address`: a path, or `unix://` and a path. Raises InvalidArgument for any other scheme."""
    path = address.removeprefix("unix://") if address.startswith("unix://") else address.removeprefix("unix:")
    if not path or "://" in path:
        raise InvalidArgument(
            f"The address {address[:200]!r} is no unix socket; give its path, such as {DEFAULT_ADDRESS}"
        )
    return os.path.abspath(path)


def is_listening(path: str) -> bool:
    """Whether somebody takes connections on the unix socket at `path`, now."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # its queue is full: somebody listens
        except OSError:
            return False
    return True
