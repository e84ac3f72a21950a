"""Bundled services keep the contract of services. Their managers are stand-ins: what a service does with them, others test.

The gRPC service is not among them: the kit forks, which gRPC does not survive. Its life is that of the daemon tests.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from intermodal_control.plugin import plugin as control
from intermodal_core.testing.contexts import context_of
from intermodal_core.testing.services import Factory, ServiceKit
from intermodal_ttrpc_service.plugin import plugin as ttrpc

MANAGERS: dict[str, Any] = {f"managers.{name}": SimpleNamespace() for name in ("store", "images", "tasks", "policy")}


class TestControl(ServiceKit):
    @pytest.fixture
    def factory(self) -> Factory:
        return lambda top: control.factory(context_of("services", "control", control.config(), top, provided=MANAGERS))

    async def ask(self, top: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(top / "daemon.sock.control")
        try:
            writer.write(b'{"method": "version"}\n')
            if "version" not in json.loads(await reader.readuntil(b"\n"))["result"]:
                raise ConnectionResetError("no answer")
        finally:
            writer.close()
            await writer.wait_closed()


class TestTtrpc(ServiceKit):
    @pytest.fixture
    def factory(self) -> Factory:
        return lambda top: ttrpc.factory(context_of("services", "ttrpc", ttrpc.config(), top, provided=MANAGERS))

    async def ask(self, top: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(top / "daemon.sock.ttrpc")
        try:
            writer.write(b"\x00\x00\x00\x00\x00\x00\x00\x01\x01\x00")  # a request without a service
            if not await reader.read(10):
                raise ConnectionResetError("no answer")
        finally:
            writer.close()
            await writer.wait_closed()
