"""The entry point `registry` of `intermodal.image_sources`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
from intermodal_core.plugin import Context, Plugin

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the source."""

    config_path: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="Directories of hosts, as containerd's certs.d: HOST/hosts.toml; the first that has one"
        ),
    ] = ("/etc/intermodal/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d")
    credentials: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="Docker's config.json files to take credentials from; empty: that of the daemon's user"
        ),
    ] = ()
    attempts: Annotated[int, msgspec.Meta(ge=1, le=20, description="How often a request is tried")] = 5
    dial_timeout: Annotated[float, msgspec.Meta(gt=0, description="Seconds for a connection")] = 10
    stall_timeout: Annotated[
        float, msgspec.Meta(gt=0, description="Seconds without a byte after which a download is cut and resumed")
    ] = 30
    minimum_rate: Annotated[
        int, msgspec.Meta(ge=0, description="Bytes a second, over rate_window, below which a download is given up")
    ] = 1024
    rate_window: Annotated[float, msgspec.Meta(gt=0, description="Seconds over which the rate is measured")] = 30


def _make(context: Context[Config]) -> object:
    from intermodal_registry.settings import Settings
    from intermodal_registry.source import RegistrySource

    config = context.config
    own = Path(os.environ.get("DOCKER_CONFIG") or Path("~/.docker").expanduser()) / "config.json"
    settings = Settings(
        hosts=tuple(map(Path, config.config_path)),
        credentials=tuple(map(Path, config.credentials)) or (own,),
        attempts=config.attempts,
        dial=config.dial_timeout,
        stall=config.stall_timeout,
        minimum_rate=config.minimum_rate,
        window=config.rate_window,
    )
    return RegistrySource(settings, context.spawner)


plugin = Plugin(factory=_make, config=Config)
