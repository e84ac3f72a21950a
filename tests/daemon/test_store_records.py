"""Namespaces, images, containers and leases. What takes `api` holds for a stock containerd, too."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.field_mask_pb2 import FieldMask
from intermodal_api.containerd.services import (
    containers_pb2,
    content_pb2,
    images_pb2,
    leases_pb2,
    namespaces_pb2,
    snapshots_pb2,
    tasks_pb2,
)
from intermodal_api.containerd.types import descriptor_pb2

from tests.harness.api import Api, code_of

DIGEST = "sha256:" + "1" * 64
TARGET = descriptor_pb2.Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=DIGEST, size=7)
SPEC = AnyMessage(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=b"{}")
RUNTIME = containers_pb2.Container.Runtime(name="io.containerd.runc.v2")
LONGEST = "x" * 76
LABEL = {"k": "v" * 4095}
LONG_LABEL = {"k": "v" * 4096}


def mask(*paths: str) -> FieldMask | None:
    return FieldMask(paths=paths) if paths else None


def image(name: str, **fields: Any) -> images_pb2.Image:
    return images_pb2.Image(name=name, target=TARGET, **fields)


def container(id: str, **fields: Any) -> containers_pb2.Container:
    return containers_pb2.Container(id=id, **{"runtime": RUNTIME, "spec": SPEC, **fields})


def created(api: Api, id: str, **fields: Any) -> Any:
    return api.call(containers_pb2, "Create", container=container(id, **fields)).container


# Images.


def test_images(api: Api) -> None:
    made = api.call(images_pb2, "Create", image=image("a:1", labels={"x": "1"})).image
    assert (made.name, made.target, dict(made.labels)) == ("a:1", TARGET, {"x": "1"})
    assert made.created_at == made.updated_at
    assert api.call(images_pb2, "Get", name="a:1").image == made
    assert code_of(lambda: api.call(images_pb2, "Create", image=image("a:1"))) == "ALREADY_EXISTS"
    api.call(images_pb2, "Delete", name="a:1")
    assert code_of(lambda: api.call(images_pb2, "Get", name="a:1")) == "NOT_FOUND"
    assert code_of(lambda: api.call(images_pb2, "Delete", name="a:1")) == "NOT_FOUND"
    assert code_of(lambda: api.call(images_pb2, "Update", image=image("a:1"))) == "NOT_FOUND"


def test_images_that_are_not_right(api: Api) -> None:
    def create(**fields: Any) -> str:
        given = {"name": "a", "target": TARGET, **fields}
        return code_of(lambda: api.call(images_pb2, "Create", image=images_pb2.Image(**given)))

    assert create(name="") == "INVALID_ARGUMENT"
    assert create(target=None) == "INVALID_ARGUMENT"
    assert create(target=descriptor_pb2.Descriptor(media_type="m", digest="sha256:1", size=1)) == "INVALID_ARGUMENT"
    assert create(target=descriptor_pb2.Descriptor(media_type="m", digest=DIGEST)) == "INVALID_ARGUMENT"
    assert create(labels=LONG_LABEL) == "INVALID_ARGUMENT"
    assert create(labels=LABEL) == "OK"


def test_an_images_masks(api: Api) -> None:
    api.call(images_pb2, "Create", image=image("a", labels={"x": "1", "y": "2"}))
    other = descriptor_pb2.Descriptor(media_type="m", digest=DIGEST, size=8)

    def update(*paths: str, **fields: Any) -> Any:
        given = {"name": "a", "target": other, **fields}
        return api.call(images_pb2, "Update", image=images_pb2.Image(**given), update_mask=mask(*paths)).image

    changed = update("labels.x", labels={"x": "3", "z": "4"})
    assert (dict(changed.labels), changed.target) == ({"x": "3", "y": "2"}, TARGET)
    assert dict(update("labels", labels={"z": "4"}).labels) == {"z": "4"}
    assert update("target").target == other
    replaced = update(labels={"w": "5"}, target=TARGET)
    assert (dict(replaced.labels), replaced.target) == ({"w": "5"}, TARGET)
    assert code_of(lambda: update("created_at")) == "INVALID_ARGUMENT"
    assert replaced.updated_at.ToNanoseconds() > replaced.created_at.ToNanoseconds()


def test_filters_of_images(api: Api) -> None:
    for number in range(3):
        api.call(images_pb2, "Create", image=image(f"docker.io/library/i:{number}", labels={"n": str(number)}))

    def found(*filters: str) -> list[str]:
        return sorted(each.name[-1] for each in api.call(images_pb2, "List", filters=filters).images)

    assert found() == ["0", "1", "2"]
    assert found("name==docker.io/library/i:1") == ["1"]
    assert found("labels.n!=1") == ["0", "2"]
    assert found('name~="i:[01]$"', "labels.n==2") == ["0", "1", "2"]
    assert found(f"target.digest=={DIGEST},labels.n==0") == ["0"]
    assert code_of(lambda: found("name==a b")) == "INVALID_ARGUMENT"


def test_an_image_deleted_only_if_it_is_the_one(our_api: Api) -> None:
    our_api.call(images_pb2, "Create", image=image("a"))
    other = descriptor_pb2.Descriptor(media_type="m", digest="sha256:" + "2" * 64, size=8)
    assert code_of(lambda: our_api.call(images_pb2, "Delete", name="a", target=other)) == "FAILED_PRECONDITION"
    our_api.call(images_pb2, "Delete", name="a", target=TARGET)


# Containers.


def test_containers(api: Api) -> None:
    made = created(api, "c", labels={"x": "1"}, image="i", snapshotter="overlayfs", snapshot_key="k")
    assert (made.id, made.image, made.runtime.name, made.spec) == ("c", "i", RUNTIME.name, SPEC)
    assert api.call(containers_pb2, "Get", id="c").container == made
    assert code_of(lambda: created(api, "c")) == "ALREADY_EXISTS"
    api.call(containers_pb2, "Delete", id="c")
    assert code_of(lambda: api.call(containers_pb2, "Get", id="c")) == "NOT_FOUND"
    assert code_of(lambda: api.call(containers_pb2, "Delete", id="c")) == "NOT_FOUND"
    assert code_of(lambda: api.call(containers_pb2, "Update", container=container("c"))) == "NOT_FOUND"


@pytest.mark.parametrize("id", ["", LONGEST + "x", "a/b", "-a", "a..b", "a b", "ä", "../x"])
def test_ids_that_are_none(api: Api, id: str) -> None:
    assert code_of(lambda: created(api, id)) == "INVALID_ARGUMENT"


@pytest.mark.parametrize("id", ["a", LONGEST, "A.b_c-d", "0"])
def test_ids(api: Api, id: str) -> None:
    assert created(api, id).id == id


def test_containers_that_are_not_right(api: Api) -> None:
    assert code_of(lambda: created(api, "c", spec=None)) == "INVALID_ARGUMENT"
    assert code_of(lambda: created(api, "c", labels=LONG_LABEL)) == "INVALID_ARGUMENT"
    assert code_of(lambda: created(api, "c", labels=LABEL)) == "OK"


def test_a_containers_masks(api: Api) -> None:
    created(api, "c", labels={"x": "1", "y": "2"}, image="i", extensions={"e": SPEC, "f": SPEC})

    def update(*paths: str, **fields: Any) -> Any:
        changed = container("c", **fields)
        return api.call(containers_pb2, "Update", container=changed, update_mask=mask(*paths)).container

    changed = update("labels.x", labels={"x": "3"}, image="j")
    assert (dict(changed.labels), changed.image) == ({"x": "3", "y": "2"}, "i")
    assert dict(update("labels", labels={"z": "4"}).labels) == {"z": "4"}
    assert update("image", image="j").image == "j"
    other = AnyMessage(type_url="t", value=b"v")
    changed = update("extensions.e", extensions={"e": other})
    assert {key: value.value for key, value in changed.extensions.items()} == {"e": b"v", "f": b"{}"}
    assert update("spec", spec=AnyMessage(type_url=SPEC.type_url, value=b'{"a":1}')).spec.value == b'{"a":1}'
    assert code_of(lambda: update("runtime", runtime=RUNTIME)) == "INVALID_ARGUMENT"
    assert code_of(lambda: update("snapshotter", snapshotter="native")) == "INVALID_ARGUMENT"
    assert code_of(lambda: update("id")) == "INVALID_ARGUMENT"


def test_filters_and_streams_of_containers(api: Api) -> None:
    for number in range(3):
        created(api, f"c{number}", labels={"n": str(number), "io.x/y": "z"}, image=f"i{number}")

    def found(*filters: str) -> list[str]:
        return sorted(each.id for each in api.call(containers_pb2, "List", filters=filters).containers)

    assert found("id==c1") == ["c1"]
    assert found("image~=i[12]") == ["c1", "c2"]
    assert found('labels."io.x/y"==z,labels.n==0') == ["c0"]
    assert found(f"runtime.name=={RUNTIME.name}") == ["c0", "c1", "c2"]
    streamed = api.call(containers_pb2, "ListStream", filters=["labels.n!=0"])
    assert sorted(each.container.id for each in streamed) == ["c1", "c2"]
    assert api.call(containers_pb2, "ListStream", filters=["labels.n==9"]) == []


# Leases.


def test_leases(api: Api) -> None:
    made = api.call(leases_pb2, "Create", id="l", labels={"x": "1"}).lease
    assert (made.id, dict(made.labels)) == ("l", {"x": "1"})
    assert code_of(lambda: api.call(leases_pb2, "Create", id="l")) == "ALREADY_EXISTS"
    resource = leases_pb2.Resource(id=DIGEST, type="content")
    api.call(leases_pb2, "AddResource", id="l", resource=resource)
    api.call(leases_pb2, "AddResource", id="l", resource=leases_pb2.Resource(id="s", type="snapshots/overlayfs"))
    assert {each.id for each in api.call(leases_pb2, "ListResources", id="l").resources} == {DIGEST, "s"}
    api.call(leases_pb2, "DeleteResource", id="l", resource=resource)
    assert [each.id for each in api.call(leases_pb2, "ListResources", id="l").resources] == ["s"]
    bad = leases_pb2.Resource(id="s", type="snapshots")
    assert code_of(lambda: api.call(leases_pb2, "AddResource", id="l", resource=bad)) == "INVALID_ARGUMENT"
    assert [each.id for each in api.call(leases_pb2, "List", filters=["labels.x==1"]).leases] == ["l"]
    api.call(leases_pb2, "Delete", id="l")
    assert code_of(lambda: api.call(leases_pb2, "Delete", id="l")) == "NOT_FOUND"
    assert code_of(lambda: api.call(leases_pb2, "ListResources", id="l")) == "NOT_FOUND"
    assert code_of(lambda: api.call(leases_pb2, "AddResource", id="l", resource=resource)) == "NOT_FOUND"


def test_a_lease_names_what_is_made_under_it(api: Api) -> None:
    api.call(leases_pb2, "Create", id="l")
    with Api(api.address, api.namespace, "l") as leased:
        request = content_pb2.WriteContentRequest(action=content_pb2.COMMIT, ref="r", data=b"leased")
        digest = leased.send(content_pb2, "Write", [request])[-1].digest
        leased.call(snapshots_pb2, "Prepare", snapshotter="overlayfs", key="s")
    held = {(each.type, each.id) for each in api.call(leases_pb2, "ListResources", id="l").resources}
    assert held == {("content", digest), ("snapshots/overlayfs", "s")}


def test_a_lease_that_is_not_there(api: Api) -> None:
    with Api(api.address, api.namespace, "none") as leased:
        made = code_of(lambda: leased.call(snapshots_pb2, "Prepare", snapshotter="overlayfs", key="s"))
    assert made == "NOT_FOUND"
    assert code_of(lambda: api.call(snapshots_pb2, "Stat", snapshotter="overlayfs", key="s")) == "NOT_FOUND"


# Namespaces.


def test_namespaces(api: Api) -> None:
    name = api.namespace
    made = api.call(namespaces_pb2, "Create", namespace={"name": name, "labels": {"x": "1"}}).namespace
    assert (made.name, dict(made.labels)) == (name, {"x": "1"})
    assert code_of(lambda: api.call(namespaces_pb2, "Create", namespace={"name": name})) == "ALREADY_EXISTS"
    change = {"name": name, "labels": {"y": "2"}}
    api.call(namespaces_pb2, "Update", namespace=change, update_mask=mask("labels.y"))
    assert dict(api.call(namespaces_pb2, "Get", name=name).namespace.labels) == {"x": "1", "y": "2"}
    assert name in [each.name for each in api.call(namespaces_pb2, "List").namespaces]
    api.call(images_pb2, "Create", image=image("i"))
    assert code_of(lambda: api.call(namespaces_pb2, "Delete", name=name)) == "FAILED_PRECONDITION"
    api.call(images_pb2, "Delete", name="i")
    api.call(namespaces_pb2, "Delete", name=name)
    assert name not in [each.name for each in api.call(namespaces_pb2, "List").namespaces]
    assert code_of(lambda: api.call(namespaces_pb2, "Delete", name=name)) == "NOT_FOUND"


@pytest.mark.parametrize("name", ["", LONGEST + "x", "a/b", ".."])
def test_names_of_namespaces(api: Api, name: str) -> None:
    assert code_of(lambda: api.call(namespaces_pb2, "Create", namespace={"name": name})) == "INVALID_ARGUMENT"
    if name:
        with Api(api.address, name) as other:
            assert code_of(lambda: other.call(images_pb2, "Create", image=image("a"))) == "INVALID_ARGUMENT"
            assert code_of(lambda: other.call(images_pb2, "List")) == "INVALID_ARGUMENT"


WITHOUT: list[tuple[ModuleType, str, dict[str, Any]]] = [
    (images_pb2, "List", {}),
    (images_pb2, "Get", {"name": "a"}),
    (images_pb2, "Create", {"image": image("a")}),
    (images_pb2, "Delete", {"name": "a"}),
    (containers_pb2, "List", {}),
    (containers_pb2, "Get", {"id": "c"}),
    (containers_pb2, "Create", {"container": container("c")}),
    (leases_pb2, "Create", {"id": "l"}),
    (leases_pb2, "List", {}),
    (tasks_pb2, "List", {}),
    (tasks_pb2, "Get", {"container_id": "c"}),
    (tasks_pb2, "Kill", {"container_id": "c"}),
]


@pytest.mark.parametrize(
    ("module", "method", "fields"), WITHOUT, ids=lambda each: getattr(each, "__name__", str(each))[-40:]
)
def test_without_a_namespace(address: str, module: ModuleType, method: str, fields: dict[str, Any]) -> None:
    with Api(address) as api:
        assert code_of(lambda: api.call(module, method, **fields)) == "FAILED_PRECONDITION"


def test_namespaces_are_apart(api: Api) -> None:
    api.call(images_pb2, "Create", image=image("a"))
    created(api, "c")
    with Api(api.address, f"{api.namespace}-2") as other:
        assert not other.call(images_pb2, "List").images
        assert not other.call(containers_pb2, "List").containers
        other.call(images_pb2, "Create", image=image("a", labels={"x": "y"}))
        created(other, "c")
        other.call(images_pb2, "Delete", name="a")
    assert api.call(images_pb2, "Get", name="a").image.name == "a"


def test_what_is_elsewhere_is_said(our_api: Api) -> None:
    our_api.call(images_pb2, "Create", image=image("a"))
    created(our_api, "c")
    with Api(our_api.address, f"{our_api.namespace}-2") as other:
        for module, fields in ((images_pb2, {"name": "a"}), (containers_pb2, {"id": "c"})):
            with pytest.raises(grpc.RpcError) as failed:
                other.call(module, "Get", **fields)
            assert failed.value.code() == grpc.StatusCode.NOT_FOUND
            assert our_api.namespace in str(failed.value.details())
