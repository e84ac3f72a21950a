"""The content store keeps its contract, and its options do what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from intermodal_core.testing.content import ContentStoreKit, Factory
from intermodal_core.testing.contexts import context_of

from intermodal_sample.content import SampleStore
from intermodal_sample.plugin import Config, plugin


class TestContract(ContentStoreKit):
    @pytest.fixture
    def factory(self) -> Factory:
        return SampleStore


def test_made_of_its_options(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    plugin.factory(context_of("content", "sample", Config(path=str(elsewhere)), tmp_path))
    assert (elsewhere / "blobs").is_dir()
