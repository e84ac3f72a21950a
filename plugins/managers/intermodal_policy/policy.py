"""Which runtime, snapshotter and network an operator's config gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec
from intermodal_core.contracts.managers.policy import Subject
from intermodal_core.errors import InvalidArgument

__all__ = ["Defaults", "Policy"]


class Defaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[defaults]` of the config: the instances used where nobody named one."""

    runtime: Annotated[str, msgspec.Meta(description="The runtime of containers that name none.")] = "runc"
    snapshotter: Annotated[
        str, msgspec.Meta(description="The snapshotter of images and containers that name none.")
    ] = "overlayfs"
    network: Annotated[str, msgspec.Meta(description="The network of `imod run` without --net.")] = "none"


_GROUPS = {"runtime": "runtimes", "snapshotter": "snapshotters", "network": "networks"}

#: io.containerd.NAME.vN, by which containerd's clients name a runtime.
_CONTAINERD = re.compile(r"io\.containerd\.(?P<name>[A-Za-z0-9_-]+)\.v[0-9]+")


class Policy:
    """Implements `intermodal_core.contracts.managers.policy.Policy`.

    `names(kind)` gives the instances there are of a kind.
    """

    def __init__(self, defaults: Defaults, names: Callable[[str], list[str]], origin: str = "") -> None:
        self._defaults = defaults
        self._names = names
        self._origin = origin or "the built-in default"

    async def choose(
        self,
        subject: Subject,
        namespace: str,
        image: str = "",
        labels: Mapping[str, str] | None = None,
        asked: str = "",
    ) -> tuple[str, str]:
        """The instance and the sentence that says who chose it."""
        name = asked or getattr(self._defaults, subject)
        known = self._names(_GROUPS[subject])
        why = "named by the client" if asked else f"[defaults] {subject} of {self._origin}"
        if name in known:
            return name, why
        if subject == "runtime" and (match := _CONTAINERD.fullmatch(name)) and match["name"] in known:
            return match["name"], f"{why} as {name}"
        raise InvalidArgument(f"there is no {subject} {name} ({why}); there are: {', '.join(known) or 'none'}")
