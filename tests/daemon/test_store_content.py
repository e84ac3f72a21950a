"""The content service: writes, reads and who sees what. What takes `kept` or `address` holds for a stock containerd, too."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from intermodal_api.containerd.services import content_pb2 as pb
from intermodal_api.containerd.services import leases_pb2

from tests.harness.api import Api, code_of
from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built

DATA = bytes(range(256)) * 40


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def write(api: Api, ref: str, *messages: dict[str, Any]) -> list[pb.WriteContentResponse]:
    requests = [pb.WriteContentRequest(**{"ref": ref, **fields}) for fields in messages]
    return api.send(pb, "Write", requests)  # type: ignore[no-any-return]


def put(api: Api, data: bytes, **fields: Any) -> str:
    """Write a blob as clients do: bytes, then a commit."""
    opened = {"action": pb.STAT, "total": len(data), "expected": digest_of(data)}
    commit = {"action": pb.COMMIT, "total": len(data), "offset": len(data), "expected": digest_of(data), **fields}
    *_, last = write(api, digest_of(data), opened, {"action": pb.WRITE, "data": data}, commit)
    assert last.digest == digest_of(data)
    return last.digest


def read(api: Api, digest: str, offset: int = 0, size: int = 0) -> bytes:
    return b"".join(each.data for each in api.call(pb, "Read", digest=digest, offset=offset, size=size))


def test_a_blob_is_written_and_read_back(kept: Api) -> None:
    stat, wrote, committed, *_ = write(
        kept,
        "r",
        {"action": pb.STAT, "total": len(DATA)},
        {"action": pb.WRITE, "data": DATA},
        {"action": pb.COMMIT, "offset": len(DATA), "expected": digest_of(DATA), "labels": {"a": "b"}},
    )
    assert (stat.offset, wrote.offset, committed.digest) == (0, len(DATA), digest_of(DATA))
    assert read(kept, digest_of(DATA)) == DATA
    info = kept.call(pb, "Info", digest=digest_of(DATA)).info
    assert (info.size, dict(info.labels)) == (len(DATA), {"a": "b"})
    assert [each.digest for page in kept.call(pb, "List") for each in page.info] == [digest_of(DATA)]
    assert not kept.call(pb, "ListStatuses").statuses


def test_offsets_of_reads(kept: Api) -> None:
    digest = put(kept, DATA)
    assert read(kept, digest, 100, 50) == DATA[100:150]
    assert read(kept, digest, len(DATA) - 10, 50) == DATA[-10:]
    assert read(kept, digest, len(DATA)) == b""
    assert code_of(lambda: read(kept, digest, len(DATA) + 1)) == "OUT_OF_RANGE"
    assert code_of(lambda: read(kept, digest_of(b"nothing"))) == "NOT_FOUND"


def test_a_big_blob_comes_in_pieces(kept: Api) -> None:
    data = os.urandom(3_000_001)
    pieces = [
        {"action": pb.WRITE, "data": data[at : at + (1 << 20)], "offset": at} for at in range(0, len(data), 1 << 20)
    ]
    write(kept, "big", *pieces, {"action": pb.COMMIT, "offset": len(data), "expected": digest_of(data)})
    assert read(kept, digest_of(data)) == data
    assert read(kept, digest_of(data), 1 << 20, 70_000) == data[1 << 20 : (1 << 20) + 70_000]


def test_a_write_goes_on_where_it_was(kept: Api) -> None:
    write(kept, "r", {"action": pb.WRITE, "data": b"abc", "total": 6})
    (status,) = kept.call(pb, "ListStatuses").statuses
    assert (status.ref, status.offset, status.total) == ("r", 3, 6)
    assert kept.call(pb, "Status", ref="r").status.offset == 3
    stat = write(kept, "r", {"action": pb.STAT})[0]
    assert (stat.offset, stat.digest) == (3, digest_of(b"abc"))
    assert code_of(lambda: write(kept, "r", {"action": pb.WRITE, "data": b"x", "offset": 2})) == "OUT_OF_RANGE"
    assert code_of(lambda: write(kept, "r", {"action": pb.WRITE, "data": b"x", "offset": 4})) == "OUT_OF_RANGE"
    last = write(kept, "r", {"action": pb.COMMIT, "data": b"def", "offset": 3, "expected": digest_of(b"abcdef")})[-1]
    assert last.digest == digest_of(b"abcdef")


def test_offset_nought_begins_anew(kept: Api) -> None:
    write(kept, "r", {"action": pb.WRITE, "data": b"wrong"})
    commit = {"action": pb.COMMIT, "data": b"right", "expected": digest_of(b"right")}
    assert write(kept, "r", commit)[-1].digest == digest_of(b"right")


def test_a_commit_that_does_not_match(kept: Api) -> None:
    wrong = {"action": pb.COMMIT, "data": b"abc", "expected": digest_of(b"other")}
    assert code_of(lambda: write(kept, "r", wrong)) == "FAILED_PRECONDITION"
    assert code_of(lambda: write(kept, "s", {"action": pb.COMMIT, "data": b"abc", "total": 4})) == "FAILED_PRECONDITION"
    assert code_of(lambda: kept.call(pb, "Info", digest=digest_of(b"abc"))) == "NOT_FOUND"
    assert code_of(lambda: write(kept, "", {"action": pb.WRITE, "data": b"a"})) == "INVALID_ARGUMENT"


def test_what_is_there_needs_no_writing(kept: Api) -> None:
    digest = put(kept, b"there")
    again = {"action": pb.STAT, "total": 5, "expected": digest}
    assert code_of(lambda: write(kept, "r", again)) == "ALREADY_EXISTS"
    assert code_of(lambda: write(kept, "r", {"action": pb.COMMIT, "data": b"there"})) == "ALREADY_EXISTS"
    assert not kept.call(pb, "ListStatuses").statuses


def test_one_writer_for_a_ref(kept: Api) -> None:
    held, wait = threading.Event(), threading.Event()

    def requests() -> Any:
        yield pb.WriteContentRequest(ref="r", action=pb.WRITE, data=b"a")
        held.set()
        wait.wait(20)

    other = threading.Thread(target=lambda: kept.send(pb, "Write", requests()))
    other.start()
    try:
        assert held.wait(20)
        # The request is taken in once its answer can have been sent; until then the ref is free.
        codes = {code_of(lambda: write(kept, "r", {"action": pb.STAT})) for _ in range(20)}
        assert "UNAVAILABLE" in codes
    finally:
        wait.set()
        other.join(20)
    assert write(kept, "r", {"action": pb.STAT})[0].offset == 1


def test_an_abort(kept: Api) -> None:
    write(kept, "r", {"action": pb.WRITE, "data": b"abc"})
    kept.call(pb, "Abort", ref="r")
    assert code_of(lambda: kept.call(pb, "Status", ref="r")) == "NOT_FOUND"
    assert code_of(lambda: kept.call(pb, "Abort", ref="r")) == "NOT_FOUND"


def test_labels_and_their_masks(kept: Api) -> None:
    digest = put(kept, b"labelled", labels={"a": "1", "b": "2"})

    def update(paths: list[str], **labels: str) -> dict[str, str]:
        mask = FieldMask(paths=paths) if paths else None
        info = pb.Info(digest=digest, labels=labels)
        return dict(kept.call(pb, "Update", info=info, update_mask=mask).info.labels)

    assert update(["labels.a"], a="3") == {"a": "3", "b": "2"}
    assert update(["labels.b"]) == {"a": "3"}
    assert update(["labels"], c="4") == {"c": "4"}
    assert update([], d="5") == {"d": "5"}
    assert code_of(lambda: update(["size"])) == "INVALID_ARGUMENT"
    assert code_of(lambda: update(["labels"], x="y" * 4096)) == "INVALID_ARGUMENT"
    missing = pb.Info(digest=digest_of(b"missing"), labels={"a": "b"})
    assert code_of(lambda: kept.call(pb, "Update", info=missing)) == "NOT_FOUND"


def test_filters(kept: Api) -> None:
    one = put(kept, b"one", labels={"n": "1"})
    two = put(kept, b"two", labels={"n": "2", "even": "yes"})

    def found(*filters: str) -> set[str]:
        return {each.digest for page in kept.call(pb, "List", filters=filters) for each in page.info}

    assert found('labels.n=="1"') == {one}
    assert found("labels.even") == {two}
    assert found(f"digest=={one}", "labels.n==2") == {one, two}
    assert found("labels.n~=[0-9],labels.n!=1") == {two}
    assert code_of(lambda: found("labels.n=")) == "INVALID_ARGUMENT"


def test_a_blob_goes(kept: Api) -> None:
    digest = put(kept, b"going")
    kept.call(pb, "Delete", digest=digest)
    assert code_of(lambda: kept.call(pb, "Info", digest=digest)) == "NOT_FOUND"
    assert code_of(lambda: kept.call(pb, "Delete", digest=digest)) == "NOT_FOUND"
    assert code_of(lambda: kept.call(pb, "Delete", digest="sha256:no")) == "INVALID_ARGUMENT"
    assert put(kept, b"going") == digest


def test_without_a_namespace(address: str) -> None:
    with Api(address) as api:
        assert code_of(lambda: api.call(pb, "Info", digest=digest_of(b"x"))) == "FAILED_PRECONDITION"
        assert code_of(lambda: api.call(pb, "List")) == "FAILED_PRECONDITION"
        assert code_of(lambda: write(api, "r", {"action": pb.STAT})) == "FAILED_PRECONDITION"


@pytest.mark.parametrize("told", [True, False], ids=["digest", "no digest"])
def test_a_second_namespace_shows_the_bytes(kept: Api, told: bool) -> None:
    """What another namespace holds is written like anything else, and seen by both."""
    data = b"shared" + bytes([told])
    put(kept, data)
    with Api(kept.address, f"{kept.namespace}-2") as other:
        other.lease = other.call(leases_pb2, "Create", id="kept").lease.id
        assert code_of(lambda: other.call(pb, "Info", digest=digest_of(data))) == "NOT_FOUND"
        fields = {"expected": digest_of(data)} if told else {}
        write(other, "r", {"action": pb.COMMIT, "data": data, "total": len(data), **fields})
        assert read(other, digest_of(data)) == data
        kept.call(pb, "Delete", digest=digest_of(data))
        assert read(other, digest_of(data)) == data
    assert code_of(lambda: read(kept, digest_of(data))) == "NOT_FOUND"


def test_knowing_a_digest_is_not_enough(our_api: Api) -> None:
    """Nothing is to be had of a blob that only another namespace has shown."""
    digest = put(our_api, b"secret")
    with Api(our_api.address, f"{our_api.namespace}-2") as other:
        assert write(other, "r", {"action": pb.STAT, "total": 6, "expected": digest})[0].offset == 0
        wrong = {"action": pb.COMMIT, "data": b"guess!", "expected": digest}
        assert code_of(lambda: write(other, "r", wrong)) == "FAILED_PRECONDITION"
        for method in ("Info", "Read", "Delete"):
            with pytest.raises(grpc.RpcError, match=our_api.namespace) as failed:
                other.call(pb, method, digest=digest)
            assert failed.value.code() == grpc.StatusCode.NOT_FOUND, "it names the namespace that holds it"
        assert other.call(pb, "List") == []


def test_ctr_imports_into_one_namespace_after_the_other(ours: PrivateDaemon, busybox: Built) -> None:
    for namespace in ("first", "second"):
        ours.ctr("--namespace", namespace, "images", "import", str(busybox.path), check=True)
        assert "complete" in ours.ctr("--namespace", namespace, "images", "check", check=True).stdout


def test_imod_keeps_blobs_from_the_collector_as_ctr_does(ours: PrivateDaemon, busybox: Built) -> None:
    ours.ctr("--namespace", "by-ctr", "images", "import", str(busybox.path), check=True)
    ours.imod("--namespace", "by-imod", "images", "import", str(busybox.path), check=True)

    def references(namespace: str) -> dict[str, dict[str, str]]:
        with Api(ours.address, namespace) as api:
            infos = [each for page in api.call(pb, "List") for each in page.info]
        return {
            each.digest: {key: value for key, value in each.labels.items() if key.startswith("containerd.io/gc.ref.")}
            for each in infos
        }

    theirs, mine = references("by-ctr"), references("by-imod")
    assert any(theirs.values())
    assert {digest: theirs[digest] for digest in mine} == mine
    assert busybox.manifest in mine
