"""The adapter: `services.serve`, off unless its section says what is to be served."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from intermodal_core.errors import PluginSkipped
from intermodal_core.plugin import Context, Plugin

__all__ = ["Config", "plugin"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `[services.serve]`, or of any section with `plugin = "serve"`."""

    serves: Annotated[
        str,
        msgspec.Meta(
            description="The backend that is served, as KIND.NAME: of snapshotters, content or differs; empty: none."
        ),
    ] = ""
    address: Annotated[str, msgspec.Meta(description="The socket; empty: the daemon's main one.", pattern="^(/|$)")] = (
        ""
    )
    content: Annotated[
        str,
        msgspec.Meta(
            description="For a differ: the socket of the daemon that it serves, from whose content store layers are read.",
            pattern="^/",
        ),
    ] = "/run/containerd/containerd.sock"
    grace: Annotated[
        float, msgspec.Meta(ge=0, description="Seconds that calls under way have when the daemon stops.")
    ] = 2.0


def _make(context: Context[Config]) -> Any:
    if not context.config.serves:
        raise PluginSkipped(
            "nothing is to be served", f'set serves = "snapshotters.NAME" and address in [services.{context.name}]'
        )
    from intermodal_serve.serving import Serving

    return Serving(context)


plugin = Plugin(factory=_make, config=Config)
