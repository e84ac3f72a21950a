"""Progress of long calls: bars on a terminal, nothing in a pipe."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rich.progress import Progress, TaskID

__all__ = ["Bars"]


class Bars:
    """Within the `with`, `handle` takes the lines of a call and shows those that tell of progress."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __enter__(self) -> Bars:
        if sys.stdout.isatty() and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def handle(self, line: dict[str, Any], _: list[int]) -> None:
        """For `Call.result`."""
        if self._progress is None or "progress" not in line:
            return
        told = line["progress"]
        key = told["action"], told["name"]
        done, total = told.get("done", 0), told.get("total", 0) or None
        if key not in self._tasks:
            name = told["name"].removeprefix("sha256:")
            self._tasks[key] = self._progress.add_task(f"{told['action']:<8} {name[:32]}", total=total)
        self._progress.update(self._tasks[key], completed=done, total=total)
