"""What ends a command: one sentence for stderr, and the exit status."""

__all__ = ["CANNOT_RUN", "FAILED", "NOT_THERE", "DaemonError", "Failure"]

#: imod or the daemon failed; statuses as docker's.
FAILED = 125
#: The container's command is there and cannot be executed.
CANNOT_RUN = 126
#: The container's command is not there.
NOT_THERE = 127


class Failure(Exception):
    """A command cannot go on; `status` is imod's exit status."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


class DaemonError(Failure):
    """The daemon's answer is an error; `reason` is its short name (`not_found`, ...)."""

    def __init__(self, message: str, reason: str, code: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code
