"""The first example of the manual, run as it stands."""

import os
import subprocess
import sys
from pathlib import Path

from intermodal import Client

EXAMPLE = """\
import intermodal
client = intermodal.from_env()
container = client.containers.create("my-container", image="busybox:latest")
container.start()
output = container.exec.run(["echo", "Hello World!"])
"""


def test_the_example_runs_verbatim(ready: Client) -> None:
    environment = {**os.environ, "INTERMODAL_ADDRESS": ready.address, "INTERMODAL_NAMESPACE": ready.namespace}
    streams = set(Path("/run/intermodal-client").glob("io-*"))
    script = EXAMPLE + "print(output, output.exit_code, output.stdout, output.stderr)\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("Hello World!\n 0 b'Hello World!\\n' b''\n", "")
    # Without a close, too, nothing of the command's streams stays.
    assert set(Path("/run/intermodal-client").glob("io-*")) <= streams

    # The shell waits for its input still, though the client that made it is gone.
    with Client(ready.address, ready.namespace) as same_as_there:
        container = same_as_there.containers.get("my-container")
        assert container.status == "running"
        container.close_stdin()
        assert container.wait(10) == 0
        container.delete()


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = "import sys, intermodal; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=30, check=True)
    loaded = set(done.stdout.split())
    assert "intermodal" in loaded
    assert not {name for name in loaded if name.split(".")[0] in ("grpc", "google", "msgspec", "asyncio", "typing")}
    assert not {name for name in loaded if name.startswith(("intermodal.", "intermodal_"))}
