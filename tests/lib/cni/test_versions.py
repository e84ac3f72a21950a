"""Results as each version of the specification has them."""

from __future__ import annotations

import pytest
from intermodal_cni.errors import as_document, from_document, number_of, numbered
from intermodal_cni.versions import SUPPORTED, check_version, decode_result, encode_result
from intermodal_core.contracts.cni import Dns, Interface, IpConfig, Result, Route
from intermodal_core.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unimplemented,
)

RESULT = Result(
    (Interface("br0", "02:00:00:00:00:01"), Interface("eth0", "02:00:00:00:00:02", 1400, "/run/netns/c")),
    (IpConfig("10.0.0.2/24", "10.0.0.1", 1), IpConfig("fd00::2/64", "fd00::1", 1)),
    (Route("0.0.0.0/0", "10.0.0.1", mtu=1300, priority=7, table=100),),
    Dns(("10.0.0.1",), "example", ("a", "b"), ("ndots:1",)),
)


@pytest.mark.parametrize("version", SUPPORTED)
def test_what_is_written_is_read_again(version: str) -> None:
    document = encode_result(RESULT, version)
    assert document["cniVersion"] == version
    read = decode_result(document)
    assert read.dns == RESULT.dns
    assert [ip.address for ip in read.ips] == ["10.0.0.2/24", "fd00::2/64"]
    assert (read == RESULT) == (version == "1.1.0")


def test_addresses_have_a_version_before_1_0() -> None:
    assert [ip["version"] for ip in encode_result(RESULT, "0.4.0")["ips"]] == ["4", "6"]
    assert all("version" not in ip for ip in encode_result(RESULT, "1.0.0")["ips"])


def test_keys_of_1_1_are_left_out_before() -> None:
    document = encode_result(RESULT, "1.0.0")
    assert list(document["routes"]) == [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}]
    assert "mtu" not in document["interfaces"][1]
    assert encode_result(RESULT, "1.1.0")["interfaces"][1]["mtu"] == 1400


def test_an_address_manager_has_no_interfaces() -> None:
    document = encode_result(RESULT, "1.0.0", interfaces=False)
    assert "interfaces" not in document
    assert all("interface" not in ip for ip in document["ips"])


@pytest.mark.parametrize(
    "document",
    [
        {"ips": [{"address": "here"}]},
        {"ips": [{"address": "10.0.0.1/24", "interface": 3}], "interfaces": [{"name": "a"}]},
        {"routes": [{"dst": "everywhere"}]},
        {"ips": {}},
        {"interfaces": [{}]},
    ],
)
def test_a_result_that_is_none(document: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument) as raised:
        decode_result(document)
    assert number_of(raised.value) == 6


def test_versions_that_are_not_supported() -> None:
    for version in ("", "0.2.0", "2.0.0"):
        with pytest.raises(InvalidArgument) as raised:
            check_version(version)
        assert number_of(raised.value) == 1


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (InvalidArgument("x"), 7),
        (NotFound("x"), 3),
        (Unimplemented("x"), 2),
        (DeadlineExceeded("x"), 11),
        (FailedPrecondition("x"), 100),
        (ResourceExhausted("x"), 102),
        (ValueError("x"), 999),
    ],
)
def test_errors_have_the_specifications_numbers(error: Exception, number: int) -> None:
    assert as_document(error, "1.0.0")["code"] == number


def test_a_number_is_kept_on_the_way() -> None:
    error = from_document({"code": 123, "msg": "strange", "details": "very"})
    assert (number_of(error), error.message) == (123, "strange; very")
    assert type(from_document({"code": 3, "msg": "gone"})) is NotFound
    assert number_of(numbered(50, "no", FailedPrecondition)) == 50
