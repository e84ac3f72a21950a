"""The client itself."""

import os
from collections.abc import AsyncIterator, Sequence

from google.protobuf.empty_pb2 import Empty
from intermodal_api.containerd.services import introspection_pb2

from intermodal import _api
from intermodal._address import DEFAULT_ADDRESS, DEFAULT_NAMESPACE, address_from, namespace_from
from intermodal._async.channel import AsyncChannel
from intermodal._async.containers import AsyncContainers
from intermodal._async.events import follow
from intermodal._async.images import AsyncImages
from intermodal._async.namespaces import AsyncNamespaces
from intermodal._models import Event, Plugin, Version


class AsyncClient:
    """A connection to one daemon, intermodald or containerd, in one namespace; made with the first call.

    Args:
        address: the daemon's unix socket, a path or `unix://` and a path.
        namespace: where its containers and images are.
        timeout: seconds that one call may take, but for those that wait (wait, run, events) or unpack.
        directory: for FIFOs and logs; default: /run/intermodal-client for root, else below XDG_RUNTIME_DIR.

    Raises:
        InvalidArgument: no socket's address, or no valid namespace.

    Every method raises Unavailable where no daemon answers, and DeadlineExceeded where a call takes too long.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        namespace: str = DEFAULT_NAMESPACE,
        *,
        timeout: float = 60,
        directory: str | None = None,
    ) -> None:
        self._set_up(AsyncChannel(address, namespace, timeout, directory=directory), owner=True)

    @classmethod
    def from_env(cls) -> "AsyncClient":
        """The client that INTERMODAL_ADDRESS and INTERMODAL_NAMESPACE (else containerd's) describe."""
        return cls(address_from(os.environ), namespace_from(os.environ))

    @property
    def address(self) -> str:
        """The daemon's socket."""
        return self._channel.address

    @property
    def namespace(self) -> str:
        """The namespace of all that this client does."""
        return self._channel.namespace

    def with_namespace(self, namespace: str) -> "AsyncClient":
        """A client for another namespace on the same connection, which stays open when that one is closed."""
        other = object.__new__(AsyncClient)
        other._set_up(self._channel.scoped(namespace), owner=False)
        return other

    async def ping(self) -> bool:
        """Whether the daemon answers: True, or Unavailable raised."""
        await self.version()
        return True

    async def version(self) -> Version:
        """The daemon's version."""
        answer = await self._channel.call(_api.VERSION, Empty())
        return Version(answer.version, answer.revision)

    async def plugins(self, filters: Sequence[str] = ()) -> Sequence[Plugin]:
        """What the daemon is made of, that match any of the filters (such as `type==io.containerd.snapshotter.v1`)."""
        answer = await self._channel.call(_api.PLUGINS, introspection_pb2.PluginsRequest(filters=filters))
        return [Plugin(each.type, each.id, tuple(each.capabilities), each.init_err.message) for each in answer.plugins]

    def events(
        self, filters: Sequence[str] = (), *, since: int = 0, all_namespaces: bool = False, attempts: int = 8
    ) -> AsyncIterator[Event]:
        """Events as they happen, until the iteration is left; a connection that breaks is made again.

        Args:
            filters: those that match any of them; containerd's grammar, such as `topic=="/tasks/exit"`.
            since: first replay what came after the event of this `sequence`; a daemon that keeps no journal,
                such as containerd, numbers none and replays none.
            all_namespaces: not only this client's.
            attempts: connections in a row that may fail, pauses growing to 5 s, before Unavailable is raised.

        Raises:
            OutOfRange: the daemon no longer keeps what came after `since`; the sentence names the oldest.
        """
        return follow(self._channel, filters, since, all_namespaces, attempts)

    async def close(self) -> None:
        """Close the connection; nothing that runs is touched. May be called twice."""
        if self._owner:
            await self._channel.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _set_up(self, channel: AsyncChannel, *, owner: bool) -> None:
        self._channel, self._owner = channel, owner
        self.containers = AsyncContainers(channel)
        self.images = AsyncImages(channel)
        self.namespaces = AsyncNamespaces(channel)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address} {self.namespace}>"
