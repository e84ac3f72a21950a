import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intermodal_core.errors import InvalidArgument
from intermodal_oci.chain import chain_ids

diff_ids = st.binary(max_size=8).map(lambda data: "sha256:" + hashlib.sha256(data).hexdigest())


def test_known_chain() -> None:
    # Computed with sha256sum by the formula of the image specification.
    first = "sha256:" + hashlib.sha256(b"one").hexdigest()
    second = "sha256:" + hashlib.sha256(b"two").hexdigest()
    assert chain_ids([]) == []
    assert chain_ids([first]) == [first]
    assert chain_ids([first, second]) == [
        first,
        "sha256:ee90d7132b9e9a049b7b0a88db345ca31fb5e8a74a5ee57210478a9a2522d499",
    ]


@given(st.lists(diff_ids, max_size=6), st.lists(diff_ids, max_size=3))
def test_a_chain_id_depends_on_what_is_below_alone(below: list[str], above: list[str]) -> None:
    chain = chain_ids(below + above)
    assert len(chain) == len(below) + len(above)
    assert chain[: len(below)] == chain_ids(below)


@given(st.lists(diff_ids, min_size=2, max_size=5, unique=True))
def test_order_matters(layers: list[str]) -> None:
    assert chain_ids(layers)[-1] != chain_ids(layers[::-1])[-1]


@given(st.lists(diff_ids, max_size=3), st.text(max_size=80))
def test_what_is_no_digest_is_refused(layers: list[str], junk: str) -> None:
    with pytest.raises(InvalidArgument):
        chain_ids([*layers, junk])
