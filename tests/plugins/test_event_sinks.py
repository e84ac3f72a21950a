"""The bundled event sinks: what arrives, and what a failure is to the daemon."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.event_sinks import EventSink, SunkEvent
from intermodal_core.errors import DeadlineExceeded, FailedPrecondition, NotFound, Unavailable
from intermodal_core.spawner import Spawner
from intermodal_exec.sink import Command
from intermodal_jsonl.sink import JsonLines
from intermodal_webhook.sink import SIGNATURE, Webhook


def event(number: int, size: int = 0) -> SunkEvent:
    fields = {"id": "c", "text": "x" * size}
    return SunkEvent(number, f"id{number}", number * 10**9, "default", "/tasks/exit", "url", fields, b"\x00\xff")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_as_json_is_what_imod_prints() -> None:
    assert json.loads(event(7).json()) == {
        "sequence": 7,
        "id": "id7",
        "timestamp": 7_000_000_000,
        "namespace": "default",
        "topic": "/tasks/exit",
        "type": "url",
        "fields": {"id": "c", "text": ""},
    }


# A file.


def test_lines_are_appended_across_restarts(tmp_path: Path) -> None:
    path = tmp_path / "made/events.jsonl"
    for number in (1, 3):
        sink = JsonLines(path)
        assert isinstance(sink, EventSink)
        sink.deliver((event(number), event(number + 1)))
        sink.close()
    assert [line["sequence"] for line in lines(path)] == [1, 2, 3, 4]
    sink = JsonLines(path)
    sink.lost(5, 9)
    sink.close()
    assert lines(path)[-1] == {"lost": {"first": 5, "last": 9}}


@pytest.mark.parametrize("files", [1, 3])
def test_a_full_file_is_rotated(tmp_path: Path, files: int) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonLines(path, size=1000, files=files)
    for number in range(40):
        sink.deliver((event(number, size=200),))
    sink.close()
    names = [path, *(Path(f"{path}.{number}") for number in range(1, files))]
    assert sorted(tmp_path.iterdir()) == sorted(names)
    kept = [line["sequence"] for name in reversed(names) for line in lines(name)]
    assert kept == list(range(40 - len(kept), 40))
    assert all(name.stat().st_size <= 1000 for name in names)


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=True)
    try:
        sink = JsonLines(place / "events.jsonl")
        sink.deliver((event(1),))
        with pytest.raises(OSError, match="No space"):
            sink.deliver(tuple(event(number, size=3000) for number in range(2, 50)))
        assert [line["sequence"] for line in lines(place / "events.jsonl")] == [1]
        sink.deliver((event(2),))
        assert [line["sequence"] for line in lines(place / "events.jsonl")] == [1, 2]
        sink.close()
    finally:
        subprocess.run(["umount", str(place)], check=True)


# A command.


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    yield spawner
    spawner.close()


def test_a_command_gets_the_batch(spawner: Spawner, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f'[ "$INTERMODAL_EVENTS" -gt 0 ] && cat >> "{out}" && echo "$COLOR" >> "{tmp_path}/color"'
    sink = Command(spawner, ["sh", "-c", script], environment={"COLOR": "blue"})
    assert isinstance(sink, EventSink)
    sink.deliver((event(1), event(2)))
    sink.lost(3, 4)
    assert [line.get("sequence") for line in lines(out)] == [1, 2, None]
    assert (tmp_path / "color").read_text() == "blue\nblue\n"
    sink.close()


def test_a_command_that_fails_is_quoted(spawner: Spawner) -> None:
    sink = Command(spawner, ["sh", "-c", "echo no room left >&2; exit 3"])
    with pytest.raises(FailedPrecondition, match="sh ended with status 3: no room left"):
        sink.deliver((event(1),))


def test_a_command_that_is_killed_hangs_or_is_not_there(spawner: Spawner) -> None:
    with pytest.raises(FailedPrecondition, match="signal 9"):
        Command(spawner, ["sh", "-c", "kill -9 $$"]).deliver((event(1),))
    with pytest.raises(DeadlineExceeded, match="killed"):
        Command(spawner, ["sleep", "100"], timeout=0.2).deliver((event(1),))
    with pytest.raises(NotFound):
        Command(spawner, ["/nowhere/program"]).deliver((event(1),))


# A webhook.


class Endpoint(http.server.BaseHTTPRequestHandler):
    answer = 200
    got: list[tuple[dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).got.append((dict(self.headers), body))
        self.send_response(self.answer)
        if self.answer == 302:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()
        self.wfile.write(b"as it likes")

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def endpoint() -> Iterator[tuple[str, type[Endpoint]]]:
    handler = type("Handler", (Endpoint,), {"got": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", handler
        server.shutdown()
        thread.join()


def test_a_batch_is_posted_and_signed(endpoint: tuple[str, type[Endpoint]]) -> None:
    url, handler = endpoint
    sink = Webhook(url, headers={"Authorization": "Bearer token"}, secret="key")
    assert isinstance(sink, EventSink)
    sink.deliver((event(1), event(2)))
    sink.lost(3, 5)
    (headers, body), (_, lost) = handler.got
    assert [each["sequence"] for each in json.loads(body)["events"]] == [1, 2]
    assert json.loads(lost) == {"lost": {"first": 3, "last": 5}}
    assert headers["Authorization"] == "Bearer token"
    assert headers["Content-Type"] == "application/json"
    assert {name.lower(): value for name, value in headers.items()}[SIGNATURE.lower()] == (
        f"sha256={hmac.new(b'key', body, hashlib.sha256).hexdigest()}"
    )
    sink.close()


@pytest.mark.parametrize("status", [302, 404, 500])
def test_any_answer_but_2xx_is_a_failure(endpoint: tuple[str, type[Endpoint]], status: int) -> None:
    url, handler = endpoint
    handler.answer = status
    with pytest.raises(Unavailable, match=f"answered {status}"):
        Webhook(url).deliver((event(1),))


def test_nobody_there() -> None:
    with pytest.raises(Unavailable, match=r"http://127.0.0.1:1/x cannot be reached: .*refused"):
        Webhook("http://127.0.0.1:1/x").deliver((event(1),))
    assert not os.environ.get("http_proxy"), "a proxy would answer instead"
