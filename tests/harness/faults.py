"""A proxy before a registry that does what registries, and what is between, do wrong: on demand, a request at a time."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Fault", "Proxy", "Request", "proxy"]


@dataclass(frozen=True)
class Request:
    """What came: `number` counts those with the same method and path, from 0."""

    method: str
    path: str
    headers: Mapping[str, str]
    number: int


@dataclass(frozen=True)
class Fault:
    """What becomes of an answer. Without a field that is set it is passed on as it is.

    `status` answers by itself, with `headers` and `body`. `cut` ends the connection after so many bytes of the body;
    `trickle` then sends a byte each so many seconds; `stall` sends no more and waits until the proxy ends. `change` gives
    the body another content, `replace` headers other values (None: drops them).
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int = -1
    trickle: float = 0
    stall: bool = False
    change: Callable[[bytes], bytes] | None = None
    replace: Mapping[str, str | None] = field(default_factory=dict)
    drop_range: bool = False


class Proxy:
    """`address` is where it listens; `rule` says what befalls a request; `requests` is what came, in order."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.rule: Callable[[Request], Fault | None] = lambda _: None
        self.requests: list[Request] = []
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self.address = ""

    def note(self, method: str, path: str, headers: Mapping[str, str]) -> Request:
        """Count a request."""
        with self._lock:
            number = sum((r.method, r.path) == (method, path) for r in self.requests)
            request = Request(method, path, headers, number)
            self.requests.append(request)
        return request

    def count(self, method: str, part: str) -> int:
        """How many requests of the method had `part` in their path."""
        return sum(request.method == method and part in request.path for request in self.requests)


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """One before the registry at `upstream` (host:port, plain HTTP)."""
    state = Proxy(upstream)

    class Handler(_Handler):
        proxy = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    state.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            sent = self._chunks()
        else:
            sent = self.rfile.read(size)
        request = self.proxy.note(self.command, self.path, dict(self.headers))
        fault = self.proxy.rule(request) or Fault()
        if fault.status:
            self._answer(fault.status, {**fault.headers, "Content-Length": str(len(fault.body))}, fault.body, fault)
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
        if fault.drop_range:
            headers.pop("Range", None)
        headers["Content-Length"] = str(len(sent))
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=30)
        try:
            upstream.request(self.command, self.path, sent, headers)
            response = upstream.getresponse()
            body = response.read()
        finally:
            upstream.close()
        told = {name: value for name, value in response.getheaders() if name.lower() != "transfer-encoding"}
        if fault.change is not None:
            body = fault.change(body)
            told["Content-Length"] = str(len(body))
        for name, value in fault.replace.items():
            if value is None:
                told = {key: old for key, old in told.items() if key.lower() != name.lower()}
            else:
                told[name] = value
        self._answer(response.status, told, body, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815 - the server's names

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes, fault: Fault) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("date", "server"):
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            if fault.cut < 0:
                self.wfile.write(body)
                return
            self.wfile.write(body[: fault.cut])
            self.wfile.flush()
            self.close_connection = True
            if fault.stall:
                self.proxy.ended.wait()
            for byte in body[fault.cut :] if fault.trickle else b"":
                if self.proxy.ended.wait(fault.trickle):
                    return
                self.wfile.write(bytes([byte]))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
