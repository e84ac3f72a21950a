"""Frames of random kinds, flags, streams and contents: whatever comes, it ends with a code, and others are answered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from intermodal_http2 import frames
from intermodal_http2.frames import frame

from tests.lib.http2.conftest import Serving, connected
from tests.lib.http2.peer import Peer, message

PATHS = ["Say", "Times", "Join", "Chat", "Fail", "Nothing"]

garbage = st.builds(
    frame,
    st.sampled_from(range(12)),
    st.sampled_from([0, 1, 4, 5, 8, 0xC, 0x24, 0xFF]),
    st.sampled_from([0, 1, 2, 3, 5, 7, 9]),
    st.binary(max_size=40)
    | st.sampled_from([bytes(4), bytes(5), bytes(8), b"\0\0\xff\xff", message(), message() + b"\0"]),
)
requests = st.tuples(st.sampled_from(PATHS), st.sampled_from([1, 3, 5, 7, 9]), st.sampled_from([4, 5, 0]))


@pytest.fixture
def witness(serving: Serving) -> Iterator[Peer]:
    with connected(serving) as peer:
        yield peer


@given(st.lists(garbage | requests | st.binary(max_size=30), max_size=20))
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_that_comes_is_a_defect(
    serving: Serving, witness: Peer, caplog: pytest.LogCaptureFixture, given: list[bytes | tuple[str, int, int]]
) -> None:
    with connected(serving) as peer:
        peer.sock.settimeout(10)
        try:
            for each in given:
                if isinstance(each, bytes):
                    peer.send(each)
                else:
                    path, stream, flags = each
                    peer.frame(frames.HEADERS, flags, stream, peer.block(f"/test.Echo/{path}"))
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was given up before all was said
    stream = 1 + 2 * sum(each.kind == frames.HEADERS and each.flags & 1 for each in witness.seen)
    witness.request(stream, data=message(b"alive"))
    assert witness.answer(stream) == (message(b"alive"), {"grpc-status": "0"})
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
