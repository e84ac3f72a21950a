"""A container's life through the blocking client."""

import itertools
import os
from pathlib import Path

import pytest
from intermodal import (
    AlreadyExists,
    Client,
    CommandFailed,
    DeadlineExceeded,
    FailedPrecondition,
    IntermodalError,
    InvalidArgument,
    NotFound,
)

from tests.harness.images import busybox_layout


def test_life_of_a_container(ready: Client) -> None:
    container = ready.containers.create("life", image="busybox", labels={"app": "web"}, environment={"A": "b"})
    assert (container.name, container.status, container.pid, container.exit_code) == ("life", "created", 0, None)
    assert container.image == "docker.io/library/busybox:latest"
    assert container.labels == {"app": "web"}
    assert container.runtime == "io.containerd.runc.v2"
    assert container.namespace == ready.namespace
    container.start()
    assert container.status == "running"
    assert container.pids() == [container.pid]
    container.start()  # as it runs already: nothing happens
    container.pause()
    assert container.status == "paused"
    container.resume()
    assert container.status == "running"
    container.kill("TERM")
    container.kill()
    assert container.wait(10) == 137
    container.reload()
    assert (container.status, container.exit_code) == ("exited", 137)
    container.delete()
    with pytest.raises(NotFound):
        container.reload()


def test_a_stopped_container_starts_again_on_its_file_system(ready: Client) -> None:
    container = ready.containers.create("again", image="busybox")
    container.start()
    container.exec.run(["sh", "-c", "echo kept > /kept"], check=True)
    assert container.stop(timeout=0.1) == 137
    assert container.status == "exited"
    container.start()
    assert container.exec.run(["cat", "/kept"]).text == "kept\n"


def test_stop_sends_the_images_signal_and_waits(client: Client, tmp_path: Path) -> None:
    script = "trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done"
    archive = busybox_layout(
        tmp_path / "i.tar", ["sh", "-c", script], stop_signal="SIGUSR1", name="docker.io/library/s:1"
    )
    client.images.import_(archive.path)
    container = client.containers.create("stop", image="s:1")
    container.start()
    assert next(container.follow_logs()) == b"ready\n"
    assert container.stop(timeout=20) == 7
    assert container.stop() == 7


def test_logs_hold_both_streams_without_a_client(ready: Client) -> None:
    container = ready.containers.run("busybox", ["sh", "-c", "echo out; echo err >&2"], name="logs", detach=True)
    assert container.wait(10) == 0
    assert b"".join(container.follow_logs()) == container.logs()
    assert sorted(container.logs().split()) == [b"err", b"out"]


def test_logs_are_followed_to_the_end(ready: Client) -> None:
    container = ready.containers.create("follow", image="busybox", command=["sh", "-c", "echo 1; read x; echo 2"])
    container.start()
    pieces = container.follow_logs()
    assert next(pieces) == b"1\n"
    container.close_stdin()
    assert b"".join(pieces) == b"2\n"


def test_run_returns_output_and_removes(ready: Client) -> None:
    output = ready.containers.run("busybox", ["sh", "-c", "cat; echo no >&2; exit 3"], input="yes")
    assert (output.exit_code, output.text, output.error_text, str(output)) == (3, "yes", "no\n", "yes")
    with pytest.raises(CommandFailed, match="exit code 3: no"):
        output.check()
    assert ready.containers.list() == []
    ready.containers.run("busybox", ["true"], name="stays", remove=False)
    assert [each.name for each in ready.containers.list()] == ["stays"]
    assert ready.containers.list(all=False) == []


def test_run_out_of_time_leaves_nothing(ready: Client) -> None:
    with pytest.raises(DeadlineExceeded):
        ready.containers.run("busybox", ["sleep", "1000"], timeout=0.3)
    assert ready.containers.list() == []


def test_attach_before_start_streams_both_ways(ready: Client) -> None:
    container = ready.containers.create("attach", image="busybox", command=["sh"])
    with container.attach() as process:
        process.start()
        process.write("echo one; echo two >&2\n")
        # The two streams have no order between them.
        assert {process.read(10), process.read(10)} == {("stdout", b"one\n"), ("stderr", b"two\n")}
        process.write("exit 5\n")
        assert list(process) == []
        assert process.wait(10) == 5
    with container.attach() as process:
        process.start()
        with pytest.raises(DeadlineExceeded):
            process.read(0.1)
    assert container.exec.run(["true"]).exit_code == 0
    with pytest.raises(FailedPrecondition, match="attach before start"):
        container.attach()


def test_a_terminal(ready: Client) -> None:
    container = ready.containers.create(
        "tty", image="busybox", tty=True, command=["sh", "-c", "tty; read x; echo got $x"]
    )
    with container.attach() as process:
        process.start()
        process.resize(100, 40)
        assert process.read(10) == ("stdout", b"/dev/pts/0\r\n")
        process.write("it\n")
        assert b"".join(chunk.data for chunk in process) == b"it\r\ngot it\r\n"
        assert process.wait(10) == 0
    container.start()
    assert container.stop(timeout=0.1) in (129, 137)
    assert container.logs().startswith(b"/dev/pts/0\r\n")


def test_options_reach_the_container(ready: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from outside\n")
    container = ready.containers.create(
        "options",
        image="busybox",
        hostname="host1",
        user="guest",
        working_dir="/tmp",
        environment=["K=V"],
        volumes=[f"{tmp_path}:/data:ro"],
        memory="64m",
        cpus=0.5,
        read_only=True,
    )
    container.start()
    run = container.exec.run
    assert run(["hostname"]).text == "host1\n"
    assert run(["id", "-un"]).text == "guest\n"
    assert run(["sh", "-c", "pwd; echo $K"]).text == "/tmp\nV\n"
    assert run(["cat", "/data/file"], user="root").text == "from outside\n"
    assert run(["touch", "/data/x"], user="root").exit_code == 1
    assert run(["touch", "/x"], user="root").exit_code == 1
    assert container.stats().memory_limit == 64 << 20
    assert run(["ls", "/sys/class/net"]).text == "lo\n"


def test_host_network(ready: Client) -> None:
    output = ready.containers.run("busybox", ["readlink", "/proc/self/ns/net"], network="host")
    assert output.text.strip() == os.readlink("/proc/self/ns/net")


def test_stats_count(ready: Client) -> None:
    container = ready.containers.create("stats", image="busybox")
    with pytest.raises(NotFound):
        container.stats()
    container.start()
    stats = container.stats()
    assert stats.pids >= 1  # the runtime's own threads may still be there
    assert stats.memory > 0
    assert stats.cpu_ns > 0


def test_labels_and_filters(ready: Client) -> None:
    for name, app in (("a", "web"), ("b", "db"), ("c", "web")):
        ready.containers.create(name, image="busybox", labels={"app": app, "x": "y"})
    assert [each.name for each in ready.containers.list(["labels.app==web"])] == ["a", "c"]
    container = ready.containers.get("a")
    container.set_labels({"app": "db", "x": ""})
    assert ready.containers.get("a").labels == {"app": "db"}


def test_a_running_container_is_deleted_by_force_only(ready: Client) -> None:
    container = ready.containers.run("busybox", detach=True)
    container.pause()
    with pytest.raises(FailedPrecondition, match="force=True"):
        container.delete()
    container.delete(force=True)
    assert ready.containers.list() == []


def test_what_fails_leaves_nothing(ready: Client) -> None:
    with pytest.raises(InvalidArgument, match="Identifier"):
        ready.containers.create("no/slash", image="busybox")
    with pytest.raises(InvalidArgument, match="nobody-here"):
        ready.containers.create("user", image="busybox", user="nobody-here")
    with pytest.raises(InvalidArgument, match="no command"):
        ready.containers.create("empty", image="busybox", entrypoint=[])
    ready.containers.create("user", image="busybox")
    with pytest.raises(AlreadyExists):
        ready.containers.create("user", image="busybox")
    with pytest.raises(IntermodalError, match="absent"):
        ready.containers.run("busybox", ["absent"])
    broken = ready.containers.create("broken", image="busybox", command=["absent"])
    for _ in range(2):
        with pytest.raises(IntermodalError, match="absent"):
            broken.start()
        assert broken.status == "created"
    assert sorted(each.name for each in ready.containers.list()) == ["broken", "user"]


def test_not_found_names_other_namespaces(ready: Client, in_another_namespace: Client) -> None:
    ready.containers.create("here", image="busybox")
    with pytest.raises(NotFound, match=f"no container here in .*; it is in the namespace {ready.namespace}$"):
        in_another_namespace.containers.get("here")
    with pytest.raises(NotFound, match=f"busybox:latest in .*; it is in the namespace {ready.namespace}$"):
        in_another_namespace.containers.create("x", image="busybox")
    with pytest.raises(NotFound, match=f"in the namespace {ready.namespace}$"):
        ready.containers.get("nowhere")


def test_many_at_once_from_threads(ready: Client) -> None:
    from concurrent.futures import ThreadPoolExecutor

    container = ready.containers.run("busybox", detach=True)
    with ThreadPoolExecutor(8) as pool:
        numbers = [str(number) for number in range(24)]
        outputs = pool.map(lambda number: container.exec.run(["echo", number]).text.strip(), numbers)
        assert list(itertools.islice(outputs, 24)) == numbers
