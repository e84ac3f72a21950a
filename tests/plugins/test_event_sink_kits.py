"""The bundled event sinks keep the contract of event sinks."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.spawner import Spawner
from intermodal_core.testing.event_sinks import Arrived, EventSinkKit, Factory
from intermodal_exec.sink import Command
from intermodal_jsonl.sink import JsonLines
from intermodal_webhook.sink import Webhook


def _read(line: dict[str, Any]) -> Arrived:
    return line["sequence"] if "sequence" in line else (line["lost"]["first"], line["lost"]["last"])


def _lines(path: Path) -> list[Arrived]:
    return [_read(json.loads(line)) for line in path.read_text().splitlines()]


class TestJsonLines(EventSinkKit):
    @pytest.fixture
    def factory(self) -> Factory:
        return lambda top: JsonLines(top / "events.jsonl")

    def arrived(self, top: Path) -> Sequence[Arrived]:
        return _lines(top / "events.jsonl")


class TestExec(EventSinkKit):
    @pytest.fixture
    def spawner(self) -> Iterator[Spawner]:
        spawner = Spawner()
        yield spawner
        spawner.close()

    @pytest.fixture
    def factory(self, spawner: Spawner) -> Factory:
        return lambda top: Command(spawner, ["sh", "-c", f'cat >> "{top}/events.jsonl"'])

    def arrived(self, top: Path) -> Sequence[Arrived]:
        return _lines(top / "events.jsonl")

    @contextmanager
    def broken(self, top: Path) -> Iterator[None]:
        away = top.with_name("away")
        top.rename(away)
        yield
        away.rename(top)


class TestWebhook(EventSinkKit):
    answer = 200
    got: list[Arrived]

    @pytest.fixture(autouse=True)
    def endpoint(self, tmp_path: Path) -> Iterator[None]:
        kit = self
        kit.got = []

        class Endpoint(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if kit.answer == 200:
                    kit.got += [_read(each) for each in body.get("events", [body])]
                self.send_response(kit.answer)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            self.url = f"http://127.0.0.1:{server.server_address[1]}/"
            yield
            server.shutdown()
            thread.join()

    @pytest.fixture
    def factory(self) -> Factory:
        return lambda top: Webhook(self.url)

    def arrived(self, top: Path) -> Sequence[Arrived]:
        return self.got

    @contextmanager
    def broken(self, top: Path) -> Iterator[None]:
        self.answer = 503
        yield
        self.answer = 200
