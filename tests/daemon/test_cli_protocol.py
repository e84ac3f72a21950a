"""The control protocol as a client of one's own making meets it: docs/control-protocol.md."""

import array
import json
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import PrivateDaemon


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivateDaemon]:
    with PrivateDaemon() as private:
        yield private


class Client:
    """A connection, line by line."""

    def __init__(self, daemon: PrivateDaemon) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(f"{daemon.address}.control")
        self.file = self.sock.makefile("rb")

    def send(self, line: object, descriptors: Sequence[int] = ()) -> None:
        data = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        sent = self.sock.sendmsg([data], rights)
        if data[sent:]:
            self.sock.sendall(data[sent:])

    def line(self) -> Any:
        text = self.file.readline()
        return json.loads(text) if text else None

    def close(self) -> None:
        self.file.close()
        self.sock.close()


@pytest.fixture
def client(daemon: PrivateDaemon) -> Iterator[Client]:
    client = Client(daemon)
    yield client
    client.close()


def open_descriptors(daemon: PrivateDaemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def test_the_socket_is_the_groups_alone(daemon: PrivateDaemon) -> None:
    mode = Path(f"{daemon.address}.control").stat()
    assert (stat.S_IMODE(mode.st_mode), mode.st_uid, mode.st_gid) == (0o660, 0, 0)


def test_one_call_a_connection(client: Client, daemon: PrivateDaemon) -> None:
    client.send({"method": "version"})
    answer = client.line()["result"]
    assert answer["pid"] == daemon.pid
    assert answer["root"] == str(daemon.root)
    assert client.line() is None


@pytest.mark.parametrize(
    ("line", "reason", "part"),
    [
        (b"nonsense\n", "invalid_argument", "the call's first line: "),
        (b"[]\n", "invalid_argument", "the call's first line: "),
        (b"\xff\xfe\n", "invalid_argument", "the call's first line: "),
        ({"namespace": "x"}, "invalid_argument", "missing required field `method`"),
        ({"method": "version", "more": 1}, "invalid_argument", "unknown field `more`"),
        ({"method": "nope"}, "invalid_argument", "there is no method 'nope'; there are config.explain, "),
        ({"method": "version", "params": {"x": 1}}, "invalid_argument", "the call's params: "),
        ({"method": "version", "params": []}, "invalid_argument", "the call's params: "),
        ({"method": "containers.kill", "params": {"container": "c"}}, "invalid_argument", "missing required field `signal`"),
        ({"method": "containers.run", "params": {"options": {"image": "i", "memry": 1}}}, "invalid_argument", "unknown field `memry`"),
        ({"method": "containers.inspect", "params": {"container": "nobody"}}, "not_found", "nobody"),
        ({"method": "version", "descriptors": 1}, "invalid_argument", "brings 1 descriptors, and 0 came"),
        ({"method": "version", "descriptors": -1}, "invalid_argument", "brings -1 descriptors"),
        ({"method": "images.import"}, "invalid_argument", "images.import takes one descriptor"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_an_error_by_meaning(client: Client, line: object, reason: str, part: str) -> None:
    client.send(line)
    error = client.line()["error"]
    assert error["reason"] == reason
    assert part in error["message"]
    assert client.line() is None


def test_an_endless_line_is_refused(client: Client) -> None:
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        client.sock.sendall(b"x" * (16 << 20))


def test_descriptors_are_closed_when_the_call_is_over(daemon: PrivateDaemon) -> None:
    before = open_descriptors(daemon)
    for count in (1, 16):
        reader, writer = os.pipe()
        client = Client(daemon)
        client.send({"method": "version", "descriptors": count}, [writer] * count)
        os.close(writer)
        assert "result" in client.line()
        assert os.read(reader, 1) == b"", "nobody holds the other end any more"
        os.close(reader)
        client.close()
    client = Client(daemon)
    reader, writer = os.pipe()
    client.send({"method": "version", "descriptors": 17}, [writer] * 17)
    os.close(writer)
    assert client.line()["error"]["message"] == "a call brings more than 16 descriptors"
    assert client.line() is None
    assert os.read(reader, 1) == b""
    os.close(reader)
    client.close()
    assert open_descriptors(daemon) <= before


def test_a_client_that_goes_ends_its_subscription(daemon: PrivateDaemon) -> None:
    before = open_descriptors(daemon)
    clients = [Client(daemon) for _ in range(20)]
    for client in clients:
        client.send({"method": "events.subscribe"})
        assert client.line() == {"event": {"subscribed": True}}
    assert open_descriptors(daemon) == before + len(clients)
    for client in clients:
        client.close()
    probe = Client(daemon)
    while open_descriptors(daemon) > before + 1:  # ends by the test's own time limit at the latest
        probe.close()
        probe = Client(daemon)
        probe.send({"method": "version"})
        probe.line()
    probe.close()


def test_a_wrong_line_ends_a_call_that_runs(client: Client) -> None:
    client.send({"method": "events.subscribe"})
    client.line()
    client.send({"sgnal": 15})
    assert "a line that came while the call ran" in client.line()["error"]["message"]


def test_a_filter_that_is_none_is_refused(client: Client) -> None:
    client.send({"method": "events.subscribe", "params": {"filters": ["topic=="]}})
    assert client.line()["error"]["reason"] == "invalid_argument"


def test_an_import_whose_client_goes_is_cancelled(daemon: PrivateDaemon) -> None:
    """The archive never ends, so only the client's going can end the call."""
    before = open_descriptors(daemon)
    reader, writer = os.pipe()
    client = Client(daemon)
    client.send({"method": "images.import", "descriptors": 1}, [reader])
    os.close(reader)
    client.close()
    while True:  # the daemon lets go of the archive
        try:
            os.write(writer, b"\0")
        except BrokenPipeError:
            break
    os.close(writer)
    probe = Client(daemon)
    probe.send({"method": "images.list", "namespace": daemon.namespace})
    assert probe.line() == {"result": []}
    probe.close()
    assert open_descriptors(daemon) <= before + 1
