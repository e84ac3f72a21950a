"""The kinds whose contracts live in this folder, as data; named by entry points of the group `intermodal.kinds`.

The attribute `containerd` is the plugin type that clients of containerd's introspection know, `proxy` the `type` of a
`[proxy_plugins.NAME]`.
"""

from intermodal_core.kinds import Kind

__all__ = [
    "CNI",
    "CONTENT",
    "DIFFERS",
    "EVENT_SINKS",
    "HOOKS",
    "IMAGE_SOURCES",
    "MANAGERS",
    "METADATA",
    "NETWORKS",
    "RUNTIMES",
    "SERVICES",
    "SNAPSHOTTERS",
    "VERIFIERS",
]

CONTENT = Kind(
    "content",
    "intermodal_core.contracts.content:ContentStore",
    single=True,
    threads=8,
    attributes={"containerd": "io.containerd.content.v1", "proxy": "content"},
)
METADATA = Kind(
    "metadata",
    "intermodal_core.contracts.metadata:MetadataStore",
    single=True,
    guarded=False,
    close="close",
    attributes={"containerd": "io.containerd.metadata.v1"},
)
SNAPSHOTTERS = Kind(
    "snapshotters",
    "intermodal_core.contracts.snapshotters:Snapshotter",
    threads=8,
    deadline=300,
    close="close",
    attributes={"containerd": "io.containerd.snapshotter.v1", "proxy": "snapshot"},
)
DIFFERS = Kind(
    "differs",
    "intermodal_core.contracts.differs:Differ",
    threads=8,
    deadline=3600,
    attributes={"containerd": "io.containerd.differ.v1", "proxy": "diff"},
)
IMAGE_SOURCES = Kind(
    "image_sources",
    "intermodal_core.contracts.image_sources:ImageSource",
    single=True,
    unbounded=("fetch", "push"),
    deadline=300,
)
RUNTIMES = Kind(
    "runtimes",
    "intermodal_core.contracts.runtimes:Runtime",
    deadline=120,
    unbounded=("wait",),
    lasting=True,
    attributes={"containerd": "io.containerd.runtime.v2"},
)
NETWORKS = Kind("networks", "intermodal_core.contracts.networks:Network", threads=16)
CNI = Kind("cni", "intermodal_core.contracts.cni:CniType", threads=16, deadline=30)
EVENT_SINKS = Kind(
    "event_sinks",
    "intermodal_core.contracts.event_sinks:EventSink",
    opt_in=True,
    deadline=120,
    threads=1,
    close="close",
)
HOOKS = Kind("hooks", specs="intermodal_core.contracts.hooks:ContainerHooks", guarded=False, eager=True)
MANAGERS = Kind("managers", guarded=False, eager=True, attributes={"containerd": "io.containerd.service.v1"})
SERVICES = Kind(
    "services",
    "intermodal_core.contracts.services:Service",
    guarded=False,
    eager=True,
    attributes={"containerd": "io.containerd.grpc.v1"},
)
VERIFIERS = Kind("verifiers", "intermodal_core.contracts.verifiers:Verifier", threads=8, deadline=60)
