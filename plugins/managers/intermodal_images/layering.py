"""Layers from trees, and images from layers: what `commit`, `from-rootfs` and clients' diffs have in common."""

from __future__ import annotations

import datetime
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from intermodal_core.background import finished
from intermodal_core.contracts.common import Descriptor, Mount
from intermodal_core.contracts.differs import Compared
from intermodal_core.contracts.managers.images import CommitRequest, FromRootfs
from intermodal_core.contracts.managers.store import INTERNAL_REF, Image, Scope, Store
from intermodal_core.errors import InvalidArgument, NotFound, Unimplemented, from_os_error
from intermodal_core.registry import Registry
from intermodal_oci import platforms, references
from intermodal_oci.model import (
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    ContainerConfig,
    History,
    ImageConfig,
    Manifest,
    RootFS,
    encode,
)

from intermodal_images.tree import Tree

__all__ = ["Layering"]

_UNCOMPRESSED: Final = "containerd.io/uncompressed"


class Layering:
    """Makes layers by the differ, and images of them."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    async def compare(
        self,
        scope: Scope,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str = OCI_LAYER_GZIP,
        labels: Mapping[str, str] | None = None,
        latest: int | None = None,
    ) -> Compared:
        """The layer of what lies between two sets of mounts, as a blob."""
        differ = await self._differ(media_type)
        path = os.path.join(await self._store.content.incoming(0), f"layer-{secrets.token_hex(8)}")
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise from_os_error(error, "writing a layer") from error
        try:
            made: Compared = await finished(differ.compare(tuple(lower), tuple(upper), file, media_type, latest))
            told = {**(labels or {}), _UNCOMPRESSED: made.diff_id}
            await self._store.content.adopt(scope, path, made.digest, made.size, told)
            return made
        finally:
            os.close(file)
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass

    async def _differ(self, media_type: str) -> Any:
        for record in self._registry.records("differs"):
            await self._registry.load(record)
            able = record.state == "ready" and record.plugin is not None and "compare" in record.plugin.capabilities
            if able and media_type in await record.instance.media_types():
                return record.instance
        raise Unimplemented(f"no differ makes layers of the media type {media_type}")

    async def from_rootfs(self, scope: Scope, request: FromRootfs) -> Image:
        """An image of one layer, of a directory on this machine."""
        name = references.normalise(request.name)
        if not os.path.isdir(request.directory):
            raise InvalidArgument(f"{request.directory} is not a directory on the daemon's machine")
        # What is mounted below is not bound, and so not gone into.
        tree = Mount("bind", os.path.realpath(request.directory), ("bind", "ro"))
        made = await self.compare(scope, (), (tree,))
        here = platforms.host()
        config = ImageConfig(
            architecture=here.architecture,
            os=here.os,
            variant=here.variant,
            config=ContainerConfig(
                user=request.user,
                env=request.env,
                entrypoint=request.entrypoint,
                cmd=request.cmd,
                working_dir=request.workdir,
                labels=request.labels,
            ),
            rootfs=RootFS(diff_ids=(made.diff_id,)),
            history=(History(created_by=f"imod images from-rootfs {request.name}"),),
        )
        layers = (Descriptor(OCI_LAYER_GZIP, made.digest, made.size),)
        target = await self._document(scope, config, layers, OCI_CONFIG, OCI_MANIFEST)
        return await self._record(scope, Image(scope.namespace, name, target))

    async def commit(self, scope: Scope, request: CommitRequest) -> Image:
        """A container's image with one more layer: what the container has changed."""
        name = references.normalise(request.name)
        container = await self._store.containers.get(scope, request.container)
        if not container.snapshot_key:
            raise InvalidArgument(f"the container {container.id} has no snapshot of its own: nothing to commit")
        try:
            image = await self._store.images.get(scope, container.image)
        except NotFound as error:
            raise NotFound(f"the image of the container {container.id} is not here any more: {error}") from error
        tree = Tree(self._store, scope)
        _, manifest = await tree.manifest(image.target, platforms.host())
        _, config = await tree.config(manifest)
        docker = manifest.media_type == DOCKER_MANIFEST
        layer_type = DOCKER_LAYER_GZIP if docker else OCI_LAYER_GZIP
        info = await self._store.snapshots.stat(scope, container.snapshotter, container.snapshot_key)
        upper = await self._store.snapshots.mounts(scope, container.snapshotter, container.snapshot_key)
        key = f"{INTERNAL_REF}commit-{secrets.token_hex(6)}"
        lower: Sequence[Mount] = ()
        try:
            if info.parent:
                lower = await self._store.snapshots.view(scope, container.snapshotter, key, info.parent)
            made = await self.compare(scope, lower, upper, layer_type)
        finally:
            try:
                await finished(self._store.snapshots.remove(scope, container.snapshotter, key))
            except NotFound:
                pass
        created = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        step = History(
            created=created, created_by=f"imod commit {container.id}", author=request.author, comment=request.message
        )
        config = msgspec.structs.replace(
            config,
            created=created,
            author=request.author or config.author,
            config=_changed(config.config, request),
            rootfs=RootFS(diff_ids=(*config.rootfs.diff_ids, made.diff_id)),
            history=(*config.history, step),
        )
        layers = (*manifest.layers, Descriptor(layer_type, made.digest, made.size))
        kind = DOCKER_MANIFEST if docker else OCI_MANIFEST
        target = await self._document(scope, config, layers, manifest.config.media_type, kind)
        return await self._record(scope, Image(scope.namespace, name, target))

    async def _document(
        self, scope: Scope, config: ImageConfig, layers: tuple[Descriptor, ...], config_type: str, manifest_type: str
    ) -> Descriptor:
        """Config and manifest as blobs."""
        data = encode(config)
        info = await self._store.content.write(scope, data)
        manifest = Manifest(
            schema_version=2,
            media_type=manifest_type,
            config=Descriptor(config_type, info.digest, len(data)),
            layers=layers,
        )
        data = encode(manifest)
        info = await self._store.content.write(scope, data)
        target = Descriptor(manifest_type, info.digest, len(data))
        await Tree(self._store, scope).label(target, set())
        return target

    async def _record(self, scope: Scope, image: Image) -> Image:
        return await self._store.write(lambda tx: self._store.put_image(tx, image))


def _changed(config: ContainerConfig, request: CommitRequest) -> ContainerConfig:
    """How the new image is run: as the old one, but for what the request says."""
    variables = {variable.partition("=")[0]: variable for variable in (*config.env, *request.env)}
    changes = {
        "env": tuple(variables.values()),
        "labels": {**config.labels, **request.labels},
    }
    if request.entrypoint is not None:
        changes["entrypoint"] = request.entrypoint
    if request.cmd is not None:
        changes["cmd"] = request.cmd
    if request.workdir:
        changes["working_dir"] = request.workdir
    if request.user:
        changes["user"] = request.user
    return msgspec.structs.replace(config, **changes)
