"""The snapshots service. What takes `kept` or `address` holds for a stock containerd, too."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from intermodal_api.containerd.services import snapshots_pb2 as pb

from tests.harness.api import Api, code_of

NAME = "overlayfs"


def call(api: Api, method: str, **fields: Any) -> Any:
    return api.call(pb, method, **{"snapshotter": NAME, **fields})


def committed(api: Api, name: str, parent: str = "", **labels: str) -> None:
    call(api, "Prepare", key=f"making {name}", parent=parent)
    call(api, "Commit", name=name, key=f"making {name}", labels=labels)


def listed(api: Api, *filters: str) -> set[str]:
    return {each.name for page in call(api, "List", filters=filters) for each in page.info}


def test_a_life(kept: Api) -> None:
    committed(kept, "base")
    mounts = call(kept, "Prepare", key="c", parent="base", labels={"a": "b"}).mounts
    assert mounts
    assert [each.source for each in call(kept, "Mounts", key="c").mounts] == [each.source for each in mounts]
    info = call(kept, "Stat", key="c").info
    assert (info.name, info.parent, info.kind, dict(info.labels)) == ("c", "base", pb.ACTIVE, {"a": "b"})
    call(kept, "View", key="v", parent="base")
    assert call(kept, "Stat", key="v").info.kind == pb.VIEW
    assert call(kept, "Usage", key="base").inodes >= 1
    assert listed(kept) == {"base", "c", "v"}
    for key in ("c", "v", "base"):
        call(kept, "Remove", key=key)
    assert listed(kept) == set()


def test_what_is_not_there(kept: Api) -> None:
    assert code_of(lambda: call(kept, "Stat", key="no")) == "NOT_FOUND"
    assert code_of(lambda: call(kept, "Mounts", key="no")) == "NOT_FOUND"
    assert code_of(lambda: call(kept, "Remove", key="no")) == "NOT_FOUND"
    assert code_of(lambda: call(kept, "Usage", key="no")) == "NOT_FOUND"
    assert code_of(lambda: call(kept, "Prepare", key="c", parent="no")) == "NOT_FOUND"
    assert code_of(lambda: call(kept, "Commit", key="no", name="n")) == "NOT_FOUND"
    info = pb.Info(name="no", labels={"a": "b"})
    assert code_of(lambda: call(kept, "Update", info=info)) == "NOT_FOUND"
    assert listed(kept) == set()


def test_a_snapshotter_that_is_not_there(kept: Api) -> None:
    assert code_of(lambda: call(kept, "Stat", snapshotter="other", key="c")) == "INVALID_ARGUMENT"


def test_names_that_are_taken(kept: Api) -> None:
    committed(kept, "base")
    call(kept, "Prepare", key="c", parent="base")
    assert code_of(lambda: call(kept, "Prepare", key="c", parent="base")) == "ALREADY_EXISTS"
    assert code_of(lambda: call(kept, "View", key="c", parent="base")) == "ALREADY_EXISTS"
    assert code_of(lambda: call(kept, "Prepare", key="base")) == "ALREADY_EXISTS"
    assert code_of(lambda: call(kept, "Commit", key="c", name="base")) == "ALREADY_EXISTS"
    assert call(kept, "Stat", key="c").info.kind == pb.ACTIVE, "it can still be committed"
    call(kept, "Commit", key="c", name="other")


def test_a_commit_is_once(kept: Api) -> None:
    call(kept, "Prepare", key="c")
    call(kept, "Commit", key="c", name="n")
    assert code_of(lambda: call(kept, "Commit", key="c", name="n")) in ("ALREADY_EXISTS", "NOT_FOUND")
    assert code_of(lambda: call(kept, "Commit", key="c", name="m")) == "NOT_FOUND"
    assert listed(kept) == {"n"}


def test_only_an_active_one_is_committed(our_api: Api) -> None:
    committed(our_api, "base")
    call(our_api, "View", key="v", parent="base")
    assert code_of(lambda: call(our_api, "Commit", key="v", name="n")) == "FAILED_PRECONDITION"
    assert code_of(lambda: call(our_api, "Commit", key="base", name="n")) == "FAILED_PRECONDITION"
    assert code_of(lambda: call(our_api, "Mounts", key="base")) == "FAILED_PRECONDITION"
    call(our_api, "Prepare", key="c")
    assert code_of(lambda: call(our_api, "Prepare", key="d", parent="c")) == "INVALID_ARGUMENT"


def test_parents_stay_while_they_have_children(kept: Api) -> None:
    committed(kept, "base")
    committed(kept, "top", "base")
    assert code_of(lambda: call(kept, "Remove", key="base")) == "FAILED_PRECONDITION"
    call(kept, "Remove", key="top")
    call(kept, "Remove", key="base")


def test_the_target_of_an_extraction_is_found(kept: Api) -> None:
    """A client that says what its key will become is told when that is there already."""
    committed(kept, "chain")
    target = {"containerd.io/snapshot.ref": "chain"}
    assert code_of(lambda: call(kept, "Prepare", key="extract", labels=target)) in ("ALREADY_EXISTS", "OK")


def test_labels_and_their_masks(kept: Api) -> None:
    committed(kept, "base", a="1", b="2")

    def update(paths: list[str], **labels: str) -> dict[str, str]:
        info = pb.Info(name="base", labels=labels)
        mask = FieldMask(paths=paths) if paths else None
        return dict(call(kept, "Update", info=info, update_mask=mask).info.labels)

    assert update(["labels.a"], a="3") == {"a": "3", "b": "2"}
    assert update(["labels"], c="4") == {"c": "4"}
    assert update([], d="5") == {"d": "5"}
    assert code_of(lambda: update(["parent"])) == "INVALID_ARGUMENT"
    assert code_of(lambda: call(kept, "Prepare", key="c", labels={"x": "y" * 4096})) == "INVALID_ARGUMENT"


def test_filters(kept: Api) -> None:
    committed(kept, "base", n="1")
    committed(kept, "top", "base", n="2")
    call(kept, "Prepare", key="c", parent="top")
    assert listed(kept, "labels.n==1") == {"base"}
    assert listed(kept, "parent==base") == {"top"}
    assert listed(kept, "kind==active") == {"c"}
    assert listed(kept, "name~=^(base|c)$") == {"base", "c"}
    assert code_of(lambda: listed(kept, "name=")) in ("INVALID_ARGUMENT", "UNKNOWN")


def test_without_a_namespace(address: str) -> None:
    with Api(address) as api:
        assert code_of(lambda: call(api, "Stat", key="c")) == "FAILED_PRECONDITION"
        assert code_of(lambda: call(api, "Prepare", key="c")) == "FAILED_PRECONDITION"


def test_namespaces_are_apart(kept: Api) -> None:
    committed(kept, "base")
    with Api(kept.address, f"{kept.namespace}-2") as other:
        assert listed(other) == set()
        assert code_of(lambda: call(other, "Prepare", key="c", parent="base")) == "NOT_FOUND"
        committed(other, "base")
    call(kept, "Remove", key="base")


@pytest.mark.parametrize("what", ["Prepare", "Commit"])
def test_of_many_at_once_one_wins(kept: Api, what: str) -> None:
    if what == "Commit":
        for number in range(8):
            call(kept, "Prepare", key=f"c{number}")
    start = threading.Barrier(8)
    codes: list[str] = []

    def work(number: int) -> None:
        start.wait(20)
        fields = {"key": "c"} if what == "Prepare" else {"key": f"c{number}", "name": "n"}
        codes.append(code_of(lambda: call(kept, what, **fields)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(codes) == ["ALREADY_EXISTS"] * 7 + ["OK"]
    assert listed(kept) == ({"c"} if what == "Prepare" else {"n", *listed(kept, "kind==active")})


def test_the_names_of_other_snapshots_are_no_prefix(our_api: Api) -> None:
    """Any text is a key, as clients' keys have slashes, spaces and colons."""
    for key in ("a/b", "a b", "sha256:1", "x" * 300, "ünïcode"):
        call(our_api, "Prepare", key=key)
        assert call(our_api, "Stat", key=key).info.name == key
    assert code_of(lambda: call(our_api, "Prepare", key="")) == "INVALID_ARGUMENT"
