"""What was asked for and what came of it, a file an attachment: DEL works from it, whatever became of the list.

A file is there before ADD begins and goes after DEL succeeded. The format is that of libcni's cache (cniCacheV1).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from intermodal_core.contracts.cni import Result
from intermodal_core.errors import IntermodalError

from intermodal_cni.chain import Place
from intermodal_cni.lists import NetworkList, parse
from intermodal_cni.versions import decode_result, encode_result

__all__ = ["Cache", "Cached"]

_KIND = "cniCacheV1"
_LONGEST = 200


class Cached(msgspec.Struct, frozen=True):
    """One attachment; `result` is None until ADD has succeeded."""

    network: NetworkList
    place: Place
    result: Result | None = None


class Cache:
    """The files in `directory`, which is made when the first one is written."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, cached: Cached) -> None:
        """Write or replace; a reader sees the old or the new one, whole."""
        place, network = cached.place, cached.network
        document: dict[str, Any] = {
            "kind": _KIND,
            "containerId": place.container,
            "config": base64.b64encode(json.dumps(network.document()).encode()).decode(),
            "ifName": place.interface,
            "networkName": network.name,
            "netns": place.netns,
            "cniArgs": [[key, value] for key, value in place.args.items()],
            "capabilityArgs": place.capabilities,
            "configArgs": place.config_args,
        }
        if cached.result is not None:
            document["result"] = encode_result(cached.result, network.version)
        path = self._path(network.name, place.container, place.interface)
        new = path.with_name(f".{path.name}")
        try:
            new.write_text(json.dumps(document))
        except FileNotFoundError:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            new.write_text(json.dumps(document))
        os.rename(new, path)

    def get(self, network: str, container: str, interface: str) -> Cached | None:
        """What was put, or None. A file that cannot be read counts as none."""
        return _read(self._path(network, container, interface))

    def forget(self, network: str, container: str, interface: str) -> None:
        """Remove; it may be gone."""
        self._path(network, container, interface).unlink(missing_ok=True)

    def every(self) -> Iterator[Cached]:
        """All that can be read."""
        if self._directory.is_dir():
            for path in sorted(self._directory.iterdir()):
                if not path.name.startswith(".") and (cached := _read(path)) is not None:
                    yield cached

    def sweep(self) -> None:
        """Remove what a crash left half written; while nobody puts anything."""
        for path in self._directory.glob(".*"):
            path.unlink(missing_ok=True)

    def _path(self, network: str, container: str, interface: str) -> Path:
        name = f"{network}-{container}-{interface}"
        if len(name) > _LONGEST:
            name = f"{network[:60]}-{hashlib.sha256(name.encode()).hexdigest()}"
        return self._directory / name


def _read(path: Path) -> Cached | None:
    try:
        document = json.loads(path.read_bytes())
        network = parse(base64.b64decode(document["config"]).decode(), str(path))
        place = Place(
            document["containerId"],
            document["netns"],
            document["ifName"],
            document.get("capabilityArgs") or {},
            dict(document.get("cniArgs") or ()),
            document.get("configArgs") or {},
        )
        result = document.get("result")
        return Cached(network, place, decode_result(result) if result else None)
    except (OSError, ValueError, KeyError, TypeError, IntermodalError):
        return None
