"""`imod plugins serve`: one backend as a proxy plugin, in the foreground, for containerd or another daemon of ours."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

from intermodal_core import discovery
from intermodal_core.config import load
from intermodal_core.daemon import Daemon
from intermodal_core.errors import IntermodalError, from_os_error
from intermodal_core.loading import load_attribute

from intermodal.cli.errors import Failure

__all__ = ["serve"]

#: What can be served, by the kind in the singular.
KINDS = {"snapshotter": "snapshotters", "content": "content", "differ": "differs"}


def serve(kind: str, name: str, address: str, options: Any) -> int:
    """Serve until SIGTERM or Ctrl-C. Raises Failure."""
    kind = KINDS.get(kind, kind)
    if kind not in KINDS.values():
        raise Failure(f"a plugin of the kind {kind} cannot be served; these can: {', '.join(KINDS)}")
    found = discovery.find()
    overrides: dict[str, Any] = {
        "root": options.root or f"/var/lib/intermodal-serve/{kind}.{name}",
        "state": options.state or f"/run/intermodal-serve/{kind}.{name}",
        "address": str(Path(address).absolute()),
    }
    # No daemon around it: what is made ready at start stays off, but for the service that serves.
    kinds = [load_attribute(point.value) for point in found if point.group == "kinds"]
    alone = {each.name for each in kinds if each.eager or not each.guarded}
    for point in found:
        if point.group in alone and (point.group, point.name) != ("services", "serve"):
            overrides |= {f"{point.group}.{point.name}.{key}": False for key in ("enabled", "required")}
    ours = {"serves": f"{kind}.{name}", "content": options.content, "address": "", "enabled": True, "required": True}
    overrides |= {f"services.serve.{key}": value for key, value in ours.items()}
    try:
        # Of a daemon's file, most is about plugins that are off here.
        config = load(Path(options.config) if options.config else None, overrides, permissive=True)
        level = config.core.log_level.upper()
        logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
        asyncio.run(Daemon(config).run())
    except IntermodalError as error:
        raise Failure(str(error)) from error
    except OSError as error:
        raise Failure(str(from_os_error(error, "serving"))) from error
    return 0
