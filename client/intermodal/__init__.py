"""What users import: a client for intermodald and for containerd.

    import intermodal
    client = intermodal.from_env()
    container = client.containers.create("my-container", image="busybox:latest")
    container.start()
    output = container.exec.run(["echo", "Hello World!"])

`Client` blocks; `AsyncClient` is the same for asyncio. Errors are exceptions by meaning (`NotFound`,
`AlreadyExists`, ...), all of them `IntermodalError`. The messages inside events are in `intermodal.events`.

To import this package costs next to nothing: what needs gRPC is imported when it is first used.
"""

# As typing's own, whose import alone would take longer than this package's.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from intermodal_core.errors import (
        Aborted,
        AlreadyExists,
        Cancelled,
        DataLoss,
        DeadlineExceeded,
        FailedPrecondition,
        IntermodalError,
        Internal,
        InvalidArgument,
        NotFound,
        OutOfRange,
        PermissionDenied,
        ResourceExhausted,
        Unavailable,
        Unimplemented,
    )

    from intermodal._async.client import AsyncClient
    from intermodal._async.container import AsyncContainer
    from intermodal._async.containers import AsyncContainers
    from intermodal._async.executing import AsyncExec
    from intermodal._async.images import AsyncImage, AsyncImages
    from intermodal._async.namespaces import AsyncNamespaces
    from intermodal._async.process import AsyncProcess
    from intermodal._creation import ContainerOptions
    from intermodal._models import CommandFailed, Event, Namespace, Output, Plugin, Stats, Version
    from intermodal._stdio import Chunk
    from intermodal._sync.client import Client
    from intermodal._sync.container import Container
    from intermodal._sync.containers import Containers
    from intermodal._sync.executing import Exec
    from intermodal._sync.images import Image, Images
    from intermodal._sync.namespaces import Namespaces
    from intermodal._sync.process import Process

__all__ = [
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "AsyncContainer",
    "AsyncContainers",
    "AsyncExec",
    "AsyncImage",
    "AsyncImages",
    "AsyncNamespaces",
    "AsyncProcess",
    "Cancelled",
    "Chunk",
    "Client",
    "CommandFailed",
    "Container",
    "ContainerOptions",
    "Containers",
    "DataLoss",
    "DeadlineExceeded",
    "Event",
    "Exec",
    "FailedPrecondition",
    "Image",
    "Images",
    "IntermodalError",
    "Internal",
    "InvalidArgument",
    "Namespace",
    "Namespaces",
    "NotFound",
    "OutOfRange",
    "Output",
    "PermissionDenied",
    "Plugin",
    "Process",
    "ResourceExhausted",
    "Stats",
    "Unavailable",
    "Unimplemented",
    "Version",
    "from_env",
]

_MODULES = {
    "intermodal._async.client": ("AsyncClient",),
    "intermodal._async.container": ("AsyncContainer",),
    "intermodal._async.containers": ("AsyncContainers",),
    "intermodal._async.executing": ("AsyncExec",),
    "intermodal._async.images": ("AsyncImage", "AsyncImages"),
    "intermodal._async.namespaces": ("AsyncNamespaces",),
    "intermodal._async.process": ("AsyncProcess",),
    "intermodal._creation": ("ContainerOptions",),
    "intermodal._models": ("CommandFailed", "Event", "Namespace", "Output", "Plugin", "Stats", "Version"),
    "intermodal._stdio": ("Chunk",),
    "intermodal._sync.client": ("Client",),
    "intermodal._sync.container": ("Container",),
    "intermodal._sync.containers": ("Containers",),
    "intermodal._sync.executing": ("Exec",),
    "intermodal._sync.images": ("Image", "Images"),
    "intermodal._sync.namespaces": ("Namespaces",),
    "intermodal._sync.process": ("Process",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
_ERRORS = "intermodal_core.errors"


def from_env() -> "Client":
    """The blocking client that INTERMODAL_ADDRESS and INTERMODAL_NAMESPACE (else containerd's) describe."""
    from intermodal._sync.client import Client

    return Client.from_env()


if not TYPE_CHECKING:  # a checker must see the names above and no others

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_HOMES.get(name, _ERRORS)), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
