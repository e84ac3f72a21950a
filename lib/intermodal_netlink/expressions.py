"""The expressions of nftables' rules, as nft(8) names its statements (include/uapi/linux/netfilter/nf_tables.h).

Registers 8 and up hold 4 bytes each; a key of several parts lies in neighbouring ones. A function that tests something ends
the rule where the packet is not so.
"""

from __future__ import annotations

import struct

from intermodal_netlink.wire import attribute, nested, text

__all__ = [
    "address",
    "bits",
    "byte_bits",
    "compare",
    "destination_nat",
    "established",
    "family",
    "has_mark",
    "lookup",
    "masquerade",
    "meta",
    "port",
    "prefix_byte",
    "set_mark",
    "to_local",
    "translated",
    "verdict",
]


def _expression(name: str, *inner: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *inner))


def _u32(type: int, value: int) -> bytes:
    return attribute(type, struct.pack(">I", value))


def meta(key: str, register: int = 8) -> bytes:
    """Load what is known of the packet beside its bytes."""
    keys = {"mark": 3, "iifname": 6, "oifname": 7, "nfproto": 15, "l4proto": 16}
    return _expression("meta", _u32(2, keys[key]), _u32(1, register))


def set_mark(bit: int) -> tuple[bytes, ...]:
    """Set a bit of the packet's mark."""
    return (
        meta("mark"),
        bits(0xFFFFFFFF ^ bit, bit),
        _expression("meta", _u32(2, 3), _u32(3, 8)),
    )


def has_mark(bit: int) -> tuple[bytes, ...]:
    """The packet's mark has that bit."""
    return meta("mark"), bits(bit), compare(struct.pack("=I", 0), equal=False)


def bits(mask: int, flip: int = 0) -> bytes:
    """Register 8 and `mask`, exclusive-or `flip`; both in the machine's order."""

    def data(type: int, value: int) -> bytes:
        return nested(type, attribute(1, struct.pack("=I", value)))

    return _expression("bitwise", _u32(1, 8), _u32(2, 8), _u32(3, 4), data(4, mask), data(5, flip))


def byte_bits(mask: int) -> bytes:
    """The one byte in register 8 and `mask`."""
    inner = [nested(type, attribute(1, bytes((value,)))) for type, value in ((4, mask), (5, 0))]
    return _expression("bitwise", _u32(1, 8), _u32(2, 8), _u32(3, 1), *inner)


def compare(value: bytes, register: int = 8, equal: bool = True) -> bytes:
    """Go on only where the register holds (or does not hold) that."""
    return _expression("cmp", _u32(1, register), _u32(2, 0 if equal else 1), nested(3, attribute(1, value)))


def family(version: int) -> tuple[bytes, ...]:
    """Packets of IPv4 or IPv6 alone."""
    return meta("nfproto"), compare(bytes((2 if version == 4 else 10,)))


def address(version: int, which: str, register: int = 8) -> bytes:
    """Load the packet's "source" or "destination"."""
    offset, length = {4: ({"source": 12, "destination": 16}, 4), 6: ({"source": 8, "destination": 24}, 16)}[version]
    return _payload(1, offset[which], length, register)


def prefix_byte(version: int, which: str) -> bytes:
    """Load the first byte of an address."""
    offset = {4: {"source": 12, "destination": 16}, 6: {"source": 8, "destination": 24}}[version][which]
    return _payload(1, offset, 1, 8)


def port(register: int = 8) -> bytes:
    """Load the destination's port."""
    return _payload(2, 2, 2, register)


def _payload(base: int, offset: int, length: int, register: int) -> bytes:
    return _expression("payload", _u32(1, register), _u32(2, base), _u32(3, offset), _u32(4, length))


def lookup(set: str, *, map: bool = False) -> bytes:
    """Go on only where the key that begins in register 8 is in the set; of a map its data is put there."""
    inner = [text(1, set), _u32(2, 8)]
    if map:
        inner.append(_u32(3, 8))
    return _expression("lookup", *inner)


def to_local() -> tuple[bytes, ...]:
    """Packets to an address of this host alone."""
    return (
        _expression("fib", _u32(1, 8), _u32(2, 3), _u32(3, 0x2)),
        compare(struct.pack("=I", 2)),
    )


def translated() -> tuple[bytes, ...]:
    """Connections whose destination was translated (the status IPS_DST_NAT)."""
    return (
        _expression("ct", _u32(2, 2), _u32(1, 8)),
        bits(0x20),
        compare(struct.pack("=I", 0), equal=False),
    )


def established() -> tuple[bytes, ...]:
    """Packets of connections that are known already, and those related to one."""
    return (
        _expression("ct", _u32(2, 0), _u32(1, 8)),
        bits(0x2 | 0x4),
        compare(struct.pack("=I", 0), equal=False),
    )


def destination_nat(version: int) -> bytes:
    """Translate to the address in register 8 and the port behind it."""
    family, port = (2, 9) if version == 4 else (10, 12)
    return _expression("nat", _u32(1, 1), _u32(2, family), _u32(3, 8), _u32(5, port))


def masquerade() -> bytes:
    """Translate the source to the address of the link that the packet leaves by."""
    return _expression("masq")


def verdict(name: str, chain: str = "") -> bytes:
    """Accept, drop, return, or jump to a chain."""
    code = {"drop": 0, "accept": 1, "jump": -3, "return": -5}[name]
    inner = attribute(1, struct.pack(">i", code)) + (text(2, chain) if chain else b"")
    return _expression("immediate", _u32(1, 0), nested(2, nested(2, inner)))
