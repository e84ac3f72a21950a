"""Tar headers as POSIX has them (pax, "Extended Tar"): a ustar block, after a pax one for what does not fit into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["header"]

_BLOCK: Final = 512
_USTAR: Final = b"ustar\x0000"
_NAME, _LINK = 100, 100
_MOST_OCTAL: Final = 0o7777777
_MOST_SIZE: Final = 0o77777777777


def header(
    name: bytes,
    kind: bytes,
    mode: int,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    records: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """The header blocks of one entry; `mtime` in ns, `records` are further ones of its pax header."""
    seconds, rest = divmod(mtime, 1_000_000_000)
    extended = dict(records or {})
    if rest or not 0 <= seconds <= _MOST_SIZE:
        whole, part = divmod(abs(mtime), 1_000_000_000)
        extended[b"mtime"] = b"%s%d.%09d" % (b"-" if mtime < 0 else b"", whole, part)
        seconds = seconds if 0 <= seconds <= _MOST_SIZE else 0
    if len(name) > _NAME or not name.isascii():
        extended[b"path"] = name
    if len(link) > _LINK or not link.isascii():
        extended[b"linkpath"] = link
    for key, value, most in ((b"uid", uid, _MOST_OCTAL), (b"gid", gid, _MOST_OCTAL), (b"size", size, _MOST_SIZE)):
        if value > most:
            extended[key] = b"%d" % value
    block = _block(
        name[:_NAME],
        kind,
        mode,
        uid if uid <= _MOST_OCTAL else 0,
        gid if gid <= _MOST_OCTAL else 0,
        size if size <= _MOST_SIZE else 0,
        seconds,
        link[:_LINK],
        device,
    )
    if not extended:
        return block
    body = b"".join(_record(key, extended[key]) for key in sorted(extended))
    return _block(b"./PaxHeaders", b"x", 0o644, 0, 0, len(body), 0) + body + bytes(-len(body) % _BLOCK) + block


def _block(
    name: bytes,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    seconds: int,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    fields = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0        %s%s%s%s%07o\0%07o\0" % (
        name.ljust(_NAME, b"\0"),
        mode,
        uid,
        gid,
        size,
        seconds,
        kind,
        link.ljust(_LINK, b"\0"),
        _USTAR,
        bytes(64),
        *device,
    )
    return (fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]).ljust(_BLOCK, b"\0")


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE` and a newline; the length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)
