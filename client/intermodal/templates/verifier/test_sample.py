"""The verifier keeps its contract, and its options do what they say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from intermodal_core.errors import PluginSkipped
from intermodal_core.testing.contexts import context_of
from intermodal_core.testing.verifiers import Factory, Papers, VerifierKit

from intermodal_sample.plugin import Config, plugin
from intermodal_sample.verifier import ARTIFACT_TYPE, SampleVerifier, approval

KEY = b"of this test"


class TestContract(VerifierKit):
    @pytest.fixture
    def factory(self) -> Factory:
        return lambda: SampleVerifier(KEY)

    def good(self) -> Papers:
        papers = Papers()
        papers.attach(ARTIFACT_TYPE, approval(papers.candidate.target.digest, KEY))
        return papers

    def bad(self) -> Mapping[str, Papers]:
        other = Papers()
        other.attach(ARTIFACT_TYPE, approval(other.candidate.target.digest, b"another key"))
        return {"not approved": Papers(), "approved with another key": other}


def test_the_key_is_in_a_file(tmp_path: Path) -> None:
    config = Config(key=str(tmp_path / "key"))
    with pytest.raises(PluginSkipped, match="the key cannot be read"):
        plugin.factory(context_of("verifiers", "sample", config, tmp_path))
    (tmp_path / "key").write_bytes(KEY + b"\n")
    papers = TestContract().good()
    verifier = plugin.factory(context_of("verifiers", "sample", config, tmp_path))
    assert verifier.verify(papers.candidate, papers).accepted
