"""Run a console-script function and SIGKILL this process right before its k-th step.

    python -m tests.harness.launcher K module:function [ARG...]

A step is a call of `sys.audit("intermodal.step", name)`: the product raises it before every change that outlives the
process, and knows nothing of this hook. `function()` is called as a script's main is: `sys.argv` holds the arguments and
its result is the exit status. K = 0 never kills. Only this process is killed, not its children.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys


def kill_at(k: int) -> None:
    """Install the hook. The last line on stderr names the step that was not taken."""
    seen = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal seen
        if event == "intermodal.step":
            seen += 1
            if seen == k:
                os.write(2, f"killed before step {k}: {args[0]}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main() -> None:
    k, target, *arguments = sys.argv[1:]
    module, _, function = target.partition(":")
    run = getattr(importlib.import_module(module), function)
    sys.argv = [target, *arguments]
    kill_at(int(k))
    sys.exit(run())


if __name__ == "__main__":
    main()
