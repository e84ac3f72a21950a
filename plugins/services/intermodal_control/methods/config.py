"""Methods about the config in force: what it is, what it chooses, and reading it anew."""

from __future__ import annotations

from typing import Any

import msgspec
from intermodal_core.contracts.managers.policy import SUBJECTS, Policy
from intermodal_core.contracts.managers.store import Store
from intermodal_core.errors import InvalidArgument, NotFound
from intermodal_oci import references

from intermodal_control.methods.room import Nothing, Params, Room
from intermodal_control.server import Call, Method

__all__ = ["ConfigMethods"]


class Show(Params):
    """`config.show`: with `origin` each value with its file and line."""

    origin: bool = False


class Explain(Params):
    """`config.explain`: what is chosen for an image (its reference) and labels; `asked` by subject."""

    image: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    asked: dict[str, str] = msgspec.field(default_factory=dict)


class ConfigMethods(Room):
    """`config.*` and `runtimes.list`."""

    def table(self) -> dict[str, Method]:
        """The rows."""
        return {
            "config.show": Method(self._show),
            "config.explain": Method(self._explain),
            "config.reload": Method(self._reload),
            "runtimes.list": Method(self._runtimes),
        }

    async def _show(self, call: Call) -> Any:
        params = call.params(Show)
        records = [record for record in self._registry.records() if record.state != "disabled" and record.found]
        await self._registry.import_plugins(records)
        plugins = {
            (record.kind, record.name): record.plugin for record in records if record.plugin and not record.isolated
        }
        config = self._registry.config
        warnings = [f"# not heeded: {warning}\n" for warning in config.warnings]
        return "".join(warnings) + config.dump(params.origin, plugins)

    async def _explain(self, call: Call) -> Any:
        params = call.params(Explain)
        if unknown := sorted(params.asked.keys() - set(SUBJECTS)):
            raise InvalidArgument(f"nothing called {unknown[0]} is chosen; there are: {', '.join(SUBJECTS)}")
        image = references.normalise(params.image) if params.image else ""
        labels = params.labels
        if image:
            try:
                labels = (await self._images.resolve(call.scope, params.image)).labels | labels
            except NotFound:
                pass  # it need not be here yet
        policy: Policy = self._context.get("managers", "policy")
        store: Store = self._context.get("managers", "store")
        try:
            given = (await store.namespaces.get(call.scope.named, ruled=False)).labels
        except NotFound:
            given = {}
        return await policy.explain(call.scope.namespace, image, labels, params.asked, given=given)

    async def _reload(self, call: Call) -> Any:
        call.params(Nothing)
        return await self._registry.changes.reconfigure()

    async def _runtimes(self, call: Call) -> Any:
        call.params(Nothing)
        return await self._containers.runtimes()
