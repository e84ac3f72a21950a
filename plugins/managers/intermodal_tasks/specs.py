"""The runtime spec of a container that a command makes."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from intermodal_core.contracts.common import Mount
from intermodal_core.contracts.managers.networks import Plan
from intermodal_core.contracts.managers.store import AnyValue
from intermodal_core.contracts.managers.tasks import RunOptions
from intermodal_core.errors import InvalidArgument
from intermodal_core.syscalls import MNT_DETACH, umount
from intermodal_oci.model import ImageConfig
from intermodal_oci.spec import SpecOptions, build_spec
from intermodal_snapshots.idmapped import parse_mapping, unmapped
from intermodal_snapshots.mounts import mount_all, unmount_all

__all__ = ["SPEC_TYPE", "Lookups", "run_spec", "signal_number"]

SPEC_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Spec"


class Lookups:
    """Root filesystems to look users up in, each mounted for the blink of an eye.

    The mount is detached as soon as its root is open: the descriptor keeps it alive, nobody else sees it, and the kernel
    lets go of it with the descriptor. `directory` is gone at reboot.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def clean(self) -> None:
        """Unmount what a daemon that was killed within the blink left."""
        if not self._directory.is_dir():
            return
        for point in self._directory.iterdir():
            unmount_all(point)
            point.rmdir()

    @asynccontextmanager
    async def open(self, mounts: Sequence[Mount]) -> AsyncIterator[str]:
        """A path, good until the end, of the root that `mounts` give."""
        fd = await asyncio.to_thread(self._open, mounts)
        try:
            yield f"/proc/self/fd/{fd}"
        finally:
            await asyncio.to_thread(os.close, fd)

    def _open(self, mounts: Sequence[Mount]) -> int:
        point = self._directory / secrets.token_hex(8)
        point.mkdir(parents=True, mode=0o700)
        try:
            mount_all(unmapped(mounts), point)
            try:
                return os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            finally:
                umount(str(point), MNT_DETACH)
        finally:
            point.rmdir()


def run_spec(options: RunOptions, config: ImageConfig, plan: Plan, cgroup: str, rootfs: str | None) -> AnyValue:
    """The spec as clients store it: JSON behind its type URL."""
    own = {mount.target for mount in options.mounts}
    spec: dict[str, Any] = build_spec(
        SpecOptions(
            image_config=config,
            args=options.args,
            entrypoint=options.entrypoint,
            env=options.env,
            cwd=options.workdir,
            user=options.user,
            hostname=options.hostname or options.name[:63],
            terminal=options.terminal,
            rootfs=rootfs,
            readonly=options.readonly,
            network=plan.netns if plan.mode == "path" else plan.mode,
            mounts=tuple(mount for mount in plan.mounts if mount.target not in own)
            + tuple(
                Mount("bind", mount.source, ("rbind", "ro" if mount.readonly else "rw"), mount.target)
                for mount in options.mounts
            ),
            memory=options.memory or None,
            cpus=options.cpus or None,
            cgroups_path=cgroup,
            privileged=options.privileged,
            ids=parse_mapping(options.userns) if options.userns else (),
        )
    )
    return AnyValue(SPEC_TYPE, msgspec.json.encode(spec))


def signal_number(name: str) -> int:
    """SIGTERM, TERM or 15 as a number; "" is SIGTERM. Raises InvalidArgument."""
    if not name:
        return int(signal.SIGTERM)
    if name.isdigit() and 0 < int(name) < signal.NSIG:
        return int(name)
    full = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
    try:
        return int(signal.Signals[full])
    except KeyError:
        raise InvalidArgument(f"there is no signal {name}") from None
