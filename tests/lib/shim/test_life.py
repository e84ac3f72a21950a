"""The life of a task under the shim, with the real runc."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.runtimes import Stdio
from intermodal_core.errors import NotFound


def test_create_start_wait_delete(make_bundle: Callable[..., Path], with_daemon: Any, tmp_path: Path) -> None:
    bundle = make_bundle("one", "sh", "-c", "echo out; echo err >&2; exit 7")
    out = tmp_path / "out.txt"

    async def body(daemon: Any) -> None:
        runtime = daemon.runtime
        task = await daemon.create(bundle, Stdio(stdout=f"file://{out}", stderr=f"file://{out}"))
        state = await runtime.state(task)
        assert (state.status, state.bundle) == ("created", str(bundle))
        assert state.pid > 1
        assert await runtime.start(task) == state.pid
        ended = await runtime.wait(task)
        assert ended.status == 7
        told = await daemon.event("/tasks/exit")
        assert (told.container_id, told.id, told.pid, told.exit_status) == ("one", "one", state.pid, 7)
        assert told.exited_at.ToNanoseconds() == ended.exited_at
        assert (await runtime.state(task)).status == "stopped"
        deleted = await runtime.delete(task)
        assert (deleted.pid, deleted.status, deleted.exited_at) == (state.pid, 7, ended.exited_at)
        assert sorted(out.read_text().split()) == ["err", "out"]
        with pytest.raises(NotFound):
            await runtime.state(task)

    with_daemon(body)
