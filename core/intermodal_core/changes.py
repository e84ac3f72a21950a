"""Changes of a registry that serves: plugins installed since the start, new instances, a new config as a whole.

An instance is replaced by a new one with its new config. Calls that come meanwhile wait, those under way finish on the old one
first, and when the new one cannot be had the old config is put back. An old instance of a `lasting` kind serves what it
made on, beside the new one. What can be changed by neither is told, and takes effect when the daemon starts again.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from intermodal_core import discovery
from intermodal_core.calls import Guard
from intermodal_core.config import PROXIES, RELOADABLE, Config, Core, Section
from intermodal_core.errors import FailedPrecondition
from intermodal_core.loading import load_kinds

if TYPE_CHECKING:
    from intermodal_core.registry import Record, Registry

__all__ = ["Changes", "Outcome"]

log = logging.getLogger("intermodal.registry")


class Outcome(msgspec.Struct, frozen=True):
    """What was changed, and what needs a restart of the daemon, a name or sentence each."""

    applied: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()


class Changes:
    """Changes of `registry`, one at a time. `read()` reads the config that is to be in force, `find()` what is installed."""

    def __init__(
        self,
        registry: Registry,
        read: Callable[[], Config] | None = None,
        find: Callable[[], list[discovery.Found]] = discovery.find,
    ) -> None:
        self._registry = registry
        self._read = read or (lambda: registry.config)
        self._find = find
        self._started = registry.config  # what only a start changes is as it is here
        self._path = discovery.SearchPath()
        self._lock = asyncio.Lock()

    # Plugins.

    async def rescan(self) -> Outcome:
        """Find what was installed or removed since; what had failed, or could not run here, is tried anew when needed."""
        async with self._lock:
            registry = self._registry
            restart = self._path.extend()
            importlib.invalidate_caches()
            found = await asyncio.to_thread(self._find)
            new = [point for point in found if point.group == "kinds" and point.name not in registry.kinds]
            kinds = await asyncio.to_thread(load_kinds, new)
            registry.kinds.update({kind.name: kind for kind in kinds})
            before = {record.id: record for record in registry.records()}
            registry.forgive()
            registry.rediscover(found, self._anew)
            after = {record.id: record for record in registry.records()}
            restart += [why for record in after.values() if (why := self._stale(record, found))]
            applied = [f"{id} is new" for id in after if id not in before]
            applied += [f"{id} is gone" for id in before if id not in after]
            for id, old in before.items():
                record = after.get(id, old)
                if record is not old and old.code not in ("", "config", "not_installed", "two_owners", "ended_daemon"):
                    await registry.load(record)
            await registry.start_eager()
            applied += [
                f"{id} is {record.state} now, it was {before[id].state}"
                for id, record in after.items()
                if id in before and before[id].state != record.state
            ]
            return Outcome(tuple(applied), tuple(restart))

    def _anew(self, record: Record) -> bool:
        """Whether a record is to be examined anew; the code of a failed plugin is then read anew, too."""
        if record.plugin is not None and record.state == "available":
            return False
        if record.state == "failed" and record.found is not None:
            top = record.found.value.partition(":")[0].partition(".")[0]
            users = (other.found.value for other in self._registry.records() if other.found and other is not record)
            if not any(value.startswith((f"{top}.", f"{top}:")) for value in users):
                for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
                    del sys.modules[name]
        return True

    def _stale(self, record: Record, found: list[discovery.Found]) -> str:
        """Why what is loaded of a plugin is not what is installed; "" where it is."""
        if record.plugin is None or record.found is None:
            return ""
        same = [point for point in found if point.group == record.kind and point.name == record.plugin_id]
        if not same:
            return f"{record.id} is loaded, and its distribution {record.found.distribution} is not installed any more"
        for point in same:
            if point.distribution == record.found.distribution and point.version != record.found.version:
                return f"{record.id} is loaded from {point.distribution} {record.found.version}, and {point.version} is installed"
        return ""

    async def reload(self, kind: str, name: str) -> Outcome:
        """A new instance with what the config says of it now. Raises NotFound, InvalidArgument, FailedPrecondition."""
        async with self._lock:
            record = self._registry.find(kind, name)
            config = self._read()
            await self._registry.check(config)
            section = config.section(kind, name)
            if not self._replaceable(record, section):
                raise FailedPrecondition(
                    f"{record.id} cannot be replaced while the daemon runs: restart the daemon, which touches no container"
                )
            await self._replace(record, section)
            self._registry.config.take(section)
            return Outcome((record.id,))

    # The config.

    async def reconfigure(self) -> Outcome:
        """Put the config as it is read now in force. Raises what is wrong with it, and then nothing has changed."""
        async with self._lock:
            registry = self._registry
            config = self._read()
            await registry.check(config)
            restart = [
                f"{key} ({config.where((key,))})"
                for key in Core.__struct_fields__
                if key not in RELOADABLE and getattr(config.core, key) != getattr(self._started.core, key)
            ]
            live = {key: getattr(config.core, key) for key in sorted(RELOADABLE)}
            applied = [key for key, value in live.items() if value != getattr(registry.config.core, key)]
            config.core = msgspec.structs.replace(self._started.core, **live)
            for name in sorted({*registry.config.tables, *config.tables} - registry.kinds.keys() - {PROXIES}):
                if config.tables.get(name) != registry.config.tables.get(name) and registry.live(name):
                    applied.append(f"[{name}]")
                elif config.tables.get(name) != self._started.tables.get(name) and not registry.live(name):
                    restart.append(f"[{name}] ({config.where((name,))})")
            before, registry.config = registry.config, config
            undo: list[Record] = []
            try:
                for old, section in self._differing(config):
                    if self._replaceable(old, section):
                        undo.append(old)
                        await self._replace(old, section)
                    elif registry.kinds[old.kind].lasting:  # what it made goes on, and nothing new is made with it
                        undo.append(old)
                        registry.forget(old)
                    else:
                        restart.append(f"[{old.id}] ({section.where()})")
                        continue
                    applied.append(f"[{old.id}]")
            except BaseException:
                registry.config = before
                for old in reversed(undo[:-1]):
                    if registry.kinds[old.kind].lasting:
                        registry.put(old)
                    else:
                        await self._replace(registry.find(old.kind, old.name), old.section)
                raise
            applied += [f"[{id}]" for id in registry.rediscover(None, self._other_section)]
            await registry.start_eager()
            logging.getLogger().setLevel(config.core.log_level.upper())
            for sentence in (*config.warnings, *config.notices):
                log.warning("%s", sentence)
            return Outcome(tuple(applied), tuple(restart))

    def _other_section(self, record: Record) -> bool:
        return record.section.options != self._registry.config.section(record.kind, record.name).options

    def _differing(self, config: Config) -> Iterator[tuple[Record, Section]]:
        """The instances that are ready and whose section is another now."""
        for record in self._registry.records():
            section = config.section(record.kind, record.name)
            if record.state == "ready" and section.options != record.section.options:
                yield record, section

    def _replaceable(self, record: Record, section: Section) -> bool:
        """Whether a new instance with this section can stand in for it while the daemon runs."""
        if record.state != "ready":
            return True
        same = section.common.enabled and (section.common.plugin or section.name) == record.plugin_id
        return same and (isinstance(record.instance, Guard) or bool(self._registry.kinds[record.kind].specs))

    async def _replace(self, record: Record, section: Section) -> None:
        """A new instance for `record`, or the old one again and FailedPrecondition."""
        registry = self._registry
        lasting = registry.kinds[record.kind].lasting
        if lasting or not isinstance(record.instance, Guard):
            if record.state == "ready" and not lasting:
                await registry.end(record)
            await self._renew(record, section)
            return
        guard = record.instance  # whoever has it goes on with the new one
        async with guard.held(registry.config.core.stop_deadline):
            if record.state == "ready":
                await registry.end(record)
            try:
                await self._renew(record, section, guard)
            finally:
                now = registry.find(record.kind, record.name)
                if now.state != "ready":
                    guard.become(now.why_not())

    async def _renew(self, record: Record, section: Section, guard: Guard | None = None) -> None:
        registry = self._registry
        fresh = await registry.renew(section, guard)
        if fresh.state == "ready":
            return
        if record.state != "ready":
            raise FailedPrecondition(fresh.why_not())
        if registry.kinds[record.kind].lasting:
            registry.put(record)
        else:
            await registry.renew(record.section, guard)
        raise FailedPrecondition(f"{fresh.why_not()}; it goes on with the config of before")
