"""Restart policies: what each wants, by containerd's labels."""

from __future__ import annotations

import pytest
from intermodal_core.errors import InvalidArgument
from intermodal_tasks.restarts import COUNT, EXPLICIT, POLICY, STATUS, labels_of, wants


@pytest.mark.parametrize(
    ("policy", "labels", "status", "at_start", "wanted"),
    [
        ("no", {}, 1, False, False),
        ("no", {}, 1, True, False),
        ("always", {}, 0, False, True),
        ("always", {EXPLICIT: "true"}, 0, False, False),
        ("always", {EXPLICIT: "true"}, 0, True, True),
        ("unless-stopped", {}, 0, False, True),
        ("unless-stopped", {EXPLICIT: "true"}, 0, False, False),
        ("unless-stopped", {EXPLICIT: "true"}, 0, True, False),
        ("unless-stopped", {EXPLICIT: "false"}, 0, True, True),
        ("on-failure", {}, 0, False, False),
        ("on-failure", {}, 1, False, True),
        ("on-failure", {COUNT: "1000"}, 1, False, True),
        ("on-failure", {EXPLICIT: "true"}, 137, False, False),
        ("on-failure:2", {}, 1, False, True),
        ("on-failure:2", {COUNT: "1"}, 1, False, True),
        ("on-failure:2", {COUNT: "2"}, 1, False, False),
        ("on-failure:2", {COUNT: "junk"}, 1, False, True),
    ],
)
def test_what_a_policy_wants(policy: str, labels: dict[str, str], status: int, at_start: bool, wanted: bool) -> None:
    assert wants(labels_of(policy) | labels, status, at_start) is wanted


def test_a_client_may_want_it_stopped() -> None:
    assert not wants({POLICY: "always", STATUS: "stopped"}, 1)
    assert not wants({}, 1)
    assert wants({STATUS: "running"}, 0)  # containerd's default where no policy is named


@pytest.mark.parametrize("policy", ["", "sometimes", "on-failure:", "on-failure:x", "on-failure:-1", "Always"])
def test_what_is_no_policy(policy: str) -> None:
    with pytest.raises(InvalidArgument, match="restart policy"):
        labels_of(policy)
