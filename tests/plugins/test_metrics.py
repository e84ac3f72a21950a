"""`services.metrics` and `services.tracing`: what was called, how often, how long, and what came of it."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.calls import BOUNDS, Guard, Pool, Statistics
from intermodal_core.errors import NotFound
from intermodal_tracing.tracing import Tracing
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\]|\\.)*",?)*)\})? ([0-9.e+-]+)\Z')


def scrape(address: str) -> dict[str, float]:
    """Every sample by name and labels; each line must be one, or a comment."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(address)
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        with sock.makefile("rb") as file:
            head, _, body = file.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
    lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
    found = {}
    for line in lines:
        match = SAMPLE.match(line)
        assert match, line
        found[line.rpartition(" ")[0]] = float(match[3])
    assert len(found) == len(lines), "no sample is there twice"
    return found


def test_what_a_scraper_gets(busybox: Built) -> None:
    with PrivateDaemon(start=False) as daemon:
        address = f"{daemon.base}/metrics.sock"
        daemon.config_file.write_text(f'{daemon.config_file.read_text()}\n[services.metrics]\naddress = "{address}"\n')
        daemon.start()
        before = scrape(address)
        assert before['intermodal_plugin_state{plugin="services.metrics",state="ready"}'] == 1
        assert before['intermodal_plugin_serving{plugin="services.metrics"}'] == 1
        daemon.imod("images", "import", str(busybox.path), check=True)
        daemon.ctr("content", "get", f"sha256:{'0' * 64}")
        after = scrape(address)
        calls = 'intermodal_plugin_call_seconds_count{plugin="content.local",method="commit"}'
        assert after[calls] > before.get(calls, 0)
        buckets = [
            after[f'intermodal_plugin_call_seconds_bucket{{plugin="content.local",method="commit",le="{bound}"}}']
            for bound in (*BOUNDS, "+Inf")
        ]
        assert buckets == sorted(buckets)
        assert buckets[-1] == after[calls]
        assert after['intermodal_plugin_call_seconds_sum{plugin="content.local",method="commit"}'] > 0
        assert 'intermodal_plugin_call_errors_total{plugin="content.local",method="commit"}' in after
        assert after["intermodal_events_published_total"] > 0


def test_on_a_port_and_off() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with PrivateDaemon(f'[services.metrics]\naddress = "127.0.0.1:{port}"\n') as daemon:

        def ask(request: bytes) -> bytes:
            with socket.create_connection(("127.0.0.1", port), 10) as sock, sock.makefile("rb") as file:
                sock.sendall(request)
                return file.read()

        assert b"intermodal_plugin_state" in ask(b"GET /metrics?x=1 HTTP/1.0\r\n\r\n")
        assert ask(b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 404 ")
        assert ask(b"POST /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 405 ")
        assert ask(b"\r\n\r\n").startswith(b"HTTP/1.1 405 ")
        assert b"\r\n\r\n" in ask(b"HEAD /metrics HTTP/1.1\r\n\r\n")
        rows = daemon.imod("plugins", "ls", check=True).stdout
        assert "services.metrics" in rows
    with PrivateDaemon() as daemon:
        row = daemon.imod("plugins", "why", "services.metrics", check=True).stdout
        assert "services.metrics is skipped" in row
        assert "set address" in row


def test_buckets() -> None:
    statistics = Statistics()
    for seconds in (0.0005, 0.001, 0.0011, 59.0, 61.0):
        statistics.add(seconds, seconds > 60)
    assert statistics.buckets == [2, 1, *[0] * (len(BOUNDS) - 3), 1, 1]
    assert (statistics.calls, statistics.errors, statistics.longest) == (5, 1, 61.0)


def test_a_span_for_each_call_within_its_callers() -> None:
    exporter = InMemorySpanExporter()

    class Inner:
        def work(self) -> int:
            return 1

        def fails(self) -> None:
            raise NotFound("not here")

    class Outer:
        async def call(self, inner: Any) -> Any:
            return await inner.work()

    async def test() -> None:
        inner, outer = (
            Guard(name, instance, Pool(name, 1), 5) for name, instance in (("a.in", Inner()), ("b.out", Outer()))
        )
        async with Tracing("test", SimpleSpanProcessor(exporter)):
            assert await outer.call(inner) == 1
            with pytest.raises(NotFound):
                await inner.fails()
        assert await inner.work() == 1

    asyncio.run(test())
    work, call, fails = exporter.get_finished_spans()
    assert [span.name for span in (work, call, fails)] == ["a.in.work", "b.out.call", "a.in.fails"]
    assert work.parent is not None
    assert work.parent.span_id == call.context.span_id
    assert work.attributes == {"intermodal.plugin": "a.in", "intermodal.method": "work"}
    assert not fails.status.is_ok
    assert fails.resource.attributes["service.name"] == "test"


def test_spans_leave_the_daemon(tmp_path: Path, busybox: Built) -> None:
    """By OTLP over HTTP, to a collector that takes what comes."""
    with socket.socket() as collector:
        collector.bind(("127.0.0.1", 0))
        collector.listen()
        collector.settimeout(60)
        port = collector.getsockname()[1]
        with PrivateDaemon(f'[services.tracing]\nendpoint = "http://127.0.0.1:{port}/v1/traces"\n') as daemon:
            daemon.imod("images", "import", str(busybox.path), check=True)
            connection, _ = collector.accept()
            with connection:
                connection.settimeout(30)
                request = connection.recv(1 << 20)
                while b"content.local" not in request and (more := connection.recv(1 << 20)):
                    request += more
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    assert request.startswith(b"POST /v1/traces")


def test_not_imported_where_it_is_off() -> None:
    with PrivateDaemon() as daemon:
        maps = Path(f"/proc/{daemon.pid}/maps").read_text()
        row = daemon.imod("plugins", "why", "services.tracing", check=True).stdout
    assert "no endpoint is configured" in row
    assert "opentelemetry" not in maps
