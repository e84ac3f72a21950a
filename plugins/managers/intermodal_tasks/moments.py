"""The moments in a container's life that hooks hear of; see `intermodal_core.contracts.hooks`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from intermodal_core.contracts.managers.store import AnyValue, Scope, Store
from intermodal_core.errors import NotFound
from intermodal_core.hooks import Hooks

__all__ = ["STOPPING", "Moments"]

#: The signals that are sent to end a container.
STOPPING = frozenset({signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGQUIT})

#: Seconds that a greeting may take longer for each container.
_EXTRA = 0.02


class Moments:
    """Calls the hooks; where nobody implements one, that costs a look-up in a dict."""

    def __init__(self, hooks: Hooks, store: Store) -> None:
        self._hooks = hooks
        self._store = store

    async def tell(self, hook: str, namespace: str, container: str, **arguments: Any) -> None:
        """Call a hook that takes the container, and more. Raises the error of one that denies."""
        if self._hooks.implemented(hook):
            record = await self._store.containers.get(Scope(namespace), container)
            await self._hooks.notify(hook, container=record.info, **arguments)

    async def ended(self, namespace: str, container: str, status: int) -> None:
        """`after_stop`; of a container that is gone already nothing is told."""
        try:
            await self.tell("after_stop", namespace, container, status=status)
        except NotFound:
            pass

    async def stopping(self, namespace: str, container: str, signal: int) -> None:
        """`before_stop`, when a signal that is to end init is about to be sent."""
        await self.tell("before_stop", namespace, container, signal=signal)

    async def adjusted(self, namespace: str, container: str, spec: AnyValue) -> bytes:
        """The config.json that the runtime gets. Raises the error of a hook that denies."""
        if not self._hooks.implemented("adjust_spec"):
            return spec.value
        record = await self._store.containers.get(Scope(namespace), container)
        document = msgspec.json.decode(spec.value)
        return msgspec.json.encode(await self._hooks.change("adjust_spec", document, container=record.info))

    def greet(self, running: Callable[[], Iterable[tuple[str, str]]]) -> None:
        """Let each plugin know, once, of the containers that `running()` gives as (namespace, id)."""

        async def containers() -> dict[str, Any]:
            known = []
            for namespace, container in running():
                try:
                    known.append((await self._store.containers.get(Scope(namespace), container)).info)
                except NotFound:
                    pass  # removed meanwhile
            return {"containers": known}

        self._hooks.greet("synchronize", containers, extra=_EXTRA)
