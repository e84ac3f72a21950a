"""The public face: its list, its docstrings, its types, and that the blocking half is the asyncio one's image."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import intermodal
import intermodal.events
import pytest
from intermodal import _api
from intermodal_core import errors

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "client/intermodal"

# A name here is a promise. Taking one away breaks users; adding one is a decision.
PUBLIC = [
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


def test_the_public_list() -> None:
    assert sorted(intermodal.__all__) == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(intermodal))
    for name in PUBLIC:
        assert getattr(intermodal, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = intermodal.Nothing  # type: ignore[attr-defined]


def test_type_checkers_see_the_same_list() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen | {"from_env"} == set(intermodal.__all__)


def test_every_error_is_exported() -> None:
    assert set(errors.__all__) - {"PluginSkipped", "by_code", "from_os_error"} <= set(intermodal.__all__)


def test_everything_public_is_documented() -> None:
    classes = [getattr(intermodal, name) for name in PUBLIC if inspect.isclass(getattr(intermodal, name))]
    missing = [
        f"{each.__name__}.{name}"
        for each in classes
        for name, member in vars(each).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
        if not inspect.getdoc(member)
    ]
    assert missing == []
    assert [each.__name__ for each in classes if not each.__doc__] == []


def test_private_modules_are_underscored() -> None:
    public = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")}
    assert public == {"events"}


def test_the_blocking_face_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/generate-sync", "--check"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_both_faces_have_the_same_methods() -> None:
    for name in PUBLIC:
        if name.startswith("Async"):
            one, other = getattr(intermodal, name), getattr(intermodal, name.removeprefix("Async"))
            ours = {each for each in vars(one) if not each.startswith("_")}
            assert ours == {each for each in vars(other) if not each.startswith("_")}


def test_types_from_the_users_side() -> None:
    sample = Path(__file__).with_name("typing_sample.py")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), str(sample)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


def test_every_call_has_the_types_of_its_service() -> None:
    from google.protobuf.descriptor_pool import Default

    methods = [value for value in vars(_api).values() if isinstance(value, _api.Method)]
    assert len(methods) > 40
    for method in methods:
        _, service, name = method.path.split("/")
        descriptor = Default().FindServiceByName(service).methods_by_name[name]
        assert descriptor.input_type is method.request.DESCRIPTOR
        assert descriptor.output_type is method.response.DESCRIPTOR


def test_every_event_message_is_public() -> None:
    from intermodal_api.containerd.events import (
        container_pb2,
        content_pb2,
        image_pb2,
        namespace_pb2,
        sandbox_pb2,
        snapshot_pb2,
        task_pb2,
    )

    modules = (container_pb2, content_pb2, image_pb2, namespace_pb2, sandbox_pb2, snapshot_pb2, task_pb2)
    names = {name for module in modules for name in module.DESCRIPTOR.message_types_by_name}
    assert names - {"TaskIO"} == set(intermodal.events.__all__)
