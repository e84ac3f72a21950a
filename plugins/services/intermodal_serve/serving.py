"""One backend on a socket of its own, as containerd's proxy plugins speak: for it the namespace of a call means nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from intermodal_core.errors import InvalidArgument
from intermodal_core.plugin import Context
from intermodal_http2.server import Server
from intermodal_wire.calls import Call, Service
from intermodal_wire.content import Content
from intermodal_wire.diff import Diff
from intermodal_wire.health import Health
from intermodal_wire.snapshots import Snapshots

from intermodal_serve.unscoped import UnscopedContent, UnscopedDiffs, UnscopedSnapshots

if TYPE_CHECKING:
    from intermodal_serve.plugin import Config

__all__ = ["Serving"]


class Serving:
    """The server's life within the daemon's."""

    def __init__(self, context: Context[Config]) -> None:
        self._context = context
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        """Make the backend ready and serve. Raises InvalidArgument for a kind that is not served, and why it is not ready."""
        context, config = self._context, self._context.config
        kind, _, name = config.serves.partition(".")
        if kind not in ("snapshotters", "content", "differs") or not name:
            raise InvalidArgument(
                f"{config.serves} cannot be served: write serves = KIND.NAME with one of snapshotters, content, differs"
            )
        backend = await context.registry.require(kind, name)
        record = context.registry.find(kind, name)
        health = Health(
            lambda service: record.trouble, context.registry.change
        )  # whatever is asked for, there is but one
        services = [self._service(kind, backend), health]
        self._server = Server(services, context.registry.idle.busy, Call)
        core = context.registry.config.core
        address = config.address or context.address
        await self._server.listen(address, int(core.socket_mode, 8), core.socket_owner, core.socket_group)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let go of the socket."""
        if self._server is not None:
            await self._server.close(self._context.config.grace)

    def _service(self, kind: str, backend: Any) -> Service:
        unscoped: Any  # has those methods of a manager that the service calls
        if kind == "snapshotters":
            unscoped = UnscopedSnapshots(backend)
            return Snapshots(unscoped)
        if kind == "content":
            unscoped = UnscopedContent(backend)
            return Content(unscoped)
        unscoped = UnscopedDiffs(backend, self._context.config.content)
        return Diff(unscoped)
