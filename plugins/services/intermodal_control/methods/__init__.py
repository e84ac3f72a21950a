"""The methods of the control protocol, a room for each subject. See docs/control-protocol.md."""

from __future__ import annotations

from typing import Any

from intermodal_core.plugin import Context

from intermodal_control.methods.config import ConfigMethods
from intermodal_control.methods.containers import ContainerMethods
from intermodal_control.methods.daemon import DaemonMethods
from intermodal_control.methods.events import EventMethods
from intermodal_control.methods.images import ImageMethods
from intermodal_control.methods.lifecycle import LifecycleMethods
from intermodal_control.methods.networks import NetworkMethods
from intermodal_control.methods.plugins import PluginMethods
from intermodal_control.methods.storage import StorageMethods
from intermodal_control.server import Method

__all__ = ["ROOMS", "methods"]

ROOMS = (
    DaemonMethods,
    PluginMethods,
    ConfigMethods,
    EventMethods,
    ImageMethods,
    ContainerMethods,
    NetworkMethods,
    LifecycleMethods,
    StorageMethods,
)


def methods(context: Context[Any]) -> dict[str, Method]:
    """Method name to what answers it, of all rooms."""
    return {name: method for room in ROOMS for name, method in room(context).table().items()}
