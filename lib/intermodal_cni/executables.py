"""CNI plugins that are executables: found in a path, run with a deadline, and read with care."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from intermodal_core.child import Completed
from intermodal_core.contracts.cni import Call, Result, Verb
from intermodal_core.errors import FailedPrecondition, Internal, Unavailable

from intermodal_cni.errors import UNDECODABLE, from_document, numbered
from intermodal_cni.versions import NEWEST, decode_result, encode_result

__all__ = ["Executables", "Execute", "environment"]


class Execute(Protocol):
    """Runs a command to its end, with input, as `Spawner.run` does."""

    def __call__(
        self, argv: Sequence[str], input: bytes = b"", timeout: float = 30.0, *, env: Mapping[str, str] | None = None
    ) -> Completed:
        """As `Spawner.run`."""


class Executables:
    """The plugins in the directories `path`; each call has `deadline` seconds."""

    def __init__(self, path: Sequence[str], execute: Execute, deadline: float = 30.0) -> None:
        self.path = tuple(path)
        self._execute = execute
        self._deadline = deadline

    def find(self, type: str) -> str:
        """The file of a type. Raises Unavailable, naming the directories."""
        for directory in self.path:
            file = os.path.join(directory, type)
            if os.path.isfile(file) and os.access(file, os.X_OK):
                return file
        raise Unavailable(f"there is no CNI plugin {type} in {':'.join(self.path) or 'an empty path'}: install it")

    def run(self, type: str, verb: Verb, call: Call) -> Result | None:
        """One call; the result of ADD.

        Raises what the plugin said, DeadlineExceeded when it hangs (it is killed), and Internal when what it says cannot be
        understood.
        """
        file = self.find(type)
        version = call.config.get("cniVersion", NEWEST)
        document = dict(call.config)
        if call.previous is not None:
            document["prevResult"] = encode_result(call.previous, version)
        if verb == "GC":
            document["cni.dev/valid-attachments"] = [
                {"containerID": each.container, "ifname": each.interface} for each in call.valid
            ]
        done = self._execute(
            [file], json.dumps(document).encode(), self._deadline, env=environment(verb, call, self.path)
        )
        if done.exit != 0:
            raise _said(done)
        if verb != "ADD":
            return None
        try:
            printed = json.loads(done.stdout)
        except ValueError:
            printed = None
        if not isinstance(printed, dict):
            shown = done.stdout[:100].decode(errors="replace").strip()
            what = f"printed {shown!r} instead of" if shown else "ended without"
            raise numbered(UNDECODABLE, f"the plugin {file} {what} a result", Internal)
        return decode_result(printed)


def environment(verb: str, call: Call, path: Sequence[str]) -> dict[str, str]:
    """The variables that a plugin gets; PATH is the caller's, as plugins look for their tools in it."""
    known = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    variables = known | {"CNI_COMMAND": verb, "CNI_PATH": os.pathsep.join(path)}
    if verb in ("ADD", "DEL", "CHECK"):
        variables |= {
            "CNI_CONTAINERID": call.container,
            "CNI_NETNS": call.netns,
            "CNI_IFNAME": call.interface,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in call.args.items()),
        }
    return variables


def _said(done: Completed) -> Exception:
    try:
        printed: Any = json.loads(done.stdout)
    except ValueError:
        printed = None
    if isinstance(printed, dict) and "code" in printed:
        return from_document(printed)
    words = (done.stderr or done.stdout)[-400:].decode(errors="replace").strip() or "it said nothing"
    ended = f"signal {-done.exit}" if done.exit < 0 else f"status {done.exit}"
    return FailedPrecondition(f"ended with {ended}: {words}")
