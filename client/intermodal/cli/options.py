"""Values as people write them on the command line. Each function raises argparse.ArgumentTypeError with what was expected."""

from __future__ import annotations

import os
import re
import time
from argparse import ArgumentTypeError

__all__ = [
    "address",
    "bind_mount",
    "cpus",
    "environment",
    "label",
    "memory",
    "moment",
    "network_option",
    "port_mappings",
    "seconds",
    "signal_number",
    "tail",
]

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def memory(text: str) -> int:
    """Bytes, with a unit of 1024: 512m, 1g, 1.5GiB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?", text.lower())
    if found is None:
        raise ArgumentTypeError(f"{text!r} is no size: write bytes, or 512m, 1g")
    value = float(found[1]) * _UNITS[found[2]]
    if not 0 < value < 1 << 63:
        raise ArgumentTypeError(f"{text!r} is no size that memory can have")
    return int(value)


def cpus(text: str) -> float:
    """Cores, as a decimal number."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 100_000:
        raise ArgumentTypeError(f"{text!r} is no number of cores: write one such as 0.5 or 2")
    return value


def seconds(text: str) -> float:
    """Seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def moment(text: str) -> int:
    """A time in ns since 1970: 90s, 10m, 2h, 1d ago, or as RFC 3339 has it."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found:
        return time.time_ns() - int(float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] * 1e9)
    import datetime

    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no time: write 10m, 2h, or 2026-01-31T12:00:00Z") from None
    return int(when.astimezone(datetime.UTC).timestamp() * 1e9)


def environment(text: str) -> str:
    """K=V; K alone takes the value from imod's own environment, and an unset one stays unset ("")."""
    name, equals, _ = text.partition("=")
    if not name:
        raise ArgumentTypeError(f"{text!r} has no name: write NAME=VALUE")
    if equals:
        return text
    return f"{name}={os.environ[name]}" if name in os.environ else ""


def label(text: str) -> tuple[str, str]:
    """K=V, or K alone for an empty value."""
    name, _, value = text.partition("=")
    if not name:
        raise ArgumentTypeError(f"{text!r} has no name: write NAME=VALUE")
    return name, value


def bind_mount(text: str) -> dict[str, object]:
    """SRC:DST[:ro|rw]; a source that is not absolute is seen from here."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts) or parts[2:] not in ([], ["ro"], ["rw"]):
        raise ArgumentTypeError(f"{text!r} is no mount: write SRC:DST or SRC:DST:ro")
    if not parts[1].startswith("/"):
        raise ArgumentTypeError(f"{text!r} mounts on {parts[1]!r}: write a path that begins with /")
    return {"source": os.path.abspath(parts[0]), "target": parts[1], "readonly": parts[2:] == ["ro"]}


def address(text: str) -> str:
    """An IP address."""
    import ipaddress

    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no IP address") from None


def network_option(text: str) -> tuple[str, str]:
    """K=V of a network's driver."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ArgumentTypeError(f"{text!r} is no option: write NAME=VALUE")
    return name, value


def port_mappings(text: str) -> list[dict[str, object]]:
    """[IP:]HOST:CONTAINER[/tcp|udp|sctp], where HOST and CONTAINER may be ranges of one length: 8000-8009:80-89."""
    rest, slash, protocol = text.partition("/")
    if slash and protocol not in ("tcp", "udp", "sctp"):
        raise ArgumentTypeError(f"{text!r} has the protocol {protocol!r}: write tcp, udp or sctp")
    rest, colon, container = rest.rpartition(":")
    where, _, host = rest.rpartition(":")
    if not colon:
        raise ArgumentTypeError(
            f"{text!r} is no port mapping: write HOST:CONTAINER, with IP: before it or /udp after it"
        )
    if where:
        where = address(where.removeprefix("[").removesuffix("]"))
    ours, theirs = _ports(text, host), _ports(text, container)
    if len(ours) != len(theirs):
        raise ArgumentTypeError(f"{text!r} maps {len(ours)} ports to {len(theirs)}")
    return [
        {"host_port": one, "container_port": other, "protocol": protocol or "tcp", "host_ip": where}
        for one, other in zip(ours, theirs, strict=True)
    ]


def _ports(text: str, part: str) -> range:
    first, dash, last = part.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise ArgumentTypeError(f"{text!r}: {part!r} is no port")
    ports = range(int(first), int(last or first) + 1)
    if not ports or not 0 < ports[0] <= ports[-1] < 65536:
        raise ArgumentTypeError(f"{text!r}: {part!r} is no port: they go from 1 to 65535")
    return ports


def signal_number(text: str) -> int:
    """15, TERM or SIGTERM."""
    from intermodal_core.errors import InvalidArgument

    from intermodal._signals import number

    try:
        return number(text)
    except InvalidArgument as error:
        raise ArgumentTypeError(error.message) from None


def tail(text: str) -> int:
    """A number of lines; -1 is all of them."""
    if text == "all":
        return -1
    if text.isdecimal():
        return int(text)
    raise ArgumentTypeError(f"{text!r} is no number of lines: write one, or all")
