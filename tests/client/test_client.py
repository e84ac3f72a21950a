"""The client itself: where it connects, namespaces, events, errors."""

import queue
import threading
import time
from pathlib import Path

import intermodal
import pytest
from intermodal import AlreadyExists, Client, Event, InvalidArgument, NotFound, Unavailable, events
from intermodal._address import address_from, namespace_from

from tests.harness.containerd import Containerd
from tests.harness.daemon import PrivateDaemon


def test_environment() -> None:
    assert address_from({}) == "/run/intermodal/intermodal.sock"
    assert address_from({"CONTAINERD_ADDRESS": "/c"}) == "/c"
    assert address_from({"CONTAINERD_ADDRESS": "/c", "INTERMODAL_ADDRESS": "/i"}) == "/i"
    assert namespace_from({}) == "default"
    assert namespace_from({"CONTAINERD_NAMESPACE": "c"}) == "c"
    assert namespace_from({"CONTAINERD_NAMESPACE": "c", "INTERMODAL_NAMESPACE": "i"}) == "i"


def test_from_env(daemon_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERMODAL_ADDRESS", f"unix://{daemon_address}")
    monkeypatch.setenv("INTERMODAL_NAMESPACE", "elsewhere")
    with intermodal.from_env() as client:
        assert (client.address, client.namespace) == (daemon_address, "elsewhere")
        assert client.ping() is True


def test_bad_addresses(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="unix socket"):
        Client("tcp://127.0.0.1:1")
    with pytest.raises(InvalidArgument, match="Identifier"):
        Client(namespace="a b")
    with Client(str(tmp_path / "none.sock")) as client, pytest.raises(Unavailable, match="INTERMODAL_ADDRESS"):
        client.ping()


def test_a_daemon_that_comes_late_is_found_at_once(tmp_path: Path) -> None:
    with Containerd() as daemon:
        daemon.stop()
        with Client(daemon.address, directory=str(tmp_path)) as client:
            for _ in range(5):  # by now gRPC itself would pause between attempts
                with pytest.raises(Unavailable):
                    client.ping()
            daemon.start()
            assert client.ping() is True


def test_version_and_plugins(client: Client) -> None:
    assert client.version().version
    plugins = client.plugins(["type==io.containerd.snapshotter.v1"])
    assert {"overlayfs", "native"} <= {plugin.id for plugin in plugins if not plugin.error}


def test_namespaces(client: Client) -> None:
    name = f"{client.namespace}-made"
    made = client.namespaces.create(name, {"a": "b"})
    assert client.namespaces.get(name) == made
    with pytest.raises(AlreadyExists):
        client.namespaces.create(name)
    assert client.namespaces.set_labels(name, {"c": "d"}).labels == {"a": "b", "c": "d"}
    assert name in [each.name for each in client.namespaces.list()]
    client.namespaces.delete(name)
    assert not client.namespaces.exists(name)
    with pytest.raises(NotFound):
        client.namespaces.get(name)


def test_a_second_namespace_is_apart(ready: Client) -> None:
    with ready.with_namespace(f"{ready.namespace}-b") as other:
        assert other.namespace == f"{ready.namespace}-b"
        assert other.images.list() == []
    assert ready.images.exists("busybox")  # closing the second leaves the first connected


def test_closing_twice_and_using_again(daemon_address: str) -> None:
    client = Client(daemon_address)
    client.close()
    client.close()


def test_events_of_a_containers_life(ready: Client) -> None:
    seen: list[Event] = []
    subscribed, done = threading.Event(), threading.Event()

    def listen() -> None:
        for event in ready.events():
            subscribed.set()
            seen.append(event)
            if isinstance(event.message, events.ContainerDelete):
                done.set()
                return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    for number in range(100):
        # A subscription has no answer of its own: something that it shows proves that it is there.
        ready.images.get("busybox").tag(f"probe:{number}")
        if subscribed.wait(0.1):
            break
    ready.containers.run("busybox", ["sh", "-c", "exit 3"], name="watched")
    assert done.wait(20)
    thread.join(10)
    assert {event.namespace for event in seen} == {ready.namespace}
    topics = [event.topic for event in seen if event.topic.startswith(("/tasks", "/containers"))]
    assert topics == [
        "/containers/create",
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
        "/containers/delete",
    ]
    (exit_event,) = [event.message for event in seen if isinstance(event.message, events.TaskExit)]
    assert (exit_event.container_id, exit_event.exit_status) == ("watched", 3)
    assert all(event.message is not None and not event.gap for event in seen)


def test_events_go_on_when_the_daemon_was_gone(tmp_path: Path) -> None:
    with Containerd() as daemon, Client(daemon.address, "default", directory=str(tmp_path)) as client:
        seen: queue.Queue[Event] = queue.Queue()

        def listen() -> None:
            for event in client.events():
                seen.put(event)
                if event.topic == "/namespaces/delete":
                    return

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        first = _made_until_seen(client, seen)
        assert not first.gap
        daemon.stop()
        daemon.start()
        while not seen.empty():
            seen.get()
        # containerd numbers nothing, so the client cannot know what it missed, and says so.
        assert _made_until_seen(client, seen).gap
        client.with_namespace("other").namespaces.create("default-x")
        for each in client.namespaces.list():
            client.namespaces.delete(each.name)
        thread.join(20)
        assert not thread.is_alive()


def test_events_are_replayed_where_the_daemon_keeps_them(daemon: PrivateDaemon, tmp_path: Path) -> None:
    with Client(daemon.address, "default", directory=str(tmp_path)) as client:
        seen: queue.Queue[Event] = queue.Queue()

        def listen(since: int) -> None:
            for event in client.events(['topic=="/namespaces/create"'], since=since, all_namespaces=True):
                seen.put(event)
                if event.namespace == "last":
                    return

        client.namespaces.create("first")
        threading.Thread(target=listen, args=(0,), daemon=True).start()
        for number in range(200):
            client.namespaces.create(f"probe-{number}")
            try:
                start = seen.get(timeout=0.1)
                break
            except queue.Empty:
                continue
        assert start.sequence > 0
        daemon.restart()
        with Client(daemon.address, "default", directory=str(tmp_path)) as other:
            for name in ("while-it-was-away", "last"):
                other.namespaces.create(name)
        after = [seen.get(timeout=20)]
        while after[-1].namespace != "last":
            after.append(seen.get(timeout=20))
        assert [event.namespace for event in after][-2:] == ["while-it-was-away", "last"]
        assert not any(event.gap for event in after)
        # Whoever remembers a sequence gets what came after it, in order, also in another process.
        listen(start.sequence)
        replayed = [seen.get(timeout=1) for _ in range(seen.qsize())]
        assert [event.sequence for event in replayed] == sorted({event.sequence for event in replayed})
        assert [event.namespace for event in replayed][-2:] == ["while-it-was-away", "last"]


def _made_until_seen(client: Client, seen: "queue.Queue[Event]") -> Event:
    """The first event of a subscription, which has no answer of its own: make some until one is seen."""
    for _ in range(200):
        try:
            client.namespaces.set_labels("default", {"probe": str(time.monotonic_ns())})
        except NotFound:
            client.namespaces.create("default")
        except Unavailable:
            pass  # the first call after the daemon was gone finds the old connection
        try:
            return seen.get(timeout=0.1)
        except queue.Empty:
            continue
    raise AssertionError("no event was seen")


def test_event_filters(ready: Client) -> None:
    seen: list[Event] = []
    ended = threading.Event()

    def listen() -> None:
        for event in ready.events(['topic=="/images/delete"', 'topic~="^/containers/"']):
            seen.append(event)
            if event.topic == "/containers/create":
                ended.set()
                return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    for _ in range(100):
        ready.images.get("busybox").tag("probe:1")
        ready.images.delete("probe:1")
        if seen:
            break
        ended.wait(0.1)
    ready.containers.create("filtered", image="busybox")
    assert ended.wait(10)
    thread.join(10)
    assert {event.topic for event in seen} == {"/images/delete", "/containers/create"}
