"""What the rooms of methods share: each room checks parameters and calls a manager. See docs/control-protocol.md."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import msgspec
from intermodal_core.contracts.managers.images import Images
from intermodal_core.contracts.managers.lifecycle import Lifecycle
from intermodal_core.contracts.managers.tasks import Composite, Tasks
from intermodal_core.plugin import Context

from intermodal_control.server import Method

__all__ = ["Nothing", "Params", "Room"]


class Params(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of a call; one that is not known is refused."""


class Nothing(Params):
    """No parameters."""


class Room(ABC):
    """The methods of one subject.

    The managers are looked up at each call: while one is not ready, the calls that need it say why, and the others work.
    """

    def __init__(self, context: Context[Any]) -> None:
        self._context = context
        self._events = context.events
        self._registry = context.registry

    @abstractmethod
    def table(self) -> Mapping[str, Method]:
        """The rows. `cancel`: the client's closing ends it, of a process until it has started; all else goes on without it."""

    @property
    def _images(self) -> Images:
        images: Images = self._context.get("managers", "images")
        return images

    @property
    def _tasks(self) -> Tasks:
        tasks: Tasks = self._context.get("managers", "tasks")
        return tasks

    @property
    def _lifecycle(self) -> Lifecycle:
        lifecycle: Lifecycle = self._context.get("managers", "tasks").lifecycle
        return lifecycle

    @property
    def _containers(self) -> Composite:
        composite: Composite = self._context.get("managers", "tasks").composite
        return composite
