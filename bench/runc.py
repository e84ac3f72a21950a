"""The floor: runc's own commands, with no daemon and no shim."""

from __future__ import annotations

import io
import json
import os
import secrets
import select
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.peers import clear_cgroups
from tests.harness.images import busybox_layer


class BareRunc:
    """Runs `true` with runc create, start and delete, in the spec that a daemon's container would have."""

    def __init__(self, directory: Path, spec: Mapping[str, Any]) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="runc-", dir=directory)
        self._bundle = Path(self._directory.name)
        self._cgroups = f"bench-{secrets.token_hex(4)}"
        self._numbers = count()
        self._spec = {**spec, "root": {"path": "rootfs"}, "process": {**spec["process"], "args": ["true"]}}
        with tarfile.open(fileobj=io.BytesIO(busybox_layer())) as tar:
            tar.extractall(self._bundle / "rootfs", filter="tar")

    def run(self) -> None:
        name = f"r{next(self._numbers)}"
        linux = {**self._spec["linux"], "cgroupsPath": f"/{self._cgroups}/{name}"}
        (self._bundle / "config.json").write_text(json.dumps({**self._spec, "linux": linux}))
        pid_file = self._bundle / "pid"
        self._runc("create", "--bundle", str(self._bundle), "--pid-file", str(pid_file), name)
        process = os.pidfd_open(int(pid_file.read_text()))
        try:
            self._runc("start", name)
            if not select.select([process], [], [], 30)[0]:
                raise RuntimeError(f"the container {name} of bare runc does not end")
        finally:
            os.close(process)
        self._runc("delete", name)

    def __enter__(self) -> BareRunc:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        clear_cgroups(self._cgroups)
        self._directory.cleanup()

    def _runc(self, *arguments: str) -> None:
        # Its init inherits the standard streams, so they cannot be pipes that are read to their end. A wait with a
        # timeout would poll, and make the floor up to twice as high as it is.
        null = subprocess.DEVNULL
        command = ["runc", "--root", str(self._bundle / "state"), *arguments]
        with subprocess.Popen(command, stdin=null, stdout=null, stderr=null) as process:
            guard = threading.Timer(60, process.kill)
            guard.start()
            status = process.wait()
            guard.cancel()
        if status:
            raise RuntimeError(f"{' '.join(command)} ended with {status}")
