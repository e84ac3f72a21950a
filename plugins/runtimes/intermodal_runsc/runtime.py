"""runsc, driven by our shim."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from intermodal_core.contracts.runtimes import CreateTask, RuntimeInfo, Stats, TaskRef
from intermodal_core.errors import InvalidArgument, NotFound, PluginSkipped, Unimplemented
from intermodal_core.spawner import Spawner
from intermodal_shim.driver import ShimRuntime
from intermodal_shim.runtime import Options, find

from intermodal_runsc.options import asked, words
from intermodal_runsc.platform import Probe, probe
from intermodal_runsc.plugin import Config
from intermodal_runsc.review import review

if TYPE_CHECKING:
    from intermodal_core.plugin import Context

__all__ = ["RunscRuntime", "make_runtime"]

#: By these the CRI's clients tell gVisor which containers share a sandbox.
_TYPE = "io.kubernetes.cri.container-type"
_SANDBOX = "io.kubernetes.cri.sandbox-id"


class RunscRuntime(ShimRuntime):
    """Our shim with gVisor's ways. `found` is what works on this machine."""

    forked = "intermodal_runsc.shim"

    def __init__(
        self,
        name: str,
        spawner: Spawner,
        state: Path,
        events: str,
        config: Config,
        found: Probe,
        *,
        all_events: bool = False,
    ) -> None:
        options = Options(
            binary=config.binary,
            root=config.root,
            systemd_cgroup=config.systemd_cgroup,
            flags=words(config, found.platform, "none"),
        )
        super().__init__(name, spawner, state, events, options, all_events=all_events)
        self._config = config
        self._found = found

    async def info(self) -> RuntimeInfo:
        """[R6] The binary, its version and the platform."""
        about = {"platform": self._found.platform, "network": self._config.network, "overlay": self._config.overlay}
        about |= {f"{name} fails": why for name, why in self._found.failures.items()}
        hides = "" if self._config.overlay == "none" else f"overlay = '{self._config.overlay}'"
        return msgspec.structs.replace(await super().info(), annotations=about, hides_writes=hides)

    async def review(self, spec: bytes) -> list[str]:
        """[R26] What a kernel of the container's own does otherwise."""
        return review(json.loads(spec), self._config.oci_seccomp)

    async def update(self, task: TaskRef, resources: bytes) -> None:
        """[R18] Not declared: runsc has no such command."""
        raise Unimplemented(
            f"runsc cannot change limits of a running container; {task.namespace}/{task.id} keeps its own"
        )

    async def stats(self, task: TaskRef) -> Stats:
        """[R20] Counters of the container's cgroup, or the sandbox's own where it has none."""
        stats = await super().stats(task)
        return msgspec.structs.replace(stats, source="runtime") if self._config.ignore_cgroups else stats

    def _task_options(self, task: TaskRef, request: CreateTask) -> Options:
        config = asked(self._config, request.options_type, request.options)
        spec = _read_spec(request.bundle)
        if spec is not None:
            _annotate(spec, task, request.bundle)
        platform = self._found.platform if config.platform == "auto" else config.platform
        options = Options(
            binary=find(config.binary),
            root=config.root,
            systemd_cgroup=config.systemd_cgroup,
            flags=words(config, platform, _network(config, spec, task, self._found.network)),
        )
        return options._replace(root=self._root_in(options.root, task.namespace))


def _read_spec(bundle: str) -> dict[str, Any] | None:
    """None for what is no spec: runsc says that best."""
    try:
        with open(os.path.join(bundle, "config.json"), encoding="utf-8") as file:
            spec = json.load(file)
    except (OSError, ValueError):
        return None
    return spec if isinstance(spec, dict) else None


def _annotate(spec: dict[str, Any], task: TaskRef, bundle: str) -> None:
    """A container that no CRI client made is a sandbox of its own; gVisor is told so as such clients would."""
    annotations = spec.get("annotations") or {}
    if _TYPE in annotations:
        return
    spec["annotations"] = {**annotations, _TYPE: "sandbox", _SANDBOX: task.id}
    path = os.path.join(bundle, "config.json")
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(spec, file)
    os.replace(f"{path}.new", path)


def _network(config: Config, spec: dict[str, Any] | None, task: TaskRef, works: bool) -> str:
    """Whose stack: in the host's namespace the sandbox's would take the host's addresses for its own.

    `auto` needs no stack where the container's namespace is a new one, which has nothing but a loopback. Where the sandbox's
    stack does not work, it is the host's in the container's own namespace.
    """
    linux = (spec or {}).get("linux") or {}
    namespaces = linux.get("namespaces") or ()
    own = [each for each in namespaces if isinstance(each, dict) and each.get("type") == "network"]
    if config.network == "auto":
        if own and not own[0].get("path"):
            return "none"
        return "sandbox" if own and works else "host"
    if config.network == "sandbox" and not own:
        raise InvalidArgument(
            f"{task.namespace}/{task.id} is on the host's network, whose addresses a sandbox would take away:"
            " set network = 'auto' or 'host' for runsc"
        )
    return config.network


def make_runtime(context: Context[Config]) -> RunscRuntime:
    """The runtime for a plugin's context. Raises PluginSkipped where there is no such binary, or no platform works."""
    config = context.config
    try:
        binary = find(config.binary)
    except NotFound as error:
        raise PluginSkipped(str(error), "install gVisor (apt-get install runsc)") from error
    state = context.state_dir()
    found = probe(context.spawner, binary, state / "probe", config.platform)
    if not found.platform:
        why = "; ".join(f"{name}: {said}" for name, said in found.failures.items())
        raise PluginSkipped(f"no platform of {binary} works here ({why})", "set `platform` to one that does")
    context.log.info("containers run under %s, platform %s", binary, found.platform)
    return RunscRuntime(context.name, context.spawner, state, f"{context.address}.ttrpc", config, found)
