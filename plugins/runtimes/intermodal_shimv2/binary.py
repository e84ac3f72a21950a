"""A shim's file by one of its names."""

from __future__ import annotations

import os
import re

from intermodal_core.errors import InvalidArgument, NotFound

__all__ = ["find"]

_RUNTIME = re.compile(r"io\.containerd\.(?P<name>[A-Za-z0-9_-]+)\.(?P<version>v[0-9]+)")


def find(name: str) -> str:
    """The absolute path of the shim. Raises NotFound that lists what was sought and where, InvalidArgument for a relative path."""
    if "/" in name and not name.startswith("/"):
        raise InvalidArgument(f"the shim {name} is a relative path: give an absolute one, or a name")
    match = _RUNTIME.fullmatch(name)
    file = f"containerd-shim-{match['name']}-{match['version']}" if match else name
    tried = [file] if file.startswith("/") else [os.path.join(each, file) for each in os.get_exec_path()]
    for path in tried:
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return os.path.abspath(path)
    what = f"{file} (for {name})" if match else file
    raise NotFound(f"no executable shim {what}: tried {', '.join(tried)}; install it, or set `binary` to its path")
