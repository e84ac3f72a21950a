"""What is known of one instance of a plugin: where it comes from, what became of it, and why.

States: `available` (found, not needed so far), `disabled` (by config), `skipped` (cannot run here), `failed` (broke),
`ready`. Each but `ready` has a reason code, a sentence and, where there is one, a remedy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from intermodal_core.calls import Guard
from intermodal_core.config import Section
from intermodal_core.discovery import Found
from intermodal_core.plugin import Plugin

if TYPE_CHECKING:
    from intermodal_core.isolation import Process

__all__ = ["Record", "State"]

State = Literal["available", "disabled", "skipped", "failed", "ready"]


@dataclass(slots=True)
class Record:
    """One instance of a plugin and what became of it."""

    kind: str
    name: str
    plugin_id: str
    found: Found | None
    section: Section = field(repr=False)
    state: State = "available"
    code: str = ""
    told: str = ""
    remedy: str = ""
    required: bool = False
    plugin: Plugin[Any] | None = None
    instance: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    exports: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    process: Process | None = None
    pending: asyncio.Future[None] | None = field(default=None, repr=False)
    uses: list[Record] = field(default_factory=list, repr=False)

    @property
    def id(self) -> str:
        """The name by which config, errors and requirements know it."""
        return f"{self.kind}.{self.name}"

    @property
    def isolated(self) -> bool:
        """Whether it gets a process of its own."""
        return self.section.common.isolation == "process"

    @property
    def trouble(self) -> str:
        """Why calls fail now, though it may be ready (an open breaker, a process that is not up); "" where they do not."""
        if self.state != "ready":
            return self.why_not()
        if self.process is not None:
            return self.process.trouble
        return self.instance.trouble if isinstance(self.instance, Guard) else ""

    @property
    def reason(self) -> str:
        """The sentence that says why it is in its state; the line of the config is looked for when somebody asks."""
        if self.state == "disabled" and not self.told:
            self.told = f"switched off in the config ({self.section.where('enabled')})"
        return self.told

    def settle(self, state: State, code: str = "", reason: str = "", remedy: str = "") -> None:
        """Put it into a state."""
        self.state = state
        self.code = code
        self.told = reason
        self.remedy = remedy

    def why_not(self) -> str:
        """The sentence for somebody who needs it and cannot have it."""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.id} is {self.state}: {self.reason}{remedy}"
