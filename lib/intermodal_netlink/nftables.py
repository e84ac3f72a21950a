"""Tables of nftables whose rules never change, and sets whose elements come and go (include/uapi/linux/netfilter/nf_tables.h).

A table is described once, in expressions; it is made when the first element is added. A container costs an element or two in
hash sets, not rules: packets of many containers are looked up, not compared with a list. Elements carry their owner as
a comment, which `nft list ruleset` shows and by which they are collected.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from intermodal_netlink.wire import CREATE, DUMP, EXCL, Netlink, attribute, attributes, nested, text

__all__ = ["Chain", "Element", "NftSocket", "Set", "Table", "link_name", "pack"]

_SUBSYSTEM = 10 << 8
_NEWTABLE, _GETTABLE, _DELTABLE = 0, 1, 2
_NEWCHAIN, _NEWRULE = 3, 6
_NEWSET = 9
_NEWSETELEM, _GETSETELEM, _DELSETELEM = 12, 13, 14
_INET = 1
_GENERATION = struct.pack(">BBH", 0, 0, 10)  # of a batch: family, version, the subsystem it is for
_HEAD = struct.pack(">BBH", _INET, 0, 0)

#: Types as nft names them: their number, and bytes in a set's key.
_TYPES = {"ipv4_addr": (7, 4), "ipv6_addr": (8, 16), "inet_proto": (12, 4), "inet_service": (13, 4), "ifname": (41, 16)}
_OWNER_BYTES = 250


@dataclass(frozen=True, slots=True)
class Set:
    """A set, or with `data` a map; key and data are concatenations of types."""

    name: str
    key: tuple[str, ...]
    data: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain and its rules, each a sequence of expressions; with a hook (its number) it is a base chain."""

    name: str
    rules: tuple[tuple[bytes, ...], ...] = ()
    type: str = ""
    hook: int = -1
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the family inet."""

    name: str
    sets: tuple[Set, ...]
    chains: tuple[Chain, ...]


@dataclass(frozen=True, slots=True)
class Element:
    """An element of the set `set`: its key (of a map its data) packed, and who owns it."""

    set: Set
    key: bytes
    data: bytes = b""
    owner: str = ""


def pack(types: Sequence[str], *values: bytes) -> bytes:
    """A key, or data, of a set: each value filled up to what its type takes."""
    return b"".join(value.ljust(_TYPES[type][1], b"\0") for type, value in zip(types, values, strict=True))


class NftSocket(Netlink):
    """Requests to nftables; each `change_elements` is one transaction. Raises OSError with what the kernel said."""

    @classmethod
    def open(cls) -> NftSocket:
        """A socket in this process's network namespace."""
        return cls(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 12))

    def change_elements(
        self, table: Table, add: Iterable[Element] = (), delete: Iterable[Element] = (), *, exclusive: bool = True
    ) -> None:
        """Add and delete elements, all or none; the table is made first where it is not there.

        Raises OSError: EEXIST where one to be added is there already (with `exclusive` false an equal one is left as it
        is), ENOENT where one to be deleted is not.
        """
        flags = CREATE | EXCL if exclusive else CREATE
        changes = [(_SUBSYSTEM | _DELSETELEM, 0, self._elements(table, element)) for element in delete]
        changes += [(_SUBSYSTEM | _NEWSETELEM, flags, self._elements(table, element)) for element in add]
        if not changes:
            return
        for _ in range(5):
            there = self.has(table)
            made = [] if there else list(_describe(table))
            try:
                self.batch("nftables.change", _GENERATION, _GENERATION, [*made, *changes])
                return
            except OSError as error:
                raced = error.errno == errno.EEXIST and not there and self.has(table)
                if not raced and not (error.errno == errno.ENOENT and there and not self.has(table)):
                    raise
        raise OSError(errno.EAGAIN, f"the table {table.name} comes and goes")

    def has(self, table: Table) -> bool:
        """Whether the table is there."""
        try:
            self.dump(_SUBSYSTEM | _GETTABLE, _HEAD + text(1, table.name), flags=0)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True

    def delete_table(self, table: Table) -> None:
        """Remove a table with all that is in it; it may be gone already."""
        try:
            self.batch(
                "nftables.delete-table",
                _GENERATION,
                _GENERATION,
                [(_SUBSYSTEM | _DELTABLE, 0, _HEAD + text(1, table.name))],
            )
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def find(self, table: Table, element: Element) -> Element | None:
        """The element of that key, if it is there."""
        try:
            answers = self.dump(_SUBSYSTEM | _GETSETELEM, self._elements(table, element), flags=0)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return None
        return next((found for _, body in answers for found in _parsed(element.set, body)), None)

    def elements(self, table: Table, set: Set) -> list[Element]:
        """All elements of a set; none where the table is not there."""
        body = _HEAD + text(1, table.name) + text(2, set.name)
        try:
            answers = self.dump(_SUBSYSTEM | _GETSETELEM, body, flags=DUMP)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return []
        return [found for _, body in answers for found in _parsed(set, body)]

    def _elements(self, table: Table, element: Element) -> bytes:
        inner = nested(1, attribute(1, element.key))
        if element.data:
            inner += nested(2, attribute(1, element.data))
        if element.owner:
            comment = element.owner.encode()[:_OWNER_BYTES] + b"\0"
            inner += attribute(6, bytes((0, len(comment))) + comment)
        return _HEAD + text(1, table.name) + text(2, element.set.name) + nested(3, nested(1, inner))


def _parsed(set: Set, body: bytes) -> Iterable[Element]:
    for type, value in attributes(body[4:]):
        if type != 3:
            continue
        for _, inner in attributes(value):
            values = dict(attributes(inner))
            key = dict(attributes(values[1]))[1]
            data = dict(attributes(values[2])).get(1, b"") if 2 in values else b""
            comment = values.get(6, b"")
            owner = comment[2 : 2 + comment[1]].rstrip(b"\0").decode(errors="replace") if comment[:1] == b"\0" else ""
            yield Element(set, key, data, owner)


def _describe(table: Table) -> Iterable[tuple[int, int, bytes]]:
    name = text(1, table.name)
    yield _SUBSYSTEM | _NEWTABLE, CREATE | EXCL, _HEAD + name + attribute(2, bytes(4))
    for number, set in enumerate(table.sets, 1):
        flags = 0x8 if set.data else 0
        body = name + text(2, set.name) + attribute(3, struct.pack(">I", flags))
        body += attribute(4, struct.pack(">I", _concat(set.key))) + attribute(5, struct.pack(">I", _size(set.key)))
        if set.data:
            body += attribute(6, struct.pack(">I", _concat(set.data))) + attribute(
                7, struct.pack(">I", _size(set.data))
            )
        yield _SUBSYSTEM | _NEWSET, CREATE, _HEAD + body + attribute(10, struct.pack(">I", number))
    for chain in table.chains:
        body = name + text(3, chain.name)
        if chain.hook >= 0:
            hook = attribute(1, struct.pack(">I", chain.hook)) + attribute(2, struct.pack(">i", chain.priority))
            body += nested(4, hook) + text(7, chain.type) + attribute(5, struct.pack(">I", 1))
        yield _SUBSYSTEM | _NEWCHAIN, CREATE, _HEAD + body
    for chain in table.chains:
        for rule in chain.rules:
            body = name + text(2, chain.name) + nested(4, *rule)
            yield _SUBSYSTEM | _NEWRULE, CREATE | 0x800, _HEAD + body


def _concat(types: Sequence[str]) -> int:
    number = 0
    for type in types:
        number = number << 6 | _TYPES[type][0]
    return number


def _size(types: Sequence[str]) -> int:
    return sum(_TYPES[type][1] for type in types)


def link_name(name: str) -> bytes:
    """A link's name as a key holds it."""
    return name.encode().ljust(16, b"\0")
