"""imod without a daemon: what it imports, its help, its options, what it makes of log files."""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from intermodal.cli import main, options
from intermodal.cli.errors import DaemonError, Failure
from intermodal.cli.foreground import _by_meaning
from intermodal.cli.logs import LogFile, Printer
from intermodal.cli.output import age, table, utc

IMOD = Path(sys.executable).parent / "imod"
NOWHERE = "/nonexistent/intermodal.sock"
SUBCOMMANDS = {
    "network": ("ls", "create", "rm", "inspect", "connect", "disconnect", "prune"),
    "images": ("import", "from-rootfs", "ls", "rm"),
    "plugins": ("ls", "inspect", "why", "reload", "graph", "rescan"),
    "config": ("default", "schema", "check", "migrate", "show", "explain", "reload"),
}


def imod(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    env = {key: value for key, value in os.environ.items() if not key.startswith("INTERMODAL_")} | environment
    return subprocess.run([IMOD, *arguments], capture_output=True, text=True, timeout=60, env=env, check=False)


# What is imported.


@pytest.mark.parametrize(
    "command", [["run", "--rm", "busybox", "true"], ["exec", "c", "true"], ["ps"], ["images", "ls"]]
)
def test_no_heavy_module_is_imported(command: list[str]) -> None:
    script = (
        "import sys\nfrom intermodal.cli.main import main\n"
        f"status = main(['--address', {NOWHERE!r}, *{command!r}])\n"
        "print(status, *sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    status, *modules = done.stdout.split()
    assert status == "125"
    assert "intermodal.cli.channel" in modules, "the call was begun"
    packages = {module.partition(".")[0] for module in modules}
    assert not packages & {
        "rich",
        "msgspec",
        "google",
        "grpc",
        "pluggy",
        "shtab",
        "intermodal_api",
        "subprocess",
        "asyncio",
    }


def test_only_the_named_commands_module_is_imported() -> None:
    script = "import sys\nfrom intermodal.cli.main import main\nmain(['version', '--help'])"
    script = f"import atexit, sys\natexit.register(lambda: print(*sys.modules, sep=chr(10)))\n{script}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    ours = {line for line in done.stdout.splitlines() if line.startswith("intermodal.cli.")}
    assert ours == {"intermodal.cli.main", "intermodal.cli.errors", "intermodal.cli.version"}


# Help and mistakes.


def helps() -> list[list[str]]:
    return [[], *([name] for name in main.COMMANDS), *([a, b] for a, below in SUBCOMMANDS.items() for b in below)]


@pytest.mark.parametrize("words", helps(), ids=" ".join)
def test_help_fits_one_screen(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main.main([*words, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("usage: imod")
    assert len(shown) <= (24 if words else 40)  # the list of commands may take a taller one
    assert max(map(len, shown)) <= 80


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["--help"])
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {name}  ", shown, re.MULTILINE) for name in main.COMMANDS)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "no command was given; see imod --help"),
        (["rnu"], "there is no command rnu; did you mean run?"),
        (["run"], "the following arguments are required: IMAGE, COMMAND; see imod run --help"),
        (["run", "--memory", "lots", "i"], "argument --memory: 'lots' is no size: write bytes, or 512m, 1g; see imod run --help"),
        (["exec", "c"], "exec needs a command to run in the container; see imod exec --help"),
        (["run", "-d", "-i", "i"], "-d leaves the container running without us, and -i passes our stdin on: choose one"),
        (["kill", "-s", "NOPE", "c"], "argument -s/--signal: There is no signal 'NOPE'"),
        (["--root", "/x", "ps"], "--root and --state go with --embedded; a daemon that runs has its own"),
        (["ps", "-q", "-o", "json"], "argument -o/--output: not allowed with argument -q/--quiet"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_on_stderr(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(words) == 125
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("imod: ")
    assert sentence.split(": IMAGE")[0] in said.err
    assert len(said.err.splitlines()) == 1


def test_no_daemon_says_how_to_start_it() -> None:
    done = imod("ps", INTERMODAL_ADDRESS=NOWHERE)
    assert done.returncode == 125
    assert done.stdout == ""
    assert done.stderr == (
        f"imod: no daemon listens at {NOWHERE}: start it (systemctl start intermodal, or intermodald &), "
        "or use imod --embedded, or name another with --address\n"
    )


def test_version_needs_no_daemon() -> None:
    assert re.fullmatch(r"imod \d+\.\d+\.\d+\n", imod("--version").stdout)
    done = imod("--address", NOWHERE, "version")
    assert done.returncode == 0
    assert "intermodald (none: no daemon listens" in done.stdout


def test_a_reader_that_goes_is_no_traceback() -> None:
    process = subprocess.Popen([IMOD, "completion", "zsh"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


# Options.


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("1k", 1024), ("512m", 512 << 20), ("1g", 1 << 30), ("1.5GiB", 3 << 29), ("2GB", 2 << 30), ("64M", 64 << 20), ("7b", 7)],
)  # fmt: skip
def test_memory(text: str, value: int) -> None:
    assert options.memory(text) == value


@pytest.mark.parametrize("text", ["", "0", "-1", "m", "1x", "1mm", "nan", "inf", "1e30", "b", "1 g", " 1", "1ib2"])
def test_memory_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        options.memory(text)


@pytest.mark.parametrize("text", ["0", "-1", "x", "nan", "inf"])
def test_cpus_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        options.cpus(text)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "a=b")
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert options.environment("K=V=W") == "K=V=W"
    assert options.environment("K=") == "K="
    assert options.environment("HERE") == "HERE=a=b"
    assert options.environment("NOT_HERE") == ""
    with pytest.raises(argparse.ArgumentTypeError):
        options.environment("=V")


def test_bind_mounts() -> None:
    here = os.getcwd()
    assert options.bind_mount("/a:/b") == {"source": "/a", "target": "/b", "readonly": False}
    assert options.bind_mount("./a:/b:ro") == {"source": f"{here}/a", "target": "/b", "readonly": True}
    assert options.bind_mount("/a:/b:rw")["readonly"] is False


@pytest.mark.parametrize("text", ["/a", "/a:b", ":/b", "/a:", "/a:/b:no", "/a:/b:ro:x"])
def test_bind_mounts_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        options.bind_mount(text)


def test_the_containers_options_are_not_ours() -> None:
    parsed = main.command_parser("run").parse_args(
        ["--rm", "-it", "-e", "A=1", "image", "sh", "-c", "x --rm", "--", "-t"]
    )
    assert (parsed.rm, parsed.interactive, parsed.tty) == (True, True, True)
    assert parsed.env == ["A=1"]
    assert parsed.args == ["sh", "-c", "x --rm", "--", "-t"]
    parsed = main.command_parser("exec").parse_args(["c", "ls", "-i"])
    assert (parsed.interactive, parsed.args) == (False, ["ls", "-i"])


# Output.


def test_tables_are_aligned_and_show_no_control_characters() -> None:
    shown = table(["NAME", "WHY"], [["a", "first"], ["longer", "two\nlines \x1b[31m"], ["b", ""]])
    assert shown.splitlines() == ["NAME    WHY", "a       first", "longer  two\\nlines \\x1b[31m", "b"]


def test_times() -> None:
    assert utc(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"
    assert age(0) == ""
    assert age(1) == "56 years" or age(1).endswith(" years")


@pytest.mark.parametrize(
    ("sentence", "status"),
    [
        ('exec: "nope": executable file not found in $PATH: unknown', 127),
        ("exec /nope: no such file or directory", 127),
        ("exec: /etc/passwd: permission denied", 126),
        ("exec: /etc: is a directory", 126),
        ("the name x is taken", 125),
    ],
)
def test_statuses_of_commands_that_cannot_run(sentence: str, status: int) -> None:
    assert _by_meaning(DaemonError(sentence, "invalid_argument", 3)).status == status


# Logs.


def log_file(tmp_path: Path, text: bytes) -> LogFile:
    path = tmp_path / "log"
    path.write_bytes(text)
    return LogFile(os.open(path, os.O_RDONLY))


ENTRIES = (
    b"2026-01-01T00:00:00.000000001Z stdout F one\n"
    b"2026-01-01T00:00:00.000000002Z stdout P tw\n"
    b"2026-01-01T00:00:00.000000003Z stderr F bad  spaces \n"
    b"2026-01-01T00:00:00.000000004Z stdout F o\n"
    b"2026-01-01T00:00:00.000000005Z stdout F \n"
    b"2026-01-01T00:00:00.000000006Z stdout P half"
)


def printed(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], timestamps: bool, tail: int
) -> tuple[bytes, bytes]:
    printer = Printer(timestamps, tail)
    file = log_file(tmp_path, ENTRIES)
    for entry in file.entries():
        printer.put(*entry)
    file.close()
    printer.release()
    printer.end()
    return capfdbinary.readouterr()


def test_logs_as_they_were(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert printed(tmp_path, capfdbinary, False, -1) == (b"one\ntwo\n\n", b"bad  spaces \n")


def test_logs_with_times(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    out, err = printed(tmp_path, capfdbinary, True, -1)
    assert out.splitlines()[1] == b"2026-01-01T00:00:00.000000002Z two"
    assert err == b"2026-01-01T00:00:00.000000003Z bad  spaces \n"


def test_the_last_lines(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert printed(tmp_path, capfdbinary, False, 2) == (b"two\n\n", b"")
    assert printed(tmp_path, capfdbinary, False, 0) == (b"", b"")


def test_an_entry_half_written_waits(tmp_path: Path) -> None:
    file = log_file(tmp_path, b"t stdout F on")
    assert list(file.entries()) == []
    with open(tmp_path / "log", "ab") as more:
        more.write(b"e\nt stdout P tw")
    assert list(file.entries()) == [(b"t", b"stdout", True, b"one")]
    file.close()


# The config, offline, and completion.


def test_the_default_config_is_right(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(imod("config", "default").stdout)
    assert "[managers.tasks]" in path.read_text()
    done = imod("config", "check", str(path))
    assert (done.returncode, done.stdout) == (0, f"{path}: right\n")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("version = 1\nlog_levle = 'info'\n", ":2: "),
        ("version = 1\n[managers.tasks]\nlog_file = 3\n", ":3: "),
        ("version = 1\n\n[runtimes.gvisor]\nplugin = 'nope'\n", ":4: "),
        ("version = 1\n[default]\nruntime = 'runc'\n", ":2: "),
        ("version = 1\n[defaults]\nruntme = 'runc'\n", ":3: "),
        ("log_level = 'info'\n", "version"),
    ],
)
def test_a_mistake_in_the_config_is_found(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    done = imod("config", "check", str(path))
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert where in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command(shell: str) -> None:
    script = imod("completion", shell).stdout
    assert all(name in script for name in main.COMMANDS)
    assert "from-rootfs" in script
    assert "--snapshotter" in script


def test_bash_reads_the_completion(tmp_path: Path) -> None:
    (tmp_path / "imod").write_text(imod("completion", "bash").stdout)
    subprocess.run(["bash", "-n", tmp_path / "imod"], check=True, timeout=10)


def test_an_answer_cut_off_is_a_failure(tmp_path: Path) -> None:
    import socket

    from intermodal.cli.channel import Call

    address = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{address}.control")
        server.listen()

        def answer() -> None:
            client, _ = server.accept()
            with client:
                assert json.loads(client.recv(4096)) == {"method": "version", "namespace": "default"}
                client.sendall(b'{"event": 1}\n{"resu')

        thread = threading.Thread(target=answer)
        thread.start()
        seen: list[object] = []
        with Call(address, "version", "default") as call, pytest.raises(Failure, match="the daemon ended"):
            call.result(lambda line, _: seen.append(line))
        thread.join(10)
    assert seen == [{"event": 1}]
