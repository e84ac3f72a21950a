"""The spawner is killed from outside while it loads modules again: nobody but the killer is to blame."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from intermodal_core.spawner import Spawner

from tests.harness.waiting import until

SLOW = """
import os, time
while os.path.exists({hold!r}):
    time.sleep(0.005)
def exits(args, fds):
    return args[0]
"""


def test_outside_kills_during_a_preload_lose_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = tmp_path / "hold"
    (tmp_path / "im_slow.py").write_text(SLOW.format(hold=str(hold)))
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Spawner()
    try:
        made.preload("im_slow")
        hold.touch()
        os.kill(made.pid, signal.SIGKILL)
        for _ in range(4):
            until(lambda: (process := made._process) is not None and process.replaying() == "im_slow")
            pid = made.pid
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: made.pid != pid)  # type: ignore[misc]
        hold.unlink()
        with made.fork("im_slow:exits", [6], deadline=20) as child:
            assert child.wait(10) == 6
        assert made.modules == ("im_slow",)
    finally:
        pid = made.pid
        made.close()
        until(lambda: not Path(f"/proc/{pid}").exists())
