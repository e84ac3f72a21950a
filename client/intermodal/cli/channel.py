"""One call on the daemon's control socket: JSON lines both ways, descriptors beside them. See docs/control-protocol.md."""

from __future__ import annotations

import errno
import json
import os
import socket

from intermodal.cli.errors import DaemonError, Failure

TYPE_CHECKING = False  # typing takes a fifth of imod's start-up
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Handle = Callable[[dict[str, Any], list[int]], None]

__all__ = ["Call", "connect"]

#: Descriptors that one line may bring.
DESCRIPTOR_LIMIT = 16


def connect(address: str) -> socket.socket:
    """A connection to the control socket of the daemon at `address`. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(address + ".control")
    except BaseException:
        sock.close()
        raise
    return sock


class Call:
    """A call under way. `send` may be used while another part of the program waits in `result`."""

    def __init__(
        self,
        address: str,
        method: str,
        namespace: str,
        params: dict[str, Any] | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        try:
            self._sock = connect(address)
        except OSError as error:
            raise Failure(_unreachable(address, error)) from None
        self._buffer = b""
        self._descriptors: list[int] = []
        request: dict[str, Any] = {"method": method, "namespace": namespace}
        if params:
            request["params"] = params
        if descriptors:
            request["descriptors"] = len(descriptors)
        data = json.dumps(request).encode() + b"\n"
        try:
            sent = socket.send_fds(self._sock, [data], descriptors) if descriptors else 0
            self._sock.sendall(data[sent:])
        except BrokenPipeError:
            pass  # the daemon's answer says why it does not listen

    def fileno(self) -> int:
        """For select."""
        return self._sock.fileno()

    def send(self, **line: Any) -> None:
        """A further line; one that comes too late is of no interest to anybody."""
        try:
            self._sock.sendall(json.dumps(line).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            pass

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """The next line and its descriptors, waiting for it. Raises DaemonError for an error, Failure at the end."""
        while b"\n" not in self._buffer:
            self._read()
        text, _, self._buffer = self._buffer.partition(b"\n")
        line = json.loads(text)
        if "error" in line:
            error = line["error"]
            raise DaemonError(error["message"], error["reason"], error["code"])
        count = line.get("descriptors", 0)
        descriptors, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        return line, descriptors

    def pending(self) -> bool:
        """Whether `receive` would return without waiting."""
        return b"\n" in self._buffer

    def result(self, handle: Handle | None = None) -> Any:
        """Wait for the result; `handle` gets every line before it. Raises DaemonError, Failure."""
        while True:
            line, descriptors = self.receive()
            if "result" in line:
                return line["result"]
            if handle is not None:
                handle(line, descriptors)

    def close(self) -> None:
        """Hang up; the daemon cancels what nobody else needs."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._sock.close()

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._sock, 65536, DESCRIPTOR_LIMIT, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            data, descriptors = b"", []
        self._descriptors += descriptors
        if not data:
            raise Failure("the daemon ended while it was asked; see its log, and `imod ps` for what runs")
        self._buffer += data


def _unreachable(address: str, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no permission for the daemon's socket {address}.control: be root or of its group (socket_group in the config)"
    if error.errno not in (errno.ENOENT, errno.ECONNREFUSED):
        return f"no daemon at {address}: {error.strerror or error}"
    return (
        f"no daemon listens at {address}: start it (systemctl start intermodal, or intermodald &), "
        "or use imod --embedded, or name another with --address"
    )
