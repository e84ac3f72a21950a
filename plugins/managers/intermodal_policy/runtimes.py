"""A runtime by any of its names: an instance's, the one by which containerd's clients know it, or the path of a shim."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from intermodal_core.config_types import nearest
from intermodal_core.errors import InvalidArgument

__all__ = ["CONTAINERD", "resolve"]

#: io.containerd.NAME.vN; its shim is containerd-shim-NAME-vN.
CONTAINERD = re.compile(r"io\.containerd\.(?P<name>[A-Za-z0-9_-]+)\.v(?P<version>[0-9]+)")


def resolve(name: str, why: str, plugins: Mapping[str, str]) -> tuple[str, str]:
    """The instance that `name` means, or the absolute path of a shim that none stands for; and `why`, with how it was found.

    `plugins` gives each instance's plugin. Raises InvalidArgument that lists what was sought, and where.
    """
    if name in plugins:
        return name, why
    if name.startswith("/"):
        if not _executable(name):
            raise InvalidArgument(f"the runtime {name} ({why}) is no executable file: install it, or name another")
        return name, why
    if "/" in name:
        raise InvalidArgument(f"the runtime {name} ({why}) is a relative path: give an absolute one, or a name")
    there = f"the instances here are: {', '.join(plugins) or 'none'}"
    known = CONTAINERD.fullmatch(name)
    if known is None:
        raise InvalidArgument(f"there is no runtime {name} ({why}): {nearest(name, plugins)}")
    found = [instance for instance, plugin in plugins.items() if known["name"] in (instance, plugin)]
    if known["name"] in found or len(found) == 1:
        return known["name"] if known["name"] in found else found[0], f"{why} as {name}"
    if found:
        raise InvalidArgument(
            f"the runtime {name} ({why}) may be any of {', '.join(found)}, all of the plugin {known['name']}: name one"
        )
    shim = f"containerd-shim-{known['name']}-v{known['version']}"
    directories = os.get_exec_path()
    for directory in directories:
        path = os.path.join(directory, shim)
        if os.path.isabs(path) and _executable(path):
            return path, f"{why} as {name}"
    raise InvalidArgument(
        f"there is no runtime {name} ({why}): {there}; its shim {shim} is not in {', '.join(directories)}; "
        "install it, or name another"
    )


def _executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
