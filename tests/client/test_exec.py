"""Further processes in a container: streams without loss, deadlines, users."""

import hashlib
import os
from pathlib import Path

import pytest
from intermodal import Client, CommandFailed, Container, DeadlineExceeded, FailedPrecondition, IntermodalError


@pytest.fixture
def container(ready: Client) -> Container:
    return ready.containers.run("busybox", name="box", detach=True)


def test_large_output_and_input_arrive_whole(container: Container) -> None:
    data = os.urandom(3 << 20)
    output = container.exec.run(["sh", "-c", "tee /copy | sha256sum >&2; cat /copy"], input=data)
    assert output.stdout == data
    assert output.error_text.split()[0] == hashlib.sha256(data).hexdigest()


def test_a_process_that_ignores_its_input(container: Container) -> None:
    assert container.exec.run(["true"], input=b"x" * (1 << 20)).exit_code == 0
    assert container.exec.run(["cat"], input=b"").stdout == b""


def test_without_input_the_command_reads_an_end(container: Container) -> None:
    assert container.exec.run(["cat"]).exit_code == 0


def test_backpressure_and_reading_in_pieces(container: Container) -> None:
    with container.exec.create(["sh", "-c", "yes | head -c 5000000; echo end >&2"]) as process:
        process.start()
        sizes = {"stdout": 0, "stderr": 0}
        for chunk in process:
            sizes[chunk.stream] += len(chunk.data)
        assert sizes == {"stdout": 5_000_000, "stderr": 4}
        assert process.wait(10) == 0


def test_a_conversation(container: Container) -> None:
    with container.exec.create(["sh", "-c", "while read x; do echo [$x]; done; exit 9"], stdin=True) as process:
        process.start()
        for word in ("one", "two"):
            process.write(word + "\n")
            assert process.read(10) == ("stdout", f"[{word}]\n".encode())
        process.close_stdin()
        process.close_stdin()
        assert process.read(10) is None
        assert process.wait(10) == 9
        with pytest.raises(FailedPrecondition):
            process.write("more")


def test_leaving_the_block_kills(container: Container) -> None:
    with container.exec.create(["sleep", "1000"]) as process:
        process.start()
        assert process.pid in container.pids()
    assert container.pids() == [container.pid]


def test_closing_the_client_closes_what_is_open(ready: Client, container: Container) -> None:
    process = container.exec.create(["sleep", "1000"], stdin=True)
    process.start()
    directory = Path(ready._channel.io.base())
    before = set(os.listdir("/proc/self/fd"))
    assert len(list(directory.glob("io-*"))) == 1
    ready.close()
    assert list(directory.glob("io-*")) == []
    assert len(os.listdir("/proc/self/fd")) <= len(before) - 3
    ready.close()


def test_out_of_time(container: Container) -> None:
    with pytest.raises(DeadlineExceeded):
        container.exec.run(["sleep", "1000"], timeout=0.3)
    with pytest.raises(DeadlineExceeded):
        container.exec.run(["sleep", "1000"], input=b"x" * (1 << 20), timeout=0.3)
    assert container.pids() == [container.pid]


def test_output_of_a_grandchild_that_stays(container: Container) -> None:
    output = container.exec.run(["sh", "-c", "sleep 1000 & echo started"])
    assert output.text == "started\n"


def test_a_terminal(container: Container) -> None:
    output = container.exec.run(["sh", "-c", "tty; echo err >&2"], tty=True)
    assert output.stdout.startswith(b"/dev/pts/")
    assert output.stdout.endswith(b"err\r\n")
    assert output.stderr == b""


def test_user_directory_and_environment(container: Container) -> None:
    command = ["sh", "-c", "id -u; id -G; pwd; echo $K"]
    output = container.exec.run(command, user="guest", working_dir="/tmp", environment={"K": "V"})
    assert output.text == "1000\n1000 1001\n/tmp\nV\n"


def test_kill(container: Container) -> None:
    with container.exec.create(["sleep", "1000"]) as process:
        process.start()
        process.kill("SIGINT")
        assert process.wait(10) == 130


def test_failures_are_errors_by_meaning(container: Container) -> None:
    with pytest.raises(IntermodalError, match="absent"):
        container.exec.run(["absent"])
    with pytest.raises(CommandFailed) as caught:
        container.exec.run(["sh", "-c", "echo why >&2; exit 2"], check=True)
    assert caught.value.output.exit_code == 2
    container.stop(timeout=0.1)
    with pytest.raises(IntermodalError):
        container.exec.run(["true"])
