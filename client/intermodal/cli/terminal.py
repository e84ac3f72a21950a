"""The terminal that imod was started on."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

__all__ = ["Raw", "size"]


def size() -> list[int] | None:
    """Columns and lines of the first of our streams that is a terminal."""
    for fd in (1, 0, 2):
        try:
            columns, lines = os.get_terminal_size(fd)
        except OSError:
            continue
        return [columns, lines]
    return None


class Raw:
    """Within the `with`, what is typed goes to the container byte by byte; afterwards the terminal is as before."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before: list[Any] = []

    def __enter__(self) -> None:
        import termios
        import tty

        self._before = termios.tcgetattr(self._fd)
        tty.setraw(self._fd)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import termios

        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
