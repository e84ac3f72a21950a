"""What of gVisor works on this machine: it is tried, with a command in a sandbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from intermodal_core.errors import IntermodalError
from intermodal_core.spawner import Spawner

__all__ = ["Probe", "probe"]

#: The order in which they are tried. kvm comes last: nested, it may hang, which takes the whole of its time to find out.
_PLATFORMS = ("systrap", "ptrace", "kvm")
_WITHIN = 5.0
_NAMESPACES = ("mount", "pid", "ipc", "uts", "network")


class Probe(NamedTuple):
    """The platform to use, "" for none; whether the sandbox's network stack works; and why others do not, by their names."""

    platform: str
    network: bool
    failures: dict[str, str]


def probe(spawner: Spawner, binary: str, directory: Path, platform: str) -> Probe:
    """Try `platform`, or each for "auto", and the sandbox's network stack. Blocking: a fifth of a second where all is well.

    `directory` is for runsc's state meanwhile.
    """
    failures: dict[str, str] = {}
    bundle = _make_bundle(directory)
    for name in _PLATFORMS if platform == "auto" else (platform,):
        why = _try(spawner, binary, bundle, name, "none")
        if not why:
            # Old versions take every namespace of a new kernel for the host's.
            why = _try(spawner, binary, bundle, name, "sandbox")
            if why:
                failures["network sandbox"] = why
            return Probe(name, not why, failures)
        failures[f"platform {name}"] = why
    return Probe("", False, failures)


def _make_bundle(directory: Path) -> Path:
    bundle = directory / "bundle"
    bundle.mkdir(mode=0o700, parents=True, exist_ok=True)
    spec = {
        "ociVersion": "1.0.2",
        "process": {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin:/usr/bin"]},
        "root": {"path": "/", "readonly": True},
        "linux": {"namespaces": [{"type": name} for name in _NAMESPACES]},
    }
    (bundle / "config.json").write_text(json.dumps(spec), encoding="utf-8")
    return bundle


def _try(spawner: Spawner, binary: str, bundle: Path, platform: str, network: str) -> str:
    """Why it does not work; "" when it does."""
    root = bundle.parent / "state"
    command = [binary, "--root", str(root), f"--platform={platform}", f"--network={network}", "--ignore-cgroups"]
    name = f"probe-{platform}-{network}"
    try:
        done = spawner.run([*command, "run", "--bundle", str(bundle), name], timeout=_WITHIN)
    except IntermodalError as error:
        why = str(error)
    else:
        if done.exit == 0:
            return ""
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        why = said[-1] if said else f"{binary} run ended with status {done.exit}"
    try:
        spawner.run([*command, "delete", "--force", name], timeout=_WITHIN)
    except IntermodalError:
        pass  # there is nothing, or it hangs as the command did
    return why
