"""The policy manager: which runtime, snapshotter and network an operator's config gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

__all__ = ["Policy", "Subject"]

Subject = Literal["runtime", "snapshotter", "network"]


class Policy(Protocol):
    """The manager."""

    async def choose(
        self,
        subject: Subject,
        namespace: str,
        image: str = "",
        labels: Mapping[str, str] | None = None,
        asked: str = "",
    ) -> tuple[str, str]:
        """The instance to use and the sentence that says who chose it.

        `asked` is what the client named and wins where it is given; a name by which containerd's clients know a runtime
        (`io.containerd.runc.v2`) is put into the instance's. Raises InvalidArgument for a name that no instance has, naming
        those there are.
        """
