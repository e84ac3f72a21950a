"""Namespaces: `client.namespaces`."""

from collections.abc import Mapping, Sequence

from google.protobuf.field_mask_pb2 import FieldMask
from intermodal_api.containerd.services import namespaces_pb2
from intermodal_core.errors import NotFound

from intermodal import _api
from intermodal._async.channel import AsyncChannel
from intermodal._models import Namespace


class AsyncNamespaces:
    """The daemon's namespaces."""

    def __init__(self, channel: AsyncChannel) -> None:
        self._channel = channel

    async def list(self) -> Sequence[Namespace]:
        """All of them, by name."""
        answer = await self._channel.call(_api.NAMESPACE_LIST, namespaces_pb2.ListNamespacesRequest())
        return sorted((_namespace(each) for each in answer.namespaces), key=lambda each: each.name)

    async def get(self, name: str) -> Namespace:
        """The one called `name`. Raises NotFound."""
        # Not by Namespaces.Get: containerd answers that for any name, with no labels.
        for namespace in await self.list():
            if namespace.name == name:
                return namespace
        raise NotFound(f"There is no namespace {name}")

    async def exists(self, name: str) -> bool:
        """Whether there is one called `name`."""
        return any(namespace.name == name for namespace in await self.list())

    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> Namespace:
        """Make one. Raises AlreadyExists."""
        request = namespaces_pb2.CreateNamespaceRequest(namespace=namespaces_pb2.Namespace(name=name, labels=labels))
        return _namespace((await self._channel.call(_api.NAMESPACE_CREATE, request)).namespace)

    async def set_labels(self, name: str, labels: Mapping[str, str]) -> Namespace:
        """Set these labels and keep its others; an empty value removes one."""
        mask = FieldMask(paths=[f"labels.{key}" for key in labels])
        namespace = namespaces_pb2.Namespace(name=name, labels=labels)
        request = namespaces_pb2.UpdateNamespaceRequest(namespace=namespace, update_mask=mask)
        await self._channel.call(_api.NAMESPACE_UPDATE, request)
        return await self.get(name)  # containerd answers the update without the labels

    async def delete(self, name: str) -> None:
        """Remove an empty one. Raises FailedPrecondition while it holds anything, NotFound."""
        await self._channel.call(_api.NAMESPACE_DELETE, namespaces_pb2.DeleteNamespaceRequest(name=name))


def _namespace(message: namespaces_pb2.Namespace) -> Namespace:
    return Namespace(message.name, dict(message.labels))
