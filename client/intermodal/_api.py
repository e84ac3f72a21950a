"""The calls of containerd's API that the client makes, each with its messages' types.

A path comes from the service's descriptor, so that a name that the wire does not have fails at import.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Generic, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from intermodal_api.containerd.services import containers_pb2 as containers
from intermodal_api.containerd.services import content_pb2 as content
from intermodal_api.containerd.services import diff_pb2 as diff
from intermodal_api.containerd.services import events_pb2 as events
from intermodal_api.containerd.services import images_pb2 as images
from intermodal_api.containerd.services import introspection_pb2 as introspection
from intermodal_api.containerd.services import leases_pb2 as leases
from intermodal_api.containerd.services import namespaces_pb2 as namespaces
from intermodal_api.containerd.services import snapshots_pb2 as snapshots
from intermodal_api.containerd.services import tasks_pb2 as tasks
from intermodal_api.containerd.services import version_pb2 as version
from intermodal_api.containerd.types import event_pb2

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


@dataclass(frozen=True)
class Method(Generic[Q, R]):
    """One call: its path on the wire and the types of what is sent and answered."""

    path: str
    request: type[Q]
    response: type[R]


def _method(module: ModuleType, name: str, request: type[Q], response: type[R]) -> Method[Q, R]:
    service_name, _, method_name = name.partition(".")
    service: Any = module.DESCRIPTOR.services_by_name[service_name]
    return Method(f"/{service.full_name}/{service.methods_by_name[method_name].name}", request, response)


CONTAINER_GET: Final = _method(
    containers, "Containers.Get", containers.GetContainerRequest, containers.GetContainerResponse
)
CONTAINER_LIST: Final = _method(
    containers, "Containers.List", containers.ListContainersRequest, containers.ListContainersResponse
)
CONTAINER_CREATE: Final = _method(
    containers, "Containers.Create", containers.CreateContainerRequest, containers.CreateContainerResponse
)
CONTAINER_UPDATE: Final = _method(
    containers, "Containers.Update", containers.UpdateContainerRequest, containers.UpdateContainerResponse
)
CONTAINER_DELETE: Final = _method(containers, "Containers.Delete", containers.DeleteContainerRequest, Empty)

TASK_CREATE: Final = _method(tasks, "Tasks.Create", tasks.CreateTaskRequest, tasks.CreateTaskResponse)
TASK_START: Final = _method(tasks, "Tasks.Start", tasks.StartRequest, tasks.StartResponse)
TASK_GET: Final = _method(tasks, "Tasks.Get", tasks.GetRequest, tasks.GetResponse)
TASK_LIST: Final = _method(tasks, "Tasks.List", tasks.ListTasksRequest, tasks.ListTasksResponse)
TASK_DELETE: Final = _method(tasks, "Tasks.Delete", tasks.DeleteTaskRequest, tasks.DeleteResponse)
TASK_KILL: Final = _method(tasks, "Tasks.Kill", tasks.KillRequest, Empty)
TASK_EXEC: Final = _method(tasks, "Tasks.Exec", tasks.ExecProcessRequest, Empty)
TASK_DELETE_PROCESS: Final = _method(tasks, "Tasks.DeleteProcess", tasks.DeleteProcessRequest, tasks.DeleteResponse)
TASK_RESIZE: Final = _method(tasks, "Tasks.ResizePty", tasks.ResizePtyRequest, Empty)
TASK_CLOSE_IO: Final = _method(tasks, "Tasks.CloseIO", tasks.CloseIORequest, Empty)
TASK_PAUSE: Final = _method(tasks, "Tasks.Pause", tasks.PauseTaskRequest, Empty)
TASK_RESUME: Final = _method(tasks, "Tasks.Resume", tasks.ResumeTaskRequest, Empty)
TASK_PIDS: Final = _method(tasks, "Tasks.ListPids", tasks.ListPidsRequest, tasks.ListPidsResponse)
TASK_METRICS: Final = _method(tasks, "Tasks.Metrics", tasks.MetricsRequest, tasks.MetricsResponse)
TASK_WAIT: Final = _method(tasks, "Tasks.Wait", tasks.WaitRequest, tasks.WaitResponse)

IMAGE_GET: Final = _method(images, "Images.Get", images.GetImageRequest, images.GetImageResponse)
IMAGE_LIST: Final = _method(images, "Images.List", images.ListImagesRequest, images.ListImagesResponse)
IMAGE_CREATE: Final = _method(images, "Images.Create", images.CreateImageRequest, images.CreateImageResponse)
IMAGE_UPDATE: Final = _method(images, "Images.Update", images.UpdateImageRequest, images.UpdateImageResponse)
IMAGE_DELETE: Final = _method(images, "Images.Delete", images.DeleteImageRequest, Empty)

CONTENT_READ: Final = _method(content, "Content.Read", content.ReadContentRequest, content.ReadContentResponse)
CONTENT_WRITE: Final = _method(content, "Content.Write", content.WriteContentRequest, content.WriteContentResponse)
CONTENT_UPDATE: Final = _method(content, "Content.Update", content.UpdateRequest, content.UpdateResponse)
CONTENT_ABORT: Final = _method(content, "Content.Abort", content.AbortRequest, Empty)

SNAPSHOT_STAT: Final = _method(
    snapshots, "Snapshots.Stat", snapshots.StatSnapshotRequest, snapshots.StatSnapshotResponse
)
SNAPSHOT_PREPARE: Final = _method(
    snapshots, "Snapshots.Prepare", snapshots.PrepareSnapshotRequest, snapshots.PrepareSnapshotResponse
)
SNAPSHOT_MOUNTS: Final = _method(snapshots, "Snapshots.Mounts", snapshots.MountsRequest, snapshots.MountsResponse)
SNAPSHOT_COMMIT: Final = _method(snapshots, "Snapshots.Commit", snapshots.CommitSnapshotRequest, Empty)
SNAPSHOT_REMOVE: Final = _method(snapshots, "Snapshots.Remove", snapshots.RemoveSnapshotRequest, Empty)
DIFF_APPLY: Final = _method(diff, "Diff.Apply", diff.ApplyRequest, diff.ApplyResponse)

LEASE_CREATE: Final = _method(leases, "Leases.Create", leases.CreateRequest, leases.CreateResponse)
LEASE_DELETE: Final = _method(leases, "Leases.Delete", leases.DeleteRequest, Empty)

NAMESPACE_GET: Final = _method(
    namespaces, "Namespaces.Get", namespaces.GetNamespaceRequest, namespaces.GetNamespaceResponse
)
NAMESPACE_LIST: Final = _method(
    namespaces, "Namespaces.List", namespaces.ListNamespacesRequest, namespaces.ListNamespacesResponse
)
NAMESPACE_CREATE: Final = _method(
    namespaces, "Namespaces.Create", namespaces.CreateNamespaceRequest, namespaces.CreateNamespaceResponse
)
NAMESPACE_UPDATE: Final = _method(
    namespaces, "Namespaces.Update", namespaces.UpdateNamespaceRequest, namespaces.UpdateNamespaceResponse
)
NAMESPACE_DELETE: Final = _method(namespaces, "Namespaces.Delete", namespaces.DeleteNamespaceRequest, Empty)

SUBSCRIBE: Final = _method(events, "Events.Subscribe", events.SubscribeRequest, event_pb2.Envelope)
PLUGINS: Final = _method(
    introspection, "Introspection.Plugins", introspection.PluginsRequest, introspection.PluginsResponse
)
SERVER: Final = _method(introspection, "Introspection.Server", Empty, introspection.ServerResponse)
VERSION: Final = _method(version, "Version.Version", Empty, version.VersionResponse)
