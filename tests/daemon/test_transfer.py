"""Transfer and Streaming, as newer clients of containerd use them: no such client is in Debian, so by grpcio."""

from __future__ import annotations

import json
import queue
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from intermodal_api.containerd.services import streaming_pb2, transfer_pb2
from intermodal_api.containerd.types import platform_pb2
from intermodal_api.containerd.types import transfer_pb2 as types
from intermodal_oci import platforms

from tests.harness.api import Api
from tests.harness.daemon import PrivateDaemon
from tests.harness.images import NAME, Built, busybox_layout
from tests.harness.registry import PASSWORD, USER, Registry, push_archive, registry
from tests.harness.world import settled

HOST = platform_pb2.Platform(os=platforms.host().os, architecture=platforms.host().architecture)
UNPACK = [types.UnpackConfiguration(platform=HOST, snapshotter="overlayfs")]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("served") / "registry") as served:
        yield served


@pytest.fixture(scope="module")
def shared() -> Iterator[PrivateDaemon]:
    with PrivateDaemon() as daemon:
        yield daemon


@pytest.fixture
def daemon(shared: PrivateDaemon) -> Iterator[PrivateDaemon]:
    yield shared
    settled(shared)


@pytest.fixture
def api(daemon: PrivateDaemon) -> Iterator[Api]:
    with Api(daemon.address, daemon.namespace) as api:
        yield api


def packed(message: Message) -> AnyMessage:
    return AnyMessage(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


class Stream:
    """A client's end of a stream."""

    def __init__(self, api: Api) -> None:
        self.id = secrets.token_hex(8)
        self._sent: queue.Queue[AnyMessage | None] = queue.Queue()
        call = api._channel.stream_stream(
            "/containerd.services.streaming.v1.Streaming/Stream",
            lambda message: message.SerializeToString(),
            AnyMessage.FromString,
        )
        answers = call(iter(self._sent.get, None), metadata=(("containerd-namespace", api.namespace),), timeout=60)
        self._answers = cast("Iterator[AnyMessage]", answers)
        self.send(streaming_pb2.StreamInit(id=self.id))
        answer = self.receive()
        assert answer is not None
        assert answer.type_url == "google.protobuf.Empty"

    def send(self, message: Message) -> None:
        self._sent.put(packed(message))

    def receive(self) -> AnyMessage | None:
        try:
            message: AnyMessage = next(self._answers)
            return message
        except StopIteration:
            return None

    def close(self) -> None:
        self._sent.put(None)

    def write(self, data: bytes) -> None:
        """Send bytes, as many at a time as were granted."""
        window = 0
        while data:
            while window <= 0:
                answer = self.receive()
                assert answer is not None
                window += types.WindowUpdate.FromString(answer.value).update
            piece, data = data[: min(window, 65536)], data[min(window, 65536) :]
            self.send(types.Data(data=piece))
            window -= len(piece)
        self.close()

    def read(self, window: int = 65536) -> bytes:
        """Receive bytes, granting as many at a time."""
        found = b""
        self.send(types.WindowUpdate(update=window))
        while (answer := self.receive()) is not None:
            piece = types.Data.FromString(answer.value).data
            found += piece
            self.send(types.WindowUpdate(update=len(piece)))
        return found


def transfer(api: Api, source: Message, destination: Message, progress: str = "") -> None:
    options = transfer_pb2.TransferOptions(progress_stream=progress)
    api.call(transfer_pb2, "Transfer", source=packed(source), destination=packed(destination), options=options)


def images(daemon: PrivateDaemon) -> dict[str, str]:
    rows: list[dict[str, Any]] = json.loads(daemon.imod("images", "ls", "-o", "json", check=True).stdout)
    return {row["name"]: row["target"]["digest"] for row in rows}


def plain(reference: str, **fields: Any) -> types.OCIRegistry:
    return types.OCIRegistry(reference=reference, resolver=types.RegistryResolver(default_scheme="http", **fields))


def test_pull_tag_and_push(daemon: PrivateDaemon, api: Api, served: Registry, busybox: Built) -> None:
    name = f"{served.address}/busybox:1"
    push_archive(busybox.path, name)
    progress = Stream(api)
    told: list[types.Progress] = []

    def follow() -> None:
        while (message := progress.receive()) is not None:
            told.append(types.Progress.FromString(message.value))

    following = threading.Thread(target=follow)
    following.start()
    store = types.ImageStore(name=name, platforms=[HOST], unpacks=UNPACK)
    transfer(api, plain(name), store, progress.id)
    progress.close()
    following.join(20)
    assert images(daemon)[name] == busybox.manifest
    assert {"complete"} <= {each.event for each in told}
    assert busybox.layers[0] in {each.name for each in told}
    assert daemon.imod("run", "--rm", name, "echo", "hello", check=True).stdout == "hello\n"
    copy = f"{served.address}/copy:1"
    transfer(api, types.ImageStore(name=name), types.ImageStore(name=copy))
    transfer(api, types.ImageStore(name=copy), plain(copy))
    transfer(api, plain(copy), types.ImageStore(name="docker.io/library/again:1", platforms=[HOST]))
    assert images(daemon)["docker.io/library/again:1"] == busybox.manifest
    daemon.imod("images", "rm", *images(daemon), check=True)


def test_import_and_export(daemon: PrivateDaemon, api: Api, tmp_path: Path) -> None:
    built = busybox_layout(tmp_path / "image.tar")
    stream = Stream(api)
    sending = threading.Thread(target=stream.write, args=(built.path.read_bytes(),))
    sending.start()
    transfer(api, types.ImageImportStream(stream=stream.id), types.ImageStore(unpacks=UNPACK, platforms=[HOST]))
    sending.join(20)
    assert images(daemon) == {NAME: built.manifest}
    stream = Stream(api)
    received: list[bytes] = []
    receiving = threading.Thread(target=lambda: received.append(stream.read()))
    receiving.start()
    transfer(api, types.ImageStore(name=NAME), types.ImageExportStream(stream=stream.id))
    receiving.join(20)
    daemon.imod("images", "export", str(tmp_path / "again.tar"), NAME, check=True)
    assert received == [(tmp_path / "again.tar").read_bytes()]
    daemon.imod("images", "rm", NAME, check=True)


def test_credentials_by_a_stream(daemon: PrivateDaemon, api: Api, tmp_path: Path, busybox: Built) -> None:
    with registry(tmp_path / "closed", closed=True) as closed:
        name = f"{closed.address}/mine:1"
        daemon.imod("images", "import", str(busybox.path), check=True)

        def asked(secret: str) -> str:
            stream = Stream(api)

            def answer() -> None:
                question = stream.receive()
                assert question is not None
                assert types.AuthRequest.FromString(question.value).host == closed.address
                stream.send(types.AuthResponse(authType=types.CREDENTIALS, username=USER, secret=secret))

            answering = threading.Thread(target=answer)
            answering.start()
            try:
                transfer(api, types.ImageStore(name=NAME), plain(name, auth_stream=stream.id))
                return "OK"
            except grpc.RpcError as error:
                return str(error.code().name)
            finally:
                answering.join(20)
                stream.close()

        assert asked("wrong") == "PERMISSION_DENIED"
        assert asked(PASSWORD) == "OK"
        daemon.imod("images", "rm", NAME, check=True)


def test_what_cannot_be_transferred(api: Api, served: Registry) -> None:
    for source, destination, code in [
        (types.OCIRegistry(reference="a"), types.OCIRegistry(reference="b"), "UNIMPLEMENTED"),
        (types.ContainerPath(container_id="a"), types.ImageStore(name="b"), "UNIMPLEMENTED"),
        (types.ImageImportStream(stream="none"), types.ImageStore(name="docker.io/library/b:1"), "NOT_FOUND"),
        (plain(f"{served.address}/nothing:1"), types.ImageStore(name="b"), "NOT_FOUND"),
    ]:
        with pytest.raises(grpc.RpcError) as caught:
            transfer(api, source, destination)
        assert caught.value.code().name == code


def test_a_client_that_goes(daemon: PrivateDaemon, api: Api, tmp_path: Path) -> None:
    """In the middle of an import: the transfer ends, and nothing of it is left."""
    data = busybox_layout(tmp_path / "image.tar").path.read_bytes()
    stream = Stream(api)
    sending = threading.Thread(target=stream.write, args=(data[: len(data) // 2],))
    sending.start()
    with pytest.raises(grpc.RpcError) as caught:
        transfer(api, types.ImageImportStream(stream=stream.id), types.ImageStore(platforms=[HOST]))
    sending.join(20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert images(daemon) == {}
