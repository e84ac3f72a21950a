import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from intermodal_ttrpc.framing import HEADER_SIZE, MAX_PAYLOAD, Decoder, Frame, encode

frames = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=300)).map(
        lambda fields: Frame(*fields)
    ),
    max_size=8,
)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    chunks = []
    for size in sizes:
        chunks.append(data[:size])
        data = data[size:]
    return [chunk for chunk in [*chunks, data] if chunk]


@given(frames, st.lists(st.integers(1, 50), max_size=40))
def test_any_division_into_chunks_gives_the_same_frames(sent: list[Frame], sizes: list[int]) -> None:
    stream = b"".join(encode(frame.stream, frame.kind, frame.payload, frame.flags) for frame in sent)
    decoder = Decoder()
    received = [frame for chunk in cut(stream, sizes) for frame in decoder.feed(chunk)]
    assert received == sent


@settings(max_examples=25)
@given(frames, frames, st.integers(MAX_PAYLOAD + 1, MAX_PAYLOAD + 100), st.lists(st.integers(1, 10**6), max_size=9))
def test_an_oversize_frame_is_told_of_and_skipped(
    before: list[Frame], after: list[Frame], length: int, sizes: list[int]
) -> None:
    big = length.to_bytes(4, "big") + bytes([0, 0, 0, 9, 1, 0]) + bytes(length)
    encoded = [b"".join(encode(f.stream, f.kind, f.payload, f.flags) for f in part) for part in (before, after)]
    decoder = Decoder()
    received = [frame for chunk in cut(encoded[0] + big + encoded[1], sizes) for frame in decoder.feed(chunk)]
    assert received == [*before, Frame(9, 1, 0, b"", (), length), *after]


@given(st.binary(max_size=2000), st.lists(st.integers(1, 50), max_size=40))
def test_garbage_never_raises_nor_grows(data: bytes, sizes: list[int]) -> None:
    decoder = Decoder()
    total = sum(len(frame.payload) + HEADER_SIZE for chunk in cut(data, sizes) for frame in decoder.feed(chunk))
    assert total <= len(data) + HEADER_SIZE * len(data)


@given(frames, st.binary(max_size=200), st.integers(1, 400))
def test_descriptors_go_with_the_last_frame_that_begins_in_their_chunk(
    before: list[Frame], payload: bytes, first: int
) -> None:
    decoder = Decoder()
    lead = b"".join(encode(f.stream, f.kind, f.payload, f.flags) for f in before)
    carrying = encode(7, 1, payload)
    received = decoder.feed(lead + carrying[:first], (5, 6))
    received += decoder.feed(carrying[first:]) if carrying[first:] else []
    received += decoder.feed(encode(8, 1, b""))
    assert [frame.fds for frame in received] == [()] * len(before) + [(5, 6), ()]


def test_encode_refuses_what_a_peer_would_refuse() -> None:
    with pytest.raises(ValueError, match="over the limit"):
        encode(1, 1, bytes(MAX_PAYLOAD + 1))
