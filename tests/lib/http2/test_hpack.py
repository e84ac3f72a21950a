"""The decoder beside the library `hpack` as an oracle, and what only a decoder of its own can be asked."""

from __future__ import annotations

from collections.abc import Callable

import hpack
import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given, settings
from hypothesis import strategies as st
from intermodal_http2 import huffman
from intermodal_http2.frames import COMPRESSION_ERROR, ConnectionFault
from intermodal_http2.hpack import NO_TABLE, STATUS_200, TABLE_SIZE, Decoder, literal

LIMIT = 1 << 20

encode_huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode

names = st.sampled_from([b":path", b":method", b"te", b"x-a", b"x-bb", b"cookie", b"content-type"]) | st.binary(
    min_size=1, max_size=40
)
values = st.sampled_from([b"", b"trailers", b"POST", b"/index.html"]) | st.binary(max_size=300)
fields = st.lists(st.tuples(names, values), max_size=12)
blocks = st.lists(st.tuples(fields, st.booleans(), st.none() | st.integers(0, TABLE_SIZE)), min_size=1, max_size=12)


@given(blocks)
@settings(deadline=None)
def test_blocks_of_an_encoder_are_read_as_they_were_written(
    given: list[tuple[list[tuple[bytes, bytes]], bool, int | None]],
) -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    for wanted, packed, size in given:
        if size is not None:
            encoder.header_table_size = size
        assert decoder.decode(bytes(encoder.encode(wanted, huffman=packed)), LIMIT) == wanted


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=5))
@settings(deadline=None, max_examples=400)
def test_any_bytes_are_read_as_the_oracle_reads_them(given: list[bytes]) -> None:
    ours, theirs = Decoder(), hpack.Decoder()
    for block in given:
        expected = _tried(theirs.decode, block, True)
        found = _tried(ours.decode, block, LIMIT)
        if isinstance(found, ConnectionFault):
            assert found.code == COMPRESSION_ERROR
            assert isinstance(expected, Exception) or "number" in str(found)  # the oracle knows no largest
            return
        assert found == expected


def _tried(decode: Callable[..., object], *arguments: object) -> object:
    """What it returns, or raises."""
    try:
        return decode(*arguments)
    except Exception as error:
        return error


@given(st.binary(max_size=400))
def test_huffman_strings(given: bytes) -> None:
    assert huffman.decode(encode_huffman(given)) == given


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"\x00", b"\xff", b"\x1f\xff\xff", encode_huffman(b"abc") + b"\xff"], ids=bytes.hex
)
def test_padding_that_is_none(data: bytes) -> None:
    """The code of the end, zeros, and padding of a whole byte."""
    with pytest.raises(ValueError, match="Huffman"):
        huffman.decode(data)


def test_the_static_table() -> None:
    for index, field in enumerate(hpack.table.HeaderTable.STATIC_TABLE, 1):
        assert Decoder().decode(bytes([0x80 | index]), LIMIT) == [field]


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (b"\x80", "entry 0"),
        (b"\xbe", "entry 62"),
        (b"\xff\x80\x80\x80\x80\x01", "number"),
        (b"\xff", "number"),
        (b"\x40", "missing"),
        (b"\x40\x05abc", "cut off"),
        (b"\x40\x01a\x05abc", "cut off"),
        (b"\x3f\xe2\x1f", "over the 4096"),
        (b"\x88\x20", "follows a field"),
        (b"\x40\x81\x00\x00", "Huffman"),
    ],
)
def test_a_block_that_cannot_be_read(block: bytes, why: str) -> None:
    with pytest.raises(ConnectionFault, match=why) as caught:
        Decoder().decode(block, LIMIT)
    assert caught.value.code == COMPRESSION_ERROR


def test_a_large_list_is_not_kept_and_the_table_stays_right() -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    big = [(b"x-big", b"v" * 3000)]
    assert decoder.decode(bytes(encoder.encode(big)), LIMIT) == big
    bomb = bytes(encoder.encode(big)) * 50_000  # one entry of the table, again and again
    assert decoder.decode(bomb, 64 << 10) is None
    assert decoder.decode(bytes(encoder.encode([*big, (b"x-new", b"1")])), LIMIT) == [*big, (b"x-new", b"1")]
    assert decoder.decode(bytes(encoder.encode([(b"x-new", b"1")])), LIMIT) == [(b"x-new", b"1")]


def test_the_version_changes_with_the_table_only() -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    block = [(b"x-a", b"1")]
    decoder.decode(bytes(encoder.encode(block)), LIMIT)
    version = decoder.version
    decoder.decode(bytes(encoder.encode(block)), LIMIT)
    assert decoder.version == version
    decoder.decode(b"\x20", LIMIT)
    assert decoder.version != version


@given(st.binary(max_size=500), st.binary(max_size=20_000))
@settings(deadline=None)
def test_what_is_written_is_read_by_the_oracle(name: bytes, value: bytes) -> None:
    theirs = hpack.Decoder()
    read = theirs.decode(NO_TABLE + STATUS_200 + literal(name, value), raw=True)
    assert [(bytes(a), bytes(b)) for a, b in read] == [(b":status", b"200"), (name, value)]
    assert theirs.header_table.maxsize == 0
