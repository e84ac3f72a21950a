"""A daemon that dies when it is told to, and comes back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.harness.daemon import PrivateDaemon

__all__ = ["Mortal"]

LAUNCHER = Path(__file__).with_name("launcher.py")


class Mortal(PrivateDaemon):
    """A daemon that dies `within` so many steps once it is told to."""

    def __init__(self, config: str = "", directory: Path | None = None) -> None:
        super().__init__(config, start=False, directory=directory)
        self.order = self.base / "steps"
        self._command = [sys.executable, str(LAUNCHER), f"@{self.order}", "intermodal_core.daemon:main"]
        self.start()

    def within(self, steps: int, fine: bool = False) -> None:
        """From now on it has `steps - 1` steps to live."""
        order = self.order.with_suffix(".new")
        order.write_text(f"{steps} fine" if fine else str(steps))
        order.rename(self.order)

    def died(self, seconds: float = 0.0) -> bool:
        """Whether it has; it is looked after for `seconds`."""
        assert self.process is not None
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def step(self) -> str:
        """The step before which it died."""
        return self.tail().rpartition("killed before step ")[2].partition(": ")[2].partition("\n")[0]

    def again(self) -> None:
        """A new one where the last one died."""
        self.kill9()
        self.order.unlink(missing_ok=True)
        # Two ends while a plugin is made ready are put down to it, and here every round is an end.
        shutil.rmtree(self.state / "initialising", ignore_errors=True)
        self.start()
