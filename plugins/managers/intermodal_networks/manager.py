"""Attachments: recorded, made, undone, and owed."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from intermodal_core.background import Background
from intermodal_core.contracts.hooks import NetworkInfo
from intermodal_core.contracts.managers.networks import AttachmentView, Plan, Wanted
from intermodal_core.contracts.managers.store import Scope, Store
from intermodal_core.contracts.metadata import Transaction
from intermodal_core.contracts.networks import Attachment, AttachResult
from intermodal_core.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    IntermodalError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from intermodal_core.events import EventBus
from intermodal_core.registry import Registry
from intermodal_netlink.namespaces import Namespaces, is_namespace, remove

from intermodal_networks.debts import Debts
from intermodal_networks.directory import Directory, Target
from intermodal_networks.files import Files, host_resolver, resolver_text
from intermodal_networks.gate import Gate
from intermodal_networks.hosts import Hosts
from intermodal_networks.tables import ADDRESSES, ATTACHMENTS, AddressRow, AttachmentRow

__all__ = ["EVENTS", "Attachments"]

log = logging.getLogger("intermodal.networks")

#: The type URLs of this manager's events begin so; their data is JSON.
EVENTS = "intermodal.networks.v1."
#: Seconds that a container waits for ports and addresses which others are giving back right now.
_GIVE_BACK = 10.0
#: Seconds between two collections.
_COLLECT = 3600.0

Key = tuple[str, str]


class Attachments:
    """The part of `intermodal_core.contracts.managers.networks.Networks` that is about containers.

    `state` is a directory that is gone at reboot, as the namespaces are.
    """

    def __init__(self, store: Store, registry: Registry, bus: EventBus, namespaces: Namespaces, state: Path) -> None:
        store.declare(ATTACHMENTS, ADDRESSES)
        self._store = store
        self._registry = registry
        self._bus = bus
        self._namespaces = namespaces
        self._netns = state / "netns"
        self._files = Files(state / "etc")
        self._directory = Directory(registry)
        self._background = Background(log)
        self._gate = Gate()
        self._hosts = Hosts(store, self._files, self._background)
        self._debts = Debts(store, self._background, self._detach)
        self._releasing: dict[Key, asyncio.Task[None]] = {}
        self._unknown: set[tuple[str, str, str]] = set()  # attachments that may come to be after their end
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._began = time.time_ns()

    # What a container will get.

    async def plan(self, scope: Scope, container: str, wanted: Wanted) -> Plan:
        """What a container that wants this will get."""
        targets = await self._targets(wanted)
        names = tuple(target.name for target in targets)
        if targets[0].netns:
            mounts = self._files.mounts(scope.named, container)
            return Plan(names, "path", str(self._path(scope.named, container)), mounts)
        if wanted.ports or wanted.addresses or wanted.mac:
            raise InvalidArgument(
                f"ports, addresses and mac go with a network of the container's own, and {names[0]} is none"
            )
        result = await self._plain(scope, container, targets[0])
        mounts = self._files.mounts(scope.named, container) if result.mode == "host" else ()
        return Plan(names, result.mode, result.netns, mounts)

    async def _plain(self, scope: Scope, container: str, target: Target) -> AttachResult:
        """What a network without a namespace of ours answers: it makes nothing that lasts."""
        backend = await self._directory.backend(target.instance)
        result: AttachResult = await backend.attach(_attachment(scope, container, target, Wanted(), 0, "", ()))
        return result

    async def _targets(self, wanted: Wanted) -> list[Target]:
        names = wanted.networks or (wanted.default,)
        targets = [await self._directory.find(name) for name in names]
        alone = next((target for target in targets if not target.netns), None)
        if alone is not None and len(targets) > 1:
            raise InvalidArgument(f"{alone.name} leaves no room for other networks: name it alone, or leave it out")
        if len({target.name for target in targets}) < len(targets):
            raise InvalidArgument(f"a network is named twice: {', '.join(target.name for target in targets)}")
        return targets

    # Making.

    async def prepare(self, scope: Scope, container: str, wanted: Wanted) -> None:
        """Record the attachments; make the namespace and the files."""
        key = (scope.named, container)
        await self._settled(key)
        targets = await self._targets(wanted)
        if not targets[0].netns:
            await self._tell_hooks("before_attach", scope, container, NetworkInfo(targets[0].name))
            if (await self._plain(scope, container, targets[0])).mode == "host":
                await asyncio.to_thread(self._make_files, key, wanted, False)
            await self._tell_hooks("after_attach", scope, container, NetworkInfo(targets[0].name))
            return
        path = self._path(*key)
        had = {row.network: row.addresses for row in await self._read(ADDRESSES, *key)}
        names = tuple(dict.fromkeys(name for name in (container, wanted.hostname) if name))
        rows = [
            AttachmentRow(
                *key,
                target.name,
                target.instance,
                _attachment(scope, container, target, wanted, number, str(path), had.get(target.name, ())),
                "begun",
                self._boot,
                time.time_ns(),
                names,
            )
            for number, target in enumerate(targets)
        ]

        def record(tx: Transaction) -> None:
            for row in rows:
                tx.put(ATTACHMENTS, row)

        sys.audit("intermodal.step", "networks.record")
        await self._store.write(record)
        await asyncio.to_thread(self._make, key, path, wanted)

    def _make(self, key: Key, path: Path, wanted: Wanted) -> None:
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._namespaces.make(str(path))
        self._make_files(key, wanted, True)

    def _make_files(self, key: Key, wanted: Wanted, own: bool) -> None:
        hostname = wanted.hostname or key[1][:63]
        hosts = self._hosts.first() if own else Path("/etc/hosts").read_text(errors="replace")
        servers = "".join(f"nameserver {server}\n" for server in wanted.dns)
        self._files.make(*key, hostname, hosts, servers or host_resolver(own))

    async def attach(self, scope: Scope, container: str) -> tuple[AttachmentView, ...]:
        """Make what was recorded."""
        rows = [row for row in await self._read(ATTACHMENTS, scope.named, container) if row.state == "begun"]
        rows.sort(key=lambda row: row.attachment.interface)
        made = [await self._attach(scope, row) for row in rows]
        if made:
            await self._hosts.write((scope.named, container))
        return tuple(row.view() for row in made)

    async def _attach(self, scope: Scope, row: AttachmentRow) -> AttachmentRow:
        about = NetworkInfo(row.network, row.attachment.interface, row.attachment.netns)
        await self._tell_hooks("before_attach", scope, row.container, about)
        backend = await self._directory.backend(row.instance)
        began = time.perf_counter()
        try:
            try:
                async with self._gate.shared():
                    result: AttachResult = await backend.attach(row.attachment)
            except (FailedPrecondition, ResourceExhausted):
                if not await self._given_back():
                    raise
                async with self._gate.shared():
                    result = await backend.attach(row.attachment)
        except DeadlineExceeded:
            self._unknown.add((row.namespace, row.container, row.network))
            raise
        made = msgspec.structs.replace(
            row, state="attached", result=result.result, addresses=result.addresses, error="", tries=0
        )

        def record(tx: Transaction) -> None:
            tx.put(ATTACHMENTS, made)
            tx.put(ADDRESSES, AddressRow(made.namespace, made.container, made.network, made.addresses))

        await self._store.write(record)
        if result.dns.nameservers and not row.attachment.dns:
            text = resolver_text(result.dns)
            await asyncio.to_thread(self._files.rewrite, row.namespace, row.container, "resolv.conf", text)
        self._tell("Attached", made, time.perf_counter() - began, result.timings)
        self._hosts.changed(row.namespace)
        about = msgspec.structs.replace(about, addresses=result.addresses)
        await self._tell_hooks("after_attach", scope, row.container, about)
        return made

    async def _given_back(self) -> bool:
        """Wait for what others are giving back right now; whether there was anything."""
        others = list(self._releasing.values())
        if others:
            await asyncio.wait(others, timeout=_GIVE_BACK)
        return bool(others)

    async def connect(self, scope: Scope, container: str, network: str, wanted: Wanted) -> AttachmentView:
        """Add one more network to a container that runs."""
        key = (scope.named, container)
        target = await self._directory.find(network)
        rows = await self._read(ATTACHMENTS, *key)
        if any(row.network == target.name for row in rows):
            raise AlreadyExists(f"the container {container} is in the network {target.name} already")
        path = self._path(*key)
        if not target.netns or not rows or not is_namespace(str(path)):
            raise FailedPrecondition(
                f"the container {container} has no networks of its own, to which {target.name} could be added"
            )
        used = {row.attachment.interface for row in rows}
        number = next(number for number in range(len(rows) + 1) if f"eth{number}" not in used)
        attachment = _attachment(scope, container, target, wanted, number, str(path), ())
        first = msgspec.structs.replace(attachment, ports=wanted.ports, addresses=wanted.addresses, mac=wanted.mac)
        row = AttachmentRow(
            *key, target.name, target.instance, first, "begun", self._boot, time.time_ns(), rows[0].names
        )
        sys.audit("intermodal.step", "networks.record")
        await self._store.write(lambda tx: tx.put(ATTACHMENTS, row))
        try:
            made = await self._attach(scope, row)
        except BaseException:
            await asyncio.shield(self._undo([row]))
            raise
        await self._hosts.write(key)
        return made.view()

    # Undoing.

    async def disconnect(self, scope: Scope, container: str, network: str) -> None:
        """Take a container that runs out of a network."""
        rows = [row for row in await self._read(ATTACHMENTS, scope.named, container) if row.network == network]
        if not rows:
            raise NotFound(f"the container {container} is not in the network {network}")
        await self._undo(rows)
        await self._hosts.write((scope.named, container))

    def release(self, scope: Scope, container: str) -> None:
        """Begin to undo all of a container's attachments."""
        key = (scope.namespace, container)
        if key not in self._releasing:
            task = self._releasing[key] = self._background.begin(self._release(key))
            task.add_done_callback(lambda _: self._releasing.pop(key, None))

    async def _release(self, key: Key) -> None:
        rows = [row for row in await self._read(ATTACHMENTS, *key) if row.state != "owed"]
        await self._undo(sorted(rows, key=lambda row: row.attachment.interface, reverse=True))
        path = self._path(*key)
        if path.exists() or self._files.there(*key):
            await asyncio.to_thread(self._remove, key, path)

    def _remove(self, key: Key, path: Path) -> None:
        sys.audit("intermodal.step", "networks.namespace")
        remove(str(path))
        self._files.remove(*key)

    async def _undo(self, rows: list[AttachmentRow]) -> None:
        """Undo attachments, the last one first; what cannot be undone now is owed. Forgets or changes all rows at once."""
        owed = []
        async with self._gate.shared():
            for row in rows:
                try:
                    await self._detach(row)
                except IntermodalError as error:
                    owed.append(self._debts.of(row, error.message))
                else:
                    if (row.namespace, row.container, row.network) in self._unknown:
                        self._unknown.discard((row.namespace, row.container, row.network))
                        owed.append(self._debts.of(row, "it may have come to be after its end"))

        def record(tx: Transaction) -> None:
            for row in rows:
                tx.delete(ATTACHMENTS, row.namespace, row.container, row.network)
            for row in owed:
                tx.put(ATTACHMENTS, row)

        if rows:
            await self._store.write(record)
            self._hosts.changed(rows[0].namespace)
        if owed:
            self._debts.wake()

    async def _detach(self, row: AttachmentRow) -> None:
        backend = await self._directory.backend(row.instance)
        attachment = row.attachment
        if not is_namespace(attachment.netns):
            attachment = msgspec.structs.replace(attachment, netns="")
        sys.audit("intermodal.step", "networks.detach")
        began = time.perf_counter()
        await backend.detach(attachment, row.result)
        self._tell("Detached", row, time.perf_counter() - began)

    async def _settled(self, key: Key) -> None:
        """When the last run's attachments are undone. Raises FailedPrecondition where one is still owed."""
        if (releasing := self._releasing.get(key)) is not None:
            await asyncio.shield(releasing)
        for row in await self._read(ATTACHMENTS, *key):
            if row.state == "owed" and not await self._debts.pay(row):
                raise FailedPrecondition(
                    f"the container {key[1]} could not be taken out of the network {row.network} yet, which is tried again: "
                    f"{row.error}"
                )

    # After a restart.

    async def keep(self, running: set[Key]) -> None:
        """Release all that is not of these containers."""
        rows = await self._store.read(lambda tx: list(tx.scan(ATTACHMENTS)), long=True)
        mine = {(row.namespace, row.container) for row in rows}
        before = [row for row in rows if row.state != "owed" and row.created_at < self._began]
        # What another boot made is gone, whoever runs: only what outlives a boot, such as leases, is there to be undone.
        gone = [row for row in before if row.boot != self._boot or (row.namespace, row.container) not in running]
        for key in {(row.namespace, row.container) for row in gone}:
            self.release(Scope(key[0]), key[1])
        if half := [row for row in before if row.state == "begun" and row not in gone]:
            self._background.begin(self._undo(half))  # a container that runs was about to be in one more network
        await asyncio.to_thread(self._sweep, {*running, *mine})
        self._debts.wake()
        self._background.begin(self._collect_now_and_then(rows))

    def _sweep(self, known: set[Key]) -> None:
        """Namespaces and files of which nothing is known."""
        names = {self._path(*key).name for key in known}
        for path in self._netns.glob("*"):
            if path.name not in names and path.stat().st_ctime_ns < self._began:
                remove(str(path))
        for namespace, container in self._files.owners():
            if (namespace, container) not in known:
                self._files.remove(namespace, container)

    async def _collect_now_and_then(self, rows: list[AttachmentRow]) -> None:
        """What nobody knows of any more: of the last daemon's, and now and then."""
        while True:
            await self.collect(rows)
            await asyncio.sleep(_COLLECT)
            rows = await self._store.read(lambda tx: list(tx.scan(ATTACHMENTS)), long=True)

    async def collect(self, rows: list[AttachmentRow] | None = None) -> None:
        """GC in each backend that has, or had, attachments; without `rows` in all that have lists."""
        instances = {row.instance for row in rows} if rows is not None else set(await self._directory.with_lists())
        for instance in sorted(instances):
            try:
                backend = await self._directory.backend(instance)
                async with self._gate.alone():
                    now = await self._store.read(lambda tx: list(tx.scan(ATTACHMENTS)), long=True)
                    await backend.gc(tuple(row.attachment for row in now if row.instance == instance))
            except IntermodalError as error:
                log.warning("what the dead left in networks.%s is not collected: %s", instance, error)

    def forget(self, tx: Transaction, namespace: str, container: str) -> None:
        """Its addresses are no longer kept for it."""
        for row in list(tx.scan(ADDRESSES, namespace, container)):
            tx.delete(ADDRESSES, namespace, container, row.network)

    async def attachments(self, network: str = "", container: Key | None = None) -> list[AttachmentView]:
        """Those of a network, of a container, or all."""
        rows = await self._store.read(lambda tx: list(tx.scan(ATTACHMENTS, *(container or ()))), long=True)
        return [row.view() for row in rows if network in ("", row.network)]

    async def close(self) -> None:
        """End what is being undone, as far as that goes within a while, and stop trying; what is owed stays recorded."""
        if self._releasing:
            await asyncio.wait(list(self._releasing.values()), timeout=_GIVE_BACK / 2)
        await self._background.cancel()

    # Small things.

    def _path(self, namespace: str, container: str) -> Path:
        return self._netns / f"{namespace}__{container}"

    async def _read(self, table: Any, *key: str) -> list[Any]:
        return await self._store.read(lambda tx: list(tx.scan(table, *key)))

    async def _tell_hooks(self, hook: str, scope: Scope, container: str, about: NetworkInfo) -> None:
        if self._registry.hooks.implemented(hook):
            record = await self._store.containers.get(scope, container)
            await self._registry.hooks.notify(hook, container=record.info, network=about)

    def _tell(self, what: str, row: AttachmentRow, seconds: float, timings: Any = ()) -> None:
        fields = {
            "container_id": row.container,
            "network": row.network,
            "interface": row.attachment.interface,
            "addresses": row.addresses,
            "seconds": round(seconds, 6),
            "timings": {name: round(took, 6) for name, took in timings},
        }
        topic = "/networks/attach" if what == "Attached" else "/networks/detach"
        self._bus.publish(row.namespace, topic, f"{EVENTS}{what}", json.dumps(fields).encode())


def _attachment(
    scope: Scope, container: str, target: Target, wanted: Wanted, number: int, netns: str, had: tuple[str, ...]
) -> Attachment:
    first = number == 0
    return Attachment(
        f"{scope.namespace}/{container}",
        scope.namespace,
        container,
        target.list,
        netns,
        f"eth{number}",
        ports=wanted.ports if first else (),
        addresses=wanted.addresses if first else (),
        preferred=had,
        mac=wanted.mac if first else "",
        dns=wanted.dns,
    )
