"""The messages inside events: what `Event.message` is an instance of."""

from intermodal_api.containerd.events.container_pb2 import ContainerCreate, ContainerDelete, ContainerUpdate
from intermodal_api.containerd.events.content_pb2 import ContentCreate, ContentDelete
from intermodal_api.containerd.events.image_pb2 import ImageCreate, ImageDelete, ImageUpdate
from intermodal_api.containerd.events.namespace_pb2 import NamespaceCreate, NamespaceDelete, NamespaceUpdate
from intermodal_api.containerd.events.sandbox_pb2 import SandboxCreate, SandboxExit, SandboxStart
from intermodal_api.containerd.events.snapshot_pb2 import SnapshotCommit, SnapshotPrepare, SnapshotRemove
from intermodal_api.containerd.events.task_pb2 import (
    TaskCheckpointed,
    TaskCreate,
    TaskDelete,
    TaskExecAdded,
    TaskExecStarted,
    TaskExit,
    TaskOOM,
    TaskPaused,
    TaskResumed,
    TaskStart,
)

__all__ = [
    "ContainerCreate",
    "ContainerDelete",
    "ContainerUpdate",
    "ContentCreate",
    "ContentDelete",
    "ImageCreate",
    "ImageDelete",
    "ImageUpdate",
    "NamespaceCreate",
    "NamespaceDelete",
    "NamespaceUpdate",
    "SandboxCreate",
    "SandboxExit",
    "SandboxStart",
    "SnapshotCommit",
    "SnapshotPrepare",
    "SnapshotRemove",
    "TaskCheckpointed",
    "TaskCreate",
    "TaskDelete",
    "TaskExecAdded",
    "TaskExecStarted",
    "TaskExit",
    "TaskOOM",
    "TaskPaused",
    "TaskResumed",
    "TaskStart",
]
