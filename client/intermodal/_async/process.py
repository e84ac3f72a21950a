"""A process that the client is attached to: a container's init, or one that exec added."""

import time
from collections.abc import AsyncIterator
from typing import Final

from intermodal_api.containerd.services import tasks_pb2
from intermodal_core.errors import DeadlineExceeded, FailedPrecondition, IntermodalError, NotFound, Unavailable

from intermodal import _api, _signals
from intermodal._async.channel import AsyncChannel
from intermodal._models import Output
from intermodal._stdio import Chunk, Stdio
from intermodal._waiting import sleep_async, wait_async

DRAIN: Final = 10.0
CLEANUP: Final = 15.0
RETRY: Final = 0.02


class AsyncProcess:
    """A process and its standard streams. Iterating gives chunks of output until all of it has ended.

    `async with` ends its use: a process that exec added and that still runs is killed then, and forgotten by the
    daemon; a container's own process goes on, with nobody attached.
    """

    def __init__(self, channel: AsyncChannel, container_id: str, exec_id: str, stdio: Stdio) -> None:
        self._channel, self._stdio = channel, stdio
        self.container_id = container_id
        self.exec_id = exec_id
        """Empty for a container's init."""
        self.pid = 0
        """On the host; 0 before `start`."""
        self._forgotten = False
        self._input_over = not stdio.stdin_path

    async def start(self) -> None:
        """Run it. Raises what the runtime says, such as that there is no such program."""
        request = tasks_pb2.StartRequest(container_id=self.container_id, exec_id=self.exec_id)
        self.pid = (await self._channel.call(_api.TASK_START, request)).pid
        if self.exec_id:
            self._stdio.connected()

    async def read(self, timeout: float | None = None) -> Chunk | None:
        """The next chunk of output, or None at its end. Raises DeadlineExceeded."""
        return await wait_async(self._stdio.read(), timeout)

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        while (chunk := await self.read()) is not None:
            yield chunk

    async def write(self, data: bytes | str, timeout: float | None = None) -> None:
        """Write to its standard input, all of it. Raises FailedPrecondition where it takes none, DeadlineExceeded."""
        await wait_async(self._stdio.write(data.encode() if isinstance(data, str) else data), timeout)

    async def close_stdin(self) -> None:
        """Let it read the end of its input, after all that was written. May be called twice."""
        await self._end_input(None)

    async def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended. Raises DeadlineExceeded after `timeout` seconds; it runs on then."""
        request = tasks_pb2.WaitRequest(container_id=self.container_id, exec_id=self.exec_id)
        return (await self._channel.call(_api.TASK_WAIT, request, timeout=timeout)).exit_status

    async def kill(self, signal: int | str = "KILL") -> None:
        """Send it a signal, by number or name. Raises NotFound where it has ended."""
        request = tasks_pb2.KillRequest(
            container_id=self.container_id, exec_id=self.exec_id, signal=_signals.number(signal)
        )
        await self._channel.call(_api.TASK_KILL, request)

    async def resize(self, width: int, height: int) -> None:
        """Set the size of its terminal, in characters."""
        request = tasks_pb2.ResizePtyRequest(
            container_id=self.container_id, exec_id=self.exec_id, width=width, height=height
        )
        await self._channel.call(_api.TASK_RESIZE, request)

    async def communicate(self, input: bytes | str = b"", timeout: float | None = None) -> Output:
        """Write `input`, end its input, and wait for its end; return all output that was not read before.

        Raises DeadlineExceeded after `timeout` seconds; a process that exec added is killed then. Where it reads
        less than `input`, the rest is dropped.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        data = input.encode() if isinstance(input, str) else input
        if data and self._input_over:
            raise FailedPrecondition("The process has no standard input; ask for stdin=True when making it")
        self._stdio.read_all()
        if data:
            self._stdio.write(data)
        await self._end_input(_left(deadline))
        exit_code = await self.wait(_left(deadline))
        if self.exec_id:
            await self._forget()
        try:
            # A grandchild may hold the output open for good: what is there by now is what there is.
            await wait_async(self._stdio.finished, DRAIN)
        except DeadlineExceeded:
            pass
        stdout, stderr = self._stdio.take()
        return Output(exit_code, stdout, stderr)

    async def close(self) -> None:
        """End its use, as leaving `async with` does. May be called twice."""
        try:
            if self.exec_id and not self._forgotten:
                await self._kill_and_forget()
        finally:
            self._stdio.close()

    async def __aenter__(self) -> "AsyncProcess":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _end_input(self, timeout: float | None) -> None:
        if self._input_over:
            return
        await wait_async(self._stdio.end_input(), timeout)
        self._input_over = True
        request = tasks_pb2.CloseIORequest(container_id=self.container_id, exec_id=self.exec_id, stdin=True)
        try:
            await self._channel.call(_api.TASK_CLOSE_IO, request)
        except NotFound:
            pass  # it has ended

    async def _forget(self) -> None:
        request = tasks_pb2.DeleteProcessRequest(container_id=self.container_id, exec_id=self.exec_id)
        try:
            await self._channel.call(_api.TASK_DELETE_PROCESS, request)
        except NotFound:
            pass
        self._forgotten = True

    async def _kill_and_forget(self) -> None:
        """Until the daemon has forgotten it: a start that was given up may come about later than the first kill."""
        self._forgotten = True
        deadline = time.monotonic() + CLEANUP
        while time.monotonic() < deadline:
            try:
                await self.kill()
                await self.wait(CLEANUP)
            except IntermodalError:
                pass  # never started, or ended by itself
            try:
                await self._forget()
                return
            except Unavailable:
                return  # no daemon to tell
            except IntermodalError:
                await sleep_async(RETRY)


def _left(deadline: float | None) -> float | None:
    """Seconds until the deadline. Raises DeadlineExceeded where there are none."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded("The process did not end in time")
    return left
