"""Makes a container of an image: an operation."""

from __future__ import annotations

import os
import secrets
import time

import msgspec
from intermodal_core.contracts.managers.images import Images, PullRequest
from intermodal_core.contracts.managers.networks import Networks, Plan, Wanted
from intermodal_core.contracts.managers.store import Container, Image, Scope, Store
from intermodal_core.contracts.managers.tasks import RunOptions
from intermodal_core.contracts.metadata import Transaction
from intermodal_core.errors import AlreadyExists, FailedPrecondition, IntermodalError, InvalidArgument, NotFound
from intermodal_core.registry import Registry
from intermodal_oci.model import ImageConfig, decode_config
from intermodal_oci.references import normalise, validate_identifier
from intermodal_operations import Operation, Runner, Step
from intermodal_snapshots.idmapped import parse_mapping

from intermodal_tasks.specs import Lookups, run_spec, signal_number
from intermodal_tasks.tables import RUNS, RunRow

__all__ = ["Creation", "wanted_of"]


class _Create(msgspec.Struct):
    """State of the operation that makes a container: all that its undo needs."""

    namespace: str
    id: str
    snapshotter: str
    snapshot: str
    parent: str


class _Building:
    """What a run of that operation carries besides: the record being made, and what its spec is made of."""

    def __init__(
        self, scope: Scope, options: RunOptions, config: ImageConfig, container: Container, plan: Plan
    ) -> None:
        self.scope = scope
        self.options = options
        self.config = config
        self.container = container
        self.plan = plan


class Creation:
    """The operation `containers.create`.

    `lookups` gives root filesystems to look users up in; `cgroup_parent` is where containers' cgroups go.
    """

    def __init__(
        self,
        operations: Runner,
        store: Store,
        images: Images,
        networks: Networks,
        registry: Registry,
        lookups: Lookups,
        cgroup_parent: str,
    ) -> None:
        self._operations = operations
        self._store = store
        self._images = images
        self._networks = networks
        self._registry = registry
        self._lookups = lookups
        self._cgroup_parent = cgroup_parent
        self._names: set[tuple[str, str]] = set()
        self._building: dict[tuple[str, str], _Building] = {}
        operations.register(
            Operation(
                "containers.create",
                _Create,
                (
                    Step("snapshot", self._prepare, self._unprepare),
                    Step("spec", self._build_spec),
                ),
            )
        )

    async def run(self, scope: Scope, options: RunOptions, pending: bool) -> tuple[Container, list[tuple[str, float]]]:
        """Resolve, unpack, prepare, build the spec, record; the record, and the phases' seconds."""
        began = time.perf_counter()
        name = options.name or secrets.token_hex(6)
        validate_identifier(name)
        key = (scope.namespace, name)
        options = msgspec.structs.replace(options, name=name)
        for mount in options.mounts:
            if not os.path.exists(mount.source):
                raise InvalidArgument(f"{mount.source}, which is to be mounted, does not exist: make it first")
        if key in self._names:
            raise _taken(scope, name)
        self._names.add(key)
        try:
            async with self._store.leases.hold(scope) as held:
                stored, looked = await self._make(held, options, pending)
        finally:
            self._names.discard(key)
        return stored, [("image", looked - began), ("container", time.perf_counter() - looked)]

    async def _make(self, scope: Scope, options: RunOptions, pending: bool) -> tuple[Container, float]:
        key = (scope.namespace, options.name)
        try:
            await self._store.containers.get(scope, options.name)
        except NotFound:
            pass
        else:
            raise _taken(scope, options.name)
        image = await self._image(scope, options)
        await self._images.admit(scope, image)
        about = (scope.namespace, image.name, image.labels | options.labels)
        choice = await self._store.pin(*about, options.runtime)
        choose = self._store.choose
        snapshotter, _ = await choose("snapshotter", *about, options.snapshotter, runtime=choice.instance)
        if options.userns:
            await self._check_mapping(snapshotter, options.userns)
        default, _ = await choose("network", *about, runtime=choice.instance)
        plan = await self._networks.plan(scope, options.name, wanted_of(options, default))
        unpacked = await self._images.unpack(scope, image.name, snapshotter)
        looked = time.perf_counter()
        config = decode_config(unpacked.config, unpacked.config_digest)
        container = Container(
            *key,
            image=image.name,
            labels=options.labels,
            runtime=choice.instance,
            snapshotter=snapshotter,
            # Unlike the name it is nobody else's: what is removed when this is undone was made here.
            snapshot_key=f"{options.name}-{secrets.token_hex(4)}",
            choice=choice,
        )
        stop_signal = signal_number(config.config.stop_signal)
        building = self._building[key] = _Building(scope, options, config, container, plan)
        state = _Create(*key, snapshotter, container.snapshot_key, unpacked.chain_id)

        def record(tx: Transaction) -> Container:
            tx.put(RUNS, RunRow(*key, options, plan.networks, stop_signal=stop_signal, pending=pending))
            return self._store.containers.insert(tx, scope, building.container)

        try:
            async with self._store.containers.announced(container):
                stored = await self._operations.run("containers.create", state, record)
        finally:
            del self._building[key]
        return stored, looked

    async def _check_mapping(self, snapshotter: str, ranges: str) -> None:
        parse_mapping(ranges)
        await self._registry.require("snapshotters", snapshotter)
        plugin = self._registry.find("snapshotters", snapshotter).plugin
        if plugin is None or "remap-ids" not in plugin.capabilities:
            raise FailedPrecondition(
                f"the snapshotter {snapshotter} cannot map ids for a user namespace (it does not declare remap-ids): "
                "choose another with --snapshotter"
            )

    async def _image(self, scope: Scope, options: RunOptions) -> Image:
        """The image that the options name, pulled where they say so."""
        if options.pull == "always":
            return await self._pulled(scope, options)
        try:
            return await self._images.resolve(scope, options.image)
        except NotFound as missing:
            if options.pull == "never":
                raise
            try:
                return await self._pulled(scope, options)
            except IntermodalError as error:
                raise type(error)(f"{missing}, and pulling it failed: {error}") from error

    async def _pulled(self, scope: Scope, options: RunOptions) -> Image:
        """The image, pulled for the snapshotter that the container is going to have."""
        about = (scope.namespace, normalise(options.image), options.labels)
        runtime, _ = await self._store.choose("runtime", *about, options.runtime)
        instance = os.path.basename(runtime)
        snapshotter, _ = await self._store.choose("snapshotter", *about, options.snapshotter, runtime=instance)
        return (await self._images.pull(scope, PullRequest(name=options.image, unpack=snapshotter))).image

    async def _prepare(self, state: _Create) -> None:
        scope = self._building[state.namespace, state.id].scope
        userns = self._building[state.namespace, state.id].options.userns
        labels = {f"containerd.io/snapshot/{kind}mapping": userns for kind in ("uid", "gid")} if userns else {}
        await self._store.snapshots.prepare(scope, state.snapshotter, state.snapshot, state.parent, labels)

    async def _unprepare(self, state: _Create) -> None:
        try:
            await self._store.snapshots.remove(Scope(state.namespace), state.snapshotter, state.snapshot)
        except NotFound:
            pass

    async def _build_spec(self, state: _Create) -> None:
        building = self._building[state.namespace, state.id]
        scope = Scope(state.namespace)
        cgroup = os.path.join("/", self._cgroup_parent, state.namespace, state.id)
        mounts = await self._store.snapshots.mounts(scope, state.snapshotter, state.snapshot)
        async with self._lookups.open(mounts) as rootfs:
            spec = run_spec(building.options, building.config, building.plan, cgroup, rootfs)
        building.container = msgspec.structs.replace(building.container, spec=spec)


def wanted_of(options: RunOptions, default: str, networks: tuple[str, ...] = ()) -> Wanted:
    """What a container wants of networks; `networks` are the names where they are known already."""
    named = (options.net,) if isinstance(options.net, str) else options.net
    return Wanted(
        networks=networks or tuple(filter(None, named)),
        default=default,
        ports=options.ports,
        addresses=options.ips,
        mac=options.mac,
        dns=options.dns,
        hostname=options.hostname,
    )


def _taken(scope: Scope, name: str) -> AlreadyExists:
    return AlreadyExists(
        f"the name {name} is taken in the namespace {scope.namespace}: choose another, or imod rm {name}"
    )
