"""Further processes in a running container: `container.exec`."""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

from intermodal_api.containerd.services import containers_pb2, tasks_pb2
from intermodal_core.errors import IntermodalError
from intermodal_oci.spec import build_process

from intermodal import _api
from intermodal._async.channel import AsyncChannel
from intermodal._async.process import AsyncProcess
from intermodal._creation import as_any, as_arguments, as_environment
from intermodal._models import Output

READ_AHEAD: Final = 1 << 20
"""Bytes of output that are kept for a reader; past that the process waits."""


class AsyncExec:
    """Runs commands in one container."""

    def __init__(self, channel: AsyncChannel, container_id: str) -> None:
        self._channel, self._container_id = channel, container_id

    async def run(
        self,
        command: str | Sequence[str],
        *,
        input: bytes | str | None = None,
        environment: Mapping[str, str] | Sequence[str] = (),
        working_dir: str = "",
        user: str = "",
        tty: bool = False,
        timeout: float | None = None,
        check: bool = False,
    ) -> Output:
        """Run a command to its end and return its output.

        Args:
            command: its arguments; a text is a program's name without arguments (no shell splits it).
            input: what it reads from its standard input; None for none.
            environment: over the container's, as a mapping or `KEY=VALUE` items.
            working_dir: default: the container's.
            user: `USER[:GROUP]`; default: the container's.
            tty: give it a terminal; then all output is in `stdout`.
            timeout: seconds after which it is killed, and DeadlineExceeded raised.
            check: raise CommandFailed where its exit code is not 0.
        """
        process = await self.create(
            command, stdin=input is not None, environment=environment, working_dir=working_dir, user=user, tty=tty
        )
        async with process:
            await process.start()
            output = await process.communicate(input or b"", timeout)
        return output.check() if check else output

    async def create(
        self,
        command: str | Sequence[str],
        *,
        stdin: bool = False,
        environment: Mapping[str, str] | Sequence[str] = (),
        working_dir: str = "",
        user: str = "",
        tty: bool = False,
    ) -> AsyncProcess:
        """Add a process, to be started by its `start`; with `stdin` it can be written to. Otherwise as `run`.

        Raises FailedPrecondition or NotFound where the container does not run.
        """
        spec = await self._process_spec(command, environment, working_dir, user, tty)
        exec_id = f"exec-{secrets.token_hex(8)}"
        channel = self._channel
        stdio = channel.open_stdio(stdin=stdin, terminal=tty, limit=READ_AHEAD)
        request = tasks_pb2.ExecProcessRequest(
            container_id=self._container_id,
            exec_id=exec_id,
            stdin=stdio.stdin_path,
            stdout=stdio.stdout_path,
            stderr=stdio.stderr_path,
            terminal=tty,
            spec=as_any("Process", spec),
        )
        process = AsyncProcess(channel, self._container_id, exec_id, stdio)
        try:
            await channel.call(_api.TASK_EXEC, request)
        except BaseException:
            await process.close()  # a call that was given up may have come about
            raise
        return process

    async def _process_spec(
        self,
        command: str | Sequence[str],
        environment: Mapping[str, str] | Sequence[str],
        working_dir: str,
        user: str,
        tty: bool,
    ) -> dict[str, object]:
        request = containers_pb2.GetContainerRequest(id=self._container_id)
        container = (await self._channel.call(_api.CONTAINER_GET, request)).container
        rootfs = await self._rootfs() if user and os.geteuid() == 0 else None
        return build_process(
            json.loads(container.spec.value),
            as_arguments(command),
            env=as_environment(environment),
            cwd=working_dir,
            user=user,
            terminal=tty,
            rootfs=rootfs,
        )

    async def _rootfs(self) -> str | None:
        """The running container's root, where users are looked up; None where it cannot be seen from here."""
        try:
            request = tasks_pb2.GetRequest(container_id=self._container_id)
            pid = (await self._channel.call(_api.TASK_GET, request)).process.pid
        except IntermodalError:
            return None
        root = f"/proc/{pid}/root"
        return root if pid and os.path.isdir(root) else None
