"""The registry: discovers plugins, makes them ready in the order of their requirements, and knows the state of each."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from intermodal_core.background import Background
from intermodal_core.calls import Guard, Pool
from intermodal_core.changes import Changes
from intermodal_core.config import PROXIES, Config, Section
from intermodal_core.discovery import Found
from intermodal_core.errors import FailedPrecondition, IntermodalError, InvalidArgument, NotFound, PluginSkipped
from intermodal_core.hooks import Hooks
from intermodal_core.idle import Idle
from intermodal_core.kinds import Kind
from intermodal_core.loading import LoadError, Marker, construct, file_name, import_plugin, load_attribute
from intermodal_core.plugin import Context, Plugin
from intermodal_core.records import Record, State

if TYPE_CHECKING:
    from intermodal_core.events import EventBus
    from intermodal_core.spawner import Spawner

__all__ = ["Record", "Registry", "State"]

log = logging.getLogger("intermodal.registry")


class Registry:
    """All kinds and plugin instances of one daemon. Its methods run on the daemon's loop."""

    def __init__(
        self,
        found: Iterable[Found],
        kinds: Iterable[Kind],
        config: Config,
        events: EventBus,
        spawner: Spawner,
        address: str,
        read: Callable[[], Config] | None = None,
    ) -> None:
        """`read()` reads the config anew, for a reload."""
        self.kinds = {kind.name: kind for kind in kinds}
        self.config = config
        self.events = events
        self.spawner = spawner
        self.address = address
        self.idle = Idle()
        self.hooks = Hooks()
        for kind in self.kinds.values():
            if kind.specs:
                self.hooks.add_specs(load_attribute(kind.specs))
        self._state = Path(config.core.state)
        self.changes = Changes(self, read)
        self._marker = Marker(self._state / "initialising")
        self._records: dict[tuple[str, str], Record] = {}
        self._variants: dict[tuple[str, str, str, bytes], Record] = {}
        self._order: list[Record] = []
        self._waits: dict[str, str] = {}
        self._background = Background(log)
        self._change = asyncio.Event()
        self._offers: dict[tuple[str, str], list[Found]] = {}
        self._installed: dict[str, set[str]] = {}
        self.rediscover(list(found))

    # What there is.

    def rediscover(
        self, found: Iterable[Found] | None = None, anew: Callable[[Record], bool] = lambda record: True
    ) -> list[str]:
        """Take up what was `found` (None: nothing else than before) and what the config says; the ids of what became another.

        Of the records that are not ready, those are forgotten that are no more, and those examined anew that `anew` tells.
        """
        if found is not None:
            self._offers = _offers(found, self.kinds)
            self._installed = {kind: {name for group, name in self._offers if group == kind} for kind in self.kinds}
        self.config.take_proxies(self.kinds.values())
        instances = {key: key[1] for key in self._offers if not key[1].startswith("_")}
        sections = {key: section for key, section in self.config.instances().items() if key[0] in self.kinds}
        instances.update({key: section.common.plugin or key[1] for key, section in sections.items()})
        idle = [key for key, record in self._records.items() if record.state != "ready" and record.pending is None]
        changed = [self._records.pop(key).id for key in idle if key not in instances]
        for (kind, name), plugin_id in instances.items():
            old = self._records.get((kind, name))
            if old is None or ((kind, name) in idle and anew(old)):
                fresh = self._examine(self.config.section(kind, name), plugin_id)
                fresh.instance = old.instance if old else None
                self.put(fresh)
                changed.append(f"{kind}.{name}")
        self._records = dict(sorted(self._records.items()))
        return changed

    def forgive(self) -> None:
        """Give those that ended the daemon another chance, when they are next examined."""
        self._marker.forget()

    def put(self, record: Record) -> None:
        """Let it stand for the instance of its name."""
        self._records[record.kind, record.name] = record
        if record.required and self.kinds[record.kind].specs:
            self.hooks.demand(record.id, record.section.common.guards)

    def _examine(self, section: Section, plugin_id: str) -> Record:
        kind, name, common = section.kind, section.name, section.common
        wanted = common.distribution
        offers = self._offers.get((kind, plugin_id), [])
        chosen = [offer for offer in offers if not wanted or offer.distribution == wanted]
        record = Record(kind, name, plugin_id, chosen[0] if len(chosen) == 1 else None, section)
        record.required = common.required
        if not common.enabled:
            record.settle("disabled", "config", "", f"set enabled = true in [{record.id}]")
        elif not chosen:
            record.settle(
                "failed",
                "not_installed",
                f"no installed distribution offers {plugin_id} in the group intermodal.{kind}",
                f"install the one that does, or name another with plugin = ... in [{record.id}]",
            )
        elif len(chosen) > 1:
            owners = " and ".join(sorted(offer.distribution for offer in chosen))
            record.settle(
                "failed",
                "two_owners",
                f"{plugin_id} is offered by {owners}",
                f'set distribution = "..." in [{record.id}] to pick one',
            )
        elif self._marker.ended(record.id):
            record.settle(
                "failed",
                "ended_daemon",
                "ended the daemon the last two times, while it was being made ready",
                "update or remove it, then have it tried again with imod plugins rescan",
            )
        return record

    def records(self, kind: str = "") -> list[Record]:
        """Every instance, or those of one kind, by kind and name."""
        return [record for record in self._records.values() if kind in ("", record.kind)]

    def find(self, kind: str, name: str) -> Record:
        """The record of one instance. Raises NotFound naming what there is."""
        record = self._records.get((kind, name))
        if record is None:
            names = ", ".join(other.name for other in self.records(kind)) or "none"
            raise NotFound(f"there is no {kind}.{name} (of {kind} there are: {names})")
        return record

    def get(self, kind: str, name: str) -> Record | None:
        """The record of one instance, if there is one."""
        return self._records.get((kind, name))

    async def capable(self, kind: str, capability: str) -> Record:
        """The first instance, by name, whose plugin has a capability. Raises FailedPrecondition when none has."""
        for record in self.records(kind):
            await self._ready(record)
            if record.state == "ready" and record.plugin is not None and capability in record.plugin.capabilities:
                return record
        raise FailedPrecondition(f"no plugin of the kind {kind} that can be used here has the capability {capability}")

    def names(self) -> dict[str, set[str]]:
        """The plugin ids installed, by kind."""
        return self._installed

    def live(self, table: str) -> bool:
        """Whether the plugin that claims a top-level table reads it at each use."""
        return any(table in record.plugin.live for record in self._records.values() if record.plugin)

    def tables(self) -> set[str]:
        """The top-level tables of the config that plugins made ready, or tried, claim."""
        return {name for record in self._records.values() if record.plugin for name in record.plugin.tables}

    def chosen(self, kind: str) -> Record:
        """The one instance of a kind of which exactly one is in use.

        Raises FailedPrecondition when none or more than one is enabled.
        """
        usable = [record for record in self.records(kind) if record.state in ("available", "ready")]
        if len(usable) == 1:
            return usable[0]
        if not usable:
            refused = "; ".join(record.why_not() for record in self.records(kind))
            raise FailedPrecondition(f"no plugin of the kind {kind} can be used: {refused or 'none is installed'}")
        names = ", ".join(record.name for record in usable)
        raise FailedPrecondition(
            f"one plugin of the kind {kind} is to be used, and {names} are enabled: "
            f"set enabled = false in the section of each other"
        )

    # Making ready.

    async def check(self, config: Config) -> None:
        """Check all of `config`, which need not be the one in force. Raises InvalidArgument for the first mistake.

        Plugins that it configures, and those that are made ready at start, are imported for that; where a top-level table is left
        that none of these claims, all that may be used are.
        """
        config.take_proxies(self.kinds.values())
        records = self._records.values()
        told = [
            section.common.plugin or name for (_, name), section in config.instances().items() if section.common.enabled
        ]
        await self.import_plugins(
            record for record in records if self.kinds[record.kind].eager or record.plugin_id in told
        )
        if config.tables.keys() - self.kinds - self.tables() - {PROXIES}:
            await self.import_plugins(records)
        plugins = {(r.kind, r.plugin_id): r.plugin for r in records if r.plugin is not None and not r.isolated}
        unusable = [r.why_not() for r in records if r.plugin is None and r.state in ("disabled", "failed")]
        config.check(self._installed, plugins, unusable)
        for key, section in config.instances().items():
            if (record := self._records.get(key)) is not None and record.isolated and section.common.enabled:
                await self._check_isolated(record, section)

    async def _check_isolated(self, record: Record, section: Section) -> None:
        """Have its own process check its options, since the plugin is not imported here."""
        try:
            if record.state == "available":
                await self._plugin(record)
            if record.process is not None:
                await record.process.check(section)
        except LoadError as error:
            record.settle("failed", error.code, str(error), error.remedy)

    async def import_plugins(self, records: Iterable[Record]) -> None:
        """Import the plugins of those that may be used; the record of one that cannot be tells why."""
        for record in list(records):
            if record.state == "available" and record.plugin is None and not record.isolated:
                try:
                    await self._plugin(record)
                except LoadError as error:
                    record.settle("failed", error.code, str(error), error.remedy)

    async def _plugin(self, record: Record) -> Plugin[Any]:
        if record.plugin is None and record.isolated:
            from intermodal_core.isolation import process_of

            record.process = process_of(self, record)
            record.plugin = await record.process.load()
        elif record.plugin is None:
            assert record.found is not None
            with self._marker.around(record.id):
                record.plugin = await import_plugin(
                    record.found, self.kinds[record.kind], self.config.core.plugin_deadline
                )
        return record.plugin

    async def start(self) -> None:
        """Check the config, and make every enabled instance of the eager kinds ready.

        Raises InvalidArgument for a mistake in the config, FailedPrecondition when a required instance cannot be had.
        """
        await self.check(self.config)
        for sentence in (*self.config.warnings, *self.config.notices):
            log.warning("%s", sentence)
        await self.start_eager()
        for record in self._records.values():
            # What required hooks guard is refused without them; the rest is served.
            if record.required and not self.kinds[record.kind].specs:
                await self.require(record.kind, record.name)
        counts: dict[str, int] = {}
        for record in self._records.values():
            counts[record.state] = counts.get(record.state, 0) + 1
            if record.state == "failed":
                log.warning("%s", record.why_not())
        log.info("plugins: %s", ", ".join(f"{count} {state}" for state, count in sorted(counts.items())))

    async def start_eager(self) -> None:
        """Make every instance of the eager kinds ready that can be."""
        for kind in list(self.kinds.values()):
            for record in self.records(kind.name) if kind.eager else []:
                await self._ready(record)
        for id, error in self.hooks.misspelt():  # all that state hooks have done so
            self.hooks.unregister(id)
            self.find(*id.split(".", 1)).settle("failed", "no_such_hook", str(error), "update it, or the daemon")

    def forget(self, record: Record) -> None:
        """Have nobody find it any more; it ends with the daemon."""
        del self._records[record.kind, record.name]

    async def renew(self, section: Section, guard: Guard | None = None) -> Record:
        """A new record with this section, and a new instance, if there can be one, for the one of its name.

        `guard` is that of the old one, which is to stand for the new one.
        """
        fresh = self._examine(section, section.common.plugin or section.name)
        fresh.instance = guard
        self.put(fresh)
        await self._ready(fresh)
        return fresh

    async def load(self, record: Record) -> None:
        """Make one instance ready, if it can be; its record tells what came of it."""
        await self._ready(record)

    async def require(self, kind: str, name: str = "") -> Any:
        """The ready instance, made so if need be; without a name the kind's chosen one.

        Raises NotFound for a name that is not there, FailedPrecondition with the reason for one that cannot be had.
        """
        record = self.find(kind, name) if name else self.chosen(kind)
        await self._ready(record)
        if record.state != "ready":
            raise FailedPrecondition(record.why_not())
        return record.instance

    async def variant(self, kind: str, name: str, plugin_id: str, options: Mapping[str, Any]) -> Any:
        """An instance beside the one that the config describes, if it does, with these options of its plugin; the same each time.

        For what was made under another config, and lives on. It has the directories of `name`. Raises FailedPrecondition
        with the reason for one that cannot be had.
        """
        key = (kind, name, plugin_id, msgspec.json.encode(options, order="deterministic"))
        record = self._variants.get(key)
        if record is None or record.state not in ("available", "ready"):
            own = self.config.section(kind, name).options
            common = {key: own[key] for key in ("isolation", "deadline", "threads") if key in own}
            record = self._examine(Section(self.config, kind, name, common | dict(options)), plugin_id)
            self._variants[key] = record
        await self._ready(record)
        if record.state != "ready":
            raise FailedPrecondition(record.why_not())
        return record.instance

    def instance(self, kind: str, name: str = "") -> Any:
        """The instance of a record that is ready. Raises FailedPrecondition when it is not."""
        record = self.find(kind, name) if name else self.chosen(kind)
        if record.state != "ready":
            raise FailedPrecondition(record.why_not() if record.reason else f"{record.id} is not ready")
        return record.instance

    async def _ready(self, record: Record, path: tuple[str, ...] = ()) -> None:
        """Bring `record` to a final state. Raises LoadError for a cycle, never for a fault of the plugin."""
        if record.pending is not None:
            if self._awaited_by(record, path):
                cycle = " -> ".join((*path, record.id))
                raise LoadError("cycle", f"its requirements come back to it: {cycle}", "one of these must ask for less")
            await asyncio.shield(record.pending)
        if record.state != "available":
            return
        record.pending = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        ready = False
        try:
            await self._make(record, (*path, record.id))
            record.settle("ready", "", "")
            ready = True
        except PluginSkipped as skip:
            record.settle("skipped", "cannot_run_here", skip.reason, skip.remedy)
        except LoadError as error:
            record.settle("failed", error.code, str(error), error.remedy)
        except IntermodalError as error:
            where = record.section.where()
            told = isinstance(error, InvalidArgument) and where != "default"
            remedy = f"its options are those of [{record.id}] of {where}" if told else ""
            record.settle("failed", error.reason, str(error), remedy)
        except Exception as error:
            log.exception("%s", record.id)
            record.settle("failed", "raised", f"raised {type(error).__name__}: {error}")
        finally:
            record.seconds = time.perf_counter() - began
            if not ready and record.process is not None:
                await record.process.stop()
                record.process = None
            self._tell(record)
            record.pending.set_result(None)
            record.pending = None

    def changed(self) -> None:
        """The `trouble` of a plugin is another than it was."""
        change, self._change = self._change, asyncio.Event()
        change.set()

    def change(self) -> asyncio.Event:
        """What is set at the next change of the state or `trouble` of a plugin; to be had before one looks at these."""
        return self._change

    def _tell(self, record: Record) -> None:
        """Let hooks hear of a new state; nobody waits for them."""
        self.changed()
        if self.hooks.implemented("plugin_changed"):
            self._background.begin(
                self.hooks.notify(
                    "plugin_changed", kind=record.kind, name=record.name, state=record.state, reason=record.reason
                )
            )

    def _awaited_by(self, record: Record, path: tuple[str, ...]) -> bool:
        """Whether `record`, being made ready, waits for one in `path`, itself or through others."""
        id: str | None = record.id
        while id is not None and id not in path:
            id = self._waits.get(id)
        return id is not None

    async def _make(self, record: Record, path: tuple[str, ...]) -> None:
        kind, common = self.kinds[record.kind], record.section.common
        plugin = await self._plugin(record)
        record.exports = plugin.exports
        if record.process is None:
            config = record.section.convert(plugin.config, plugin.migrations)
            record.options = msgspec.to_builtins(config) | ({"version": plugin.version} if plugin.migrations else {})
        for requirement in plugin.requires:
            await self._require_for(record, requirement, path)
        if record.process is not None:
            record.options, exports = await record.process.construct()
            record.exports = {**plugin.exports, **exports}
            instance: Any = record.process.stand_in
        else:
            instance = await self._construct(record, plugin, config)
        if hasattr(instance, "__aenter__"):
            await instance.__aenter__()
        if kind.specs:
            implementations = instance if record.process is None else record.process.hooks()
            self.hooks.register(
                record.id, implementations, required=common.required, deadline=common.deadline, threads=common.threads
            )
        if kind.guarded:
            limit = common.deadline or kind.deadline
            pool = Pool(record.id, common.threads or kind.threads, self.changed)
            # A process has its deadlines to itself: they end it.
            guard = Guard(record.id, instance, pool, None if record.process else limit, kind.unbounded)
            if isinstance(record.instance, Guard):  # of the instance that this one replaces, and held by its users
                record.instance.become(guard)
                guard = record.instance
            instance = guard
        record.instance = instance
        self._order.append(record)

    async def _construct(self, record: Record, plugin: Plugin[Any], config: Any) -> Any:
        deadline = self.config.core.plugin_deadline
        for module in plugin.forked:
            await asyncio.to_thread(self.spawner.preload, module, deadline)
        root, state = self.directories(record)
        context: Context[Any] = Context(
            kind=record.kind,
            name=record.name,
            config=config,
            root=root,
            state=state,
            address=self.address,
            log=logging.getLogger(f"intermodal.{record.id}"),
            events=self.events,
            spawner=self.spawner,
            registry=self,
            deadline=record.section.common.deadline or self.kinds[record.kind].deadline,
        )
        with self._marker.around(record.id):
            instance = await construct(plugin, context, self.kinds[record.kind], deadline)
        record.exports = {**plugin.exports, **context.exports}
        record.plugin = dataclasses.replace(plugin, capabilities=(*plugin.capabilities, *context.capabilities))
        return instance

    def directories(self, record: Record) -> tuple[Path, Path]:
        """Root and state of an instance's own."""
        below = Path(record.kind, file_name(record.name))
        return Path(self.config.core.root) / below, self._state / below

    async def _require_for(self, record: Record, requirement: str, path: tuple[str, ...]) -> None:
        kind, _, name = requirement.partition(".")
        if kind not in self.kinds:
            raise LoadError("missing_requirement", f"it requires {requirement}, and there is no kind {kind}")
        try:
            if name:
                needed = [self.find(kind, name)]
            elif self.kinds[kind].single:
                needed = [self.chosen(kind)]
            else:
                needed = [other for other in self.records(kind) if other.state in ("available", "ready")]
        except (NotFound, FailedPrecondition) as error:
            raise LoadError("missing_requirement", f"it requires {requirement}, and {error}") from error
        for other in needed:
            self._waits[record.id] = other.id
            try:
                await self._ready(other, path)
            finally:
                del self._waits[record.id]
            if (name or self.kinds[kind].single) and other.state != "ready":
                raise LoadError("missing_requirement", f"it requires {requirement}, and {other.why_not()}")
            if other.state == "ready":
                record.uses.append(other)

    # The end.

    async def stop(self) -> None:
        """End what is ready, users first; one that does not end in time is logged and left."""
        await self._background.cancel()
        await self.hooks.close()
        for record in list(self._ends()):
            await self.end(record)
        for record in self._records.values():
            if record.process is not None:  # imported, and never made ready
                await record.process.stop()

    async def end(self, record: Record) -> None:
        """End one instance."""
        self._order.remove(record)
        self.hooks.unregister(record.id)
        instance = record.instance.instance if isinstance(record.instance, Guard) else record.instance
        try:
            async with asyncio.timeout(self.config.core.stop_deadline):
                if hasattr(instance, "__aexit__"):
                    await instance.__aexit__(None, None, None)
                elif close := self.kinds[record.kind].close:
                    await asyncio.to_thread(getattr(instance, close))
        except Exception:
            log.exception("%s did not end well", record.id)

    def _ends(self) -> Iterator[Record]:
        """Each before what it requires. What an eager one asked for while it worked is not known: so they end before the
        others wherever these do not require them, what has a process of its own last, and the youngest first.
        """
        left = [*reversed(self._order)]
        left.sort(key=lambda record: (not self.kinds[record.kind].eager, record.process is not None))
        while left:
            used = {other.id for record in left for other in record.uses}
            record = next(record for record in left if record.id not in used)
            left.remove(record)
            yield record


def _offers(found: Iterable[Found], kinds: Mapping[str, Kind]) -> dict[tuple[str, str], list[Found]]:
    offers: dict[tuple[str, str], list[Found]] = {}
    for point in found:
        if point.group in kinds:
            offers.setdefault((point.group, point.name), []).append(point)
    return offers
