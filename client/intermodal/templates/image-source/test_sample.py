"""The source keeps its contract, and stores what other tools read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.image_sources import ImageSource
from intermodal_core.testing.image_sources import Image, ImageSourceKit, Open

from intermodal_sample.source import SampleSource


class TestContract(ImageSourceKit):
    capabilities = frozenset({"push", "referrers"})
    repository = "sample.local/kit/image"

    @pytest.fixture
    def opened(self, tmp_path: Path) -> Open:
        return lambda: SampleSource(tmp_path, "sample.local")

    def test_i5_a_repository_is_a_layout(self, run: Any, tmp_path: Path) -> None:
        async def body(source: ImageSource) -> None:
            await self.store(source, Image(), "one")

        run(body)
        layout = tmp_path / "kit/image"
        assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
        (manifest,) = json.loads((layout / "index.json").read_text())["manifests"]
        assert manifest["annotations"] == {"org.opencontainers.image.ref.name": "one"}
        assert (layout / "blobs" / manifest["digest"].replace(":", "/")).is_file()
