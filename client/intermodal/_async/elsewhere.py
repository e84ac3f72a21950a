"""Where else a name is: the hint in a "not found"."""

from typing import Final, TypeVar

from google.protobuf.message import Message
from intermodal_api.containerd.services import namespaces_pb2
from intermodal_core.errors import IntermodalError

from intermodal import _api
from intermodal._async.channel import AsyncChannel

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

MOST: Final = 64
"""Namespaces that are looked at: a hint must not become a search."""


async def other_namespaces(channel: AsyncChannel, method: "_api.Method[Q, R]", request: Q) -> str:
    """The end of a sentence: "; it is in the namespace k8s.io", or nothing."""
    found = []
    try:
        answer = await channel.call(_api.NAMESPACE_LIST, namespaces_pb2.ListNamespacesRequest())
        names = [namespace.name for namespace in answer.namespaces if namespace.name != channel.namespace]
    except IntermodalError:
        return ""
    for name in names[:MOST]:
        try:
            await channel.scoped(name).call(method, request)
        except IntermodalError:
            continue
        found.append(name)
    if not found:
        return ""
    return f"; it is in the namespace{'s' if len(found) > 1 else ''} {', '.join(found)}"
