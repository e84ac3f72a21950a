"""The service keeps its contract, and says what it is there to say."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from intermodal_core.testing.contexts import context_of
from intermodal_core.testing.services import Factory, ServiceKit

from intermodal_sample.plugin import Config, plugin
from intermodal_sample.service import SampleService

REPORT = {"snapshotters.native": "ready"}


async def read_line(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        return await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()


class TestContract(ServiceKit):
    @pytest.fixture
    def factory(self) -> Factory:
        return lambda top: SampleService(top / "sample.sock", lambda: REPORT)

    async def ask(self, top: Path) -> None:
        if json.loads(await read_line(top / "sample.sock") or "{}") != REPORT:
            raise ConnectionResetError("there was no report")


def test_made_of_its_options(tmp_path: Path) -> None:
    async def body() -> bytes:
        async with plugin.factory(context_of("services", "sample", Config(), tmp_path)):
            return await read_line(tmp_path / "daemon.sock.sample")

    assert json.loads(asyncio.run(body())) == {}
