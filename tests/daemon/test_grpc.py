"""The daemon's main socket: what answers there, and what the daemon does not need for it."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import grpc
import pytest
from intermodal_api.containerd.services import content_pb2

from tests.harness.api import Api
from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built


def _said(address: str, path: str) -> tuple[grpc.StatusCode, str]:
    with grpc.insecure_channel(f"unix:{address}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(path, None, None)(b"", timeout=20)
        return caught.value.code(), caught.value.details() or ""


def test_the_daemon_has_no_grpcio(daemon: PrivateDaemon, busybox: Built) -> None:
    """It would be a third of the daemon's memory. Its library is mapped by whoever imports it."""
    daemon.ctr("images", "import", str(busybox.path), check=True)
    daemon.ctr("run", "--rm", "docker.io/library/busybox:latest", "c", "true", check=True)
    mapped = Path(f"/proc/{daemon.pid}/maps").read_text()
    assert "cygrpc" not in mapped
    assert "google/_upb" in mapped  # a library that it does have is seen


def test_a_service_that_is_not_served_says_which_are_off() -> None:
    config = "[services.ttrpc]\nenabled = false\n"
    with PrivateDaemon(config) as daemon:
        code, said = _said(daemon.address, "/runtime.v9.RuntimeService/Version")
        line = next(
            number
            for number, text in enumerate(daemon.config_file.read_text().splitlines(), 1)
            if text == "enabled = false"
        )
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert said.startswith("unknown service runtime.v9.RuntimeService; services.ttrpc is disabled: ")
        assert f"switched off in the config ({daemon.config_file}:{line})" in said


def test_a_method_that_is_not_there(daemon: PrivateDaemon) -> None:
    code, said = _said(daemon.address, "/containerd.services.tasks.v1.Tasks/Dance")
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert said == "unknown method Dance for service containerd.services.tasks.v1.Tasks"


def test_mode_of_the_socket_and_its_end() -> None:
    with PrivateDaemon('socket_mode = "0620"\n') as daemon:
        assert stat.S_IMODE(os.stat(daemon.address).st_mode) == 0o620
        daemon.end()
        assert not os.path.exists(daemon.address)


@pytest.mark.parametrize("size", [100, 100_000, 9 << 20])
def test_content_of_any_size_there_and_back(daemon: PrivateDaemon, size: int) -> None:

    data = os.urandom(size)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    write = content_pb2.WriteContentRequest
    with Api(daemon.address, daemon.namespace) as api:
        chunks = [
            write(action=content_pb2.WRITE, ref="r", offset=at, data=data[at : at + (1 << 20)])
            for at in range(0, size, 1 << 20)
        ]
        chunks.append(write(action=content_pb2.COMMIT, ref="r", offset=size, total=size, expected=digest))
        assert api.send(content_pb2, "Write", chunks)[-1].digest == digest
        parts = api.call(content_pb2, "Read", digest=digest)
        assert b"".join(part.data for part in parts) == data
        parts = api.call(content_pb2, "Read", digest=digest, offset=10, size=50)
        assert b"".join(part.data for part in parts) == data[10:60]
