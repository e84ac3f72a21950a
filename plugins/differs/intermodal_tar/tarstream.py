"""A streaming tar reader: ustar, PAX, GNU and old V7 archives, as layers hold them.

Follows POSIX.1-2017 (pax, ustar), the GNU tar manual's description of its own format and of sparse files (old GNU, PAX
0.0, 0.1 and 1.0), and the extended attributes of star (`SCHILY.xattr.`) and libarchive (`LIBARCHIVE.xattr.`). Names are
bytes, never decoded. Each header's checksum is verified. Whatever is malformed raises InvalidArgument, which tells the
offset in the uncompressed stream and the entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from zlib import adler32

from intermodal_core.errors import InvalidArgument

from intermodal_tar.pax import Records, octal, parse_records, sparse_map, time_ns, xattrs_of

__all__ = ["BLOCK", "Entry", "TarReader", "printable"]

BLOCK: Final = 512

#: Most bytes of one extended header or long name: far past any real one, far below harm.
_MAX_EXTENSION: Final = 8 << 20
_MAX_SPARSE: Final = 1 << 20
_MAX_SIZE: Final = (1 << 63) - 1
_MAX_SECONDS: Final = 1 << 60
_MAX_ID: Final = (1 << 32) - 2  # the last one means "leave it" to chown(2)

_ZEROS: Final = bytes(BLOCK)
_OCTAL: Final = b"01234567"
_FIVE_ENDS: Final = bytes(5)
_PLAIN_KINDS: Final = frozenset(b"05")
_DIRECTORY: Final = ord("5")
_SECOND: Final = 1_000_000_000
_EMPTY: Final = memoryview(b"")


class Entry:
    """One member. `data_size` bytes follow in the stream; `size` is what the file has in the end, more where it is sparse.

    `kind` is the type flag: b"0" regular (so are the flags NUL, 7 and S told), b"1" hard link, b"2" symbolic link, b"3"
    and b"4" character and block device, b"5" directory, b"6" FIFO. `mode` is the permission bits with set-uid, set-gid
    and sticky; `mtime` is in ns since the epoch; `sparse` lists (offset, length) of the data there is, in order.
    """

    __slots__ = (
        "data_size",
        "gid",
        "kind",
        "link",
        "major",
        "minor",
        "mode",
        "mtime",
        "name",
        "offset",
        "size",
        "sparse",
        "uid",
        "xattrs",
    )

    def __init__(
        self, name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, offset: int
    ) -> None:
        self.name = name
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.data_size = size
        self.mtime = mtime
        self.offset = offset
        self.link = b""
        self.major = 0
        self.minor = 0
        self.xattrs: dict[bytes, bytes] | None = None
        self.sparse: list[tuple[int, int]] | None = None


class TarReader:
    """Reads members one after the other from `blocks`, pieces of the uncompressed stream of any lengths.

    Iterate for entries; `piece()` gives the current entry's data, what is left unread is skipped. Iteration ends at the
    end-of-archive mark, or at the end of the stream between two members; what follows the mark is left in `blocks`.
    """

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._buffer = b""
        self._view = _EMPTY
        self._at = 0
        self._end = 0
        self._before = 0  # the stream's offset of the buffer's first byte
        self._left = 0  # unread bytes of the current entry's data
        self._padding = 0
        self._name = b""
        self._global: Records = {}

    def piece(self) -> memoryview:
        """The next bytes of the current entry's data, as many as are at hand; empty at the end."""
        left = self._left
        if not left:
            return _EMPTY
        at = self._at
        if at == self._end:
            self._fill(1)
            at = self._at
        stop = min(at + left, self._end)
        self._at = stop
        self._left = left - (stop - at)
        return self._view[at:stop]

    def __iter__(self) -> Iterator[Entry]:
        """The members in order; extended headers are folded into the member that they describe."""
        owners: dict[bytes, tuple[int, int, int]] = {}
        extended: Records | None = None
        while True:
            if self._left or self._padding:
                self._skip()
            at = self._at
            if self._end - at < BLOCK:
                if not self._fill(BLOCK, may_end=extended is None):
                    return
                at = self._at
            header = self._buffer[at : at + BLOCK]
            self._at = at + BLOCK
            offset = self._before + at
            if not _checksum_holds(header):
                if header == _ZEROS and extended is None:
                    self._expect_end()
                    return
                raise InvalidArgument(
                    f"The tar header at offset {offset} (after {printable(self._name)}) is not one: its checksum does "
                    "not match; the layer is damaged or no tar archive"
                )
            flag = header[156]
            if (
                extended is None
                and flag in _PLAIN_KINDS
                and not self._global
                and header[100:148].translate(None, _OCTAL) == _FIVE_ENDS
            ):
                # The common case, told from its bytes alone: plain octal numbers and nothing that changes their meaning.
                owner = header[100:124]
                try:
                    mode, uid, gid = owners.get(owner) or owners.setdefault(owner, _owner(owner))
                    size = int(header[124:135], 8)
                    mtime = int(header[136:147], 8) * _SECOND
                except ValueError:
                    size = -1
                name = header[: header.find(0, 0, 101)] if not header[99] else header[:100]
                if header[345] and header[257:263] == b"ustar\0":
                    size = -1
                if size >= 0 and name:
                    if flag == _DIRECTORY:
                        self._name = name
                        yield Entry(name, b"5", mode, uid, gid, 0, mtime, offset)
                        continue
                    if name[-1] != 47:
                        self._name = name
                        self._left = size
                        self._padding = -size & 511
                        yield Entry(name, b"0", mode, uid, gid, size, mtime, offset)
                        continue
            try:
                if flag in b"xgXLK":
                    extended = self._extension(header, flag, extended)
                    continue
                if flag in b"V":
                    continue
                entry = self._member(header, extended or {}, offset)
            except ValueError as error:
                name = header[:100].partition(b"\0")[0]
                raise InvalidArgument(
                    f"The tar entry {printable(name)} at offset {offset} is malformed: {error}"
                ) from None
            extended = None
            yield entry

    def _extension(self, header: bytes, flag: int, extended: Records | None) -> Records | None:
        size = octal(header[124:136])
        if not 0 <= size <= _MAX_EXTENSION:
            raise ValueError(f"an extended header of {size} bytes")
        self._left = size
        self._padding = -size & 511
        body = self._read(size)
        if flag == ord("g"):
            self._global.update(parse_records(body))
            return extended
        found = {} if extended is None else extended
        if flag == ord("L"):
            found.setdefault(b"path", body.partition(b"\0")[0])
        elif flag == ord("K"):
            found.setdefault(b"linkpath", body.partition(b"\0")[0])
        else:
            found.update(parse_records(body))
        return found

    def _member(self, header: bytes, extended: Records, offset: int) -> Entry:
        if self._global:
            extended = {**self._global, **extended}
        name = header[:100].partition(b"\0")[0]
        posix = header[257:263] == b"ustar\0"
        if posix and header[345]:
            field = header[345:476] if header[508:512] == b"tar\0" else header[345:500]
            name = field.partition(b"\0")[0] + b"/" + name
        entry = Entry(
            extended.get(b"path") or name,
            header[156:157],
            octal(header[100:108]) & 0o7777,
            octal(header[108:116]),
            octal(header[116:124]),
            octal(header[124:136]),
            octal(header[136:148]) * _SECOND,
            offset,
        )
        entry.link = extended.get(b"linkpath") or header[157:257].partition(b"\0")[0]
        if extended:
            if value := extended.get(b"size"):
                entry.size = entry.data_size = int(value)
            if value := extended.get(b"uid"):
                entry.uid = int(value)
            if value := extended.get(b"gid"):
                entry.gid = int(value)
            if value := extended.get(b"mtime"):
                entry.mtime = time_ns(value)
            entry.xattrs = xattrs_of(extended)
        self._settle_kind(entry, header)
        if not 0 <= entry.size <= _MAX_SIZE:
            raise ValueError(f"a size of {entry.size}")
        if not -_MAX_SECONDS < entry.mtime // _SECOND < _MAX_SECONDS:
            raise ValueError("a time that no system has")
        if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
            raise ValueError(f"the owner {entry.uid}:{entry.gid}")
        self._left = entry.data_size
        self._padding = -entry.data_size & 511
        if header[156] == ord("S"):
            self._old_sparse(entry, header)
        elif entry.kind == b"0" and (b"GNU.sparse.map" in extended or b"GNU.sparse.major" in extended):
            self._pax_sparse(entry, extended)
        if not entry.name or b"\0" in entry.name or b"\0" in entry.link:
            raise ValueError("its name or its link's target is empty or has a NUL")
        self._name = entry.name
        return entry

    def _settle_kind(self, entry: Entry, header: bytes) -> None:
        kind = entry.kind
        if kind in (b"0", b"\0", b"7", b"S"):
            entry.kind = b"0"
            if entry.name.endswith(b"/"):  # how V7 told a directory
                if entry.size:
                    raise ValueError("a file whose name ends with a slash")
                entry.kind = b"5"
        elif kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
            # What has no body says so by its kind, whatever its size field holds (POSIX).
            entry.size = entry.data_size = 0
            if kind in (b"3", b"4"):
                entry.major = octal(header[329:337])
                entry.minor = octal(header[337:345])
            if kind in (b"1", b"2") and not entry.link:
                raise ValueError("a link without a target")
        else:
            raise ValueError(f"its type {kind!r} is none that a layer may hold")

    def _old_sparse(self, entry: Entry, header: bytes) -> None:
        fields = [header[386:482]]
        more = header[482]
        while more:
            if len(fields) * 21 > _MAX_SPARSE:
                raise ValueError("a sparse map without end")
            self._fill(BLOCK)
            block = self._buffer[self._at : self._at + BLOCK]
            self._at += BLOCK
            fields.append(block[:504])
            more = block[504]
        numbers = []
        for field in fields:
            for at in range(0, len(field), 24):
                if not field[at]:
                    break
                numbers += [octal(field[at : at + 12]), octal(field[at + 12 : at + 24])]
        entry.size = octal(header[483:495])
        entry.sparse = sparse_map(numbers, entry.size, entry.data_size)

    def _pax_sparse(self, entry: Entry, extended: Records) -> None:
        entry.name = extended.get(b"GNU.sparse.name") or entry.name
        size = int(extended.get(b"GNU.sparse.realsize") or extended.get(b"GNU.sparse.size") or b"-1")
        if not 0 <= size <= _MAX_SIZE:
            raise ValueError(f"a sparse file's size of {size}")
        if b"GNU.sparse.major" in extended:
            if (extended[b"GNU.sparse.major"], extended.get(b"GNU.sparse.minor")) != (b"1", b"0"):
                raise ValueError("a sparse format newer than 1.0")
            numbers = self._leading_map(entry)
        else:
            numbers = [int(number) for number in extended[b"GNU.sparse.map"].split(b",") if number]
        entry.size = size
        entry.sparse = sparse_map(numbers, size, entry.data_size)

    def _leading_map(self, entry: Entry) -> list[int]:
        """PAX 1.0: decimal lines before the data, the count of pairs first, padded to a block."""
        text = b""
        while True:
            if self._left < BLOCK or len(text) > _MAX_EXTENSION:
                raise ValueError("a sparse map without end")
            text += self._read(BLOCK)
            lines = text.split(b"\n")[:-1]
            if lines:
                count = int(lines[0])
                if not 0 <= count <= _MAX_SPARSE:
                    raise ValueError(f"a sparse map of {count} pieces")
                if len(lines) > 2 * count:
                    entry.data_size = self._left
                    return [int(line) for line in lines[1 : 2 * count + 1]]

    def _expect_end(self) -> None:
        if self._end - self._at < BLOCK and not self._fill(BLOCK, may_end=True):
            return
        if self._buffer[self._at : self._at + BLOCK] != _ZEROS:
            raise InvalidArgument(
                f"The tar archive has a lone block of zeros at offset {self._before + self._at - BLOCK} "
                f"(after {printable(self._name)}); the layer is damaged"
            )
        self._at += BLOCK

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            if self._at == self._end:
                self._fill(1)
            part = self._buffer[self._at : min(self._at + size, self._end)]
            self._at += len(part)
            self._left -= len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _skip(self) -> None:
        padding = self._padding
        rest = self._left + padding
        self._left = self._padding = 0
        while rest > (have := self._end - self._at):
            rest -= have
            self._at = self._end
            # umoci leaves out what follows the last entry's data; nothing of the layer is missing then.
            if not self._fill(1, may_end=rest == padding):
                return
        self._at += rest

    def _fill(self, need: int, may_end: bool = False) -> bool:
        """Have `need` bytes in the buffer. False at the end of the stream where it may end here, else InvalidArgument."""
        rest = self._buffer[self._at : self._end]
        self._before += self._at
        while len(rest) < need:
            block = next(self._blocks, None)
            if block is None:
                self._buffer, self._at, self._end, self._view = rest, 0, len(rest), memoryview(rest)
                if may_end and not rest:
                    return False
                raise InvalidArgument(
                    f"The layer ends at offset {self._before + len(rest)} of its tar archive, inside or after the entry "
                    f"{printable(self._name)}; it is truncated"
                )
            rest = rest + block if rest else block
        self._buffer, self._at, self._end, self._view = rest, 0, len(rest), memoryview(rest)
        return True


def printable(name: bytes) -> str:
    """A name of any bytes for a message, of bounded length."""
    text = repr(name[:200])[1:]
    return text + "..." if len(name) > 200 else text


def _checksum_holds(header: bytes) -> bool:
    # adler32's low half is 1 + the sum of the bytes as long as that stays below 65521, which 256 bytes do.
    total = (adler32(header[:148]) & 0xFFFF) + (adler32(header[156:404]) & 0xFFFF) + (adler32(header[404:]) & 0xFFFF)
    try:
        told = int(header[148:154], 8) if header[154] in b"\0 " else octal(header[148:156])
    except ValueError:
        try:
            told = octal(header[148:156])
        except ValueError:
            return False
    if told == total + (8 * 32 - 3):
        return True
    # Some old writers summed signed bytes.
    signed = sum(byte - 256 if byte > 127 else byte for byte in header[:148] + b" " * 8 + header[156:])
    return told == signed


def _owner(field: bytes) -> tuple[int, int, int]:
    return int(field[:7], 8) & 0o7777, int(field[8:15], 8), int(field[16:23], 8)
