"""Networks that are CNI lists: chains run, recorded before they begin, and undone from the record."""

from __future__ import annotations

import ipaddress
import json
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from intermodal_cni import chain
from intermodal_cni.cache import Cache, Cached
from intermodal_cni.chain import Place
from intermodal_cni.lists import NetworkList
from intermodal_core.contracts.cni import Host, ValidAttachment
from intermodal_core.contracts.networks import Attachment, AttachResult, NetworkSpec, NetworkView
from intermodal_core.errors import (
    AlreadyExists,
    FailedPrecondition,
    IntermodalError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unimplemented,
)
from intermodal_netlink.route import RouteSocket

from intermodal_cni_network.lists import Lists
from intermodal_cni_network.making import default_list, list_of, subnets_of, write

__all__ = ["CniNetwork", "container_id"]

#: A host that measures what it runs: the seconds of each type and verb are put into the list that it is made with.
HostFor = Callable[[list[tuple[str, float]]], Host]


class CniNetwork:
    """Implements `intermodal_core.contracts.networks.Network` and `NetworkLists`.

    `root` holds our lists, their leases and the records of attachments; `others` are directories of lists that are only
    read. Attachments of one container in one network come one after the other.
    """

    def __init__(self, root: Path, others: tuple[Path, ...], host_for: HostFor, default: str = "") -> None:
        self._leases = root / "leases"
        self._cache = Cache(root / "results")
        self._lists = Lists(root / "net.d", others)
        self._root = root
        self._host_for = host_for
        self._default = default
        self._changing = threading.Lock()

    # Attachments.

    def attach(self, attachment: Attachment) -> AttachResult:
        """ADD of the whole list."""
        self._make_default()
        network = self._lists.get(attachment.network or self._default)
        if self._known(attachment) is not None:
            raise AlreadyExists(f"{attachment.container} is in the network {network.name} already")
        place = _place(network, attachment, attachment.addresses or attachment.preferred)
        timings: list[tuple[str, float]] = []
        host = self._host_for(timings)
        result = None
        if attachment.preferred and not attachment.addresses:
            try:
                result = self._add(network, place, host)
            except (FailedPrecondition, InvalidArgument, ResourceExhausted):
                place = _place(network, attachment, ())  # somebody else has it by now, or it is of another range
        if result is None:
            result = self._add(network, place, host)
        self._cache.put(Cached(network, place, result))
        addresses = tuple(
            ip.address
            for ip in result.ips
            if ip.interface is None or not result.interfaces or result.interfaces[ip.interface].sandbox
        )
        record = json.dumps({"network": network.name}).encode()
        return AttachResult("path", attachment.netns, addresses, record, result.dns, tuple(timings))

    def _add(self, network: NetworkList, place: Place, host: Host) -> Any:
        self._cache.put(Cached(network, place))
        try:
            return chain.add(network, place, host)
        except IntermodalError as error:
            if not getattr(error, "left", False):
                self._cache.forget(network.name, place.container, place.interface)
            raise

    def detach(self, attachment: Attachment, result: bytes) -> None:
        """DEL of the list as it was at ADD."""
        cached = self._known(attachment)
        if cached is None:
            return
        place = cached.place if attachment.netns else msgspec.structs.replace(cached.place, netns="")
        chain.delete(cached.network, place, cached.result, self._host_for([]))
        self._cache.forget(cached.network.name, place.container, place.interface)

    def check(self, attachment: Attachment, result: bytes) -> None:
        """CHECK of the list as it was at ADD; of a version without CHECK nothing can be said."""
        cached = self._known(attachment)
        if cached is None or cached.result is None:
            raise FailedPrecondition(f"{attachment.container} is not in the network {attachment.network}")
        try:
            chain.check(cached.network, cached.place, cached.result, self._host_for([]))
        except Unimplemented:
            pass
        except NotFound as error:
            raise FailedPrecondition(error.message) from error

    def gc(self, live: tuple[Attachment, ...]) -> None:
        """DEL of what is recorded and not live; then GC of our own lists, which nobody else uses."""
        living = {(container_id(each), each.interface, each.network) for each in live}
        failures: list[IntermodalError] = []
        self._cache.sweep()
        for cached in list(self._cache.every()):
            place, name = cached.place, cached.network.name
            if any((place.container, place.interface, known) in living for known in (name, "")):
                continue
            try:
                chain.delete(cached.network, place, cached.result, self._host_for([]))
                self._cache.forget(name, place.container, place.interface)
            except IntermodalError as error:
                failures.append(error)
        recorded: dict[str, list[ValidAttachment]] = {}
        for cached in self._cache.every():
            valid = ValidAttachment(cached.place.container, cached.place.interface)
            recorded.setdefault(cached.network.name, []).append(valid)
        for found in self._lists.every():
            if found.own and found.network is not None:
                try:
                    chain.collect(found.network, tuple(recorded.get(found.name, ())), self._host_for([]))
                except IntermodalError as error:
                    failures.append(error)
        if failures:
            raise failures[0]

    def _known(self, attachment: Attachment) -> Cached | None:
        """The record of an attachment; one whose list was not named is looked for by container and interface."""
        container, interface = container_id(attachment), attachment.interface
        name = attachment.network or self._default
        if name:
            return self._cache.get(name, container, interface)
        return next(
            (
                each
                for each in self._cache.every()
                if (each.place.container, each.place.interface) == (container, interface)
            ),
            None,
        )

    # Lists.

    def views(self) -> tuple[NetworkView, ...]:
        """All, the default one first."""
        self._make_default()
        views = []
        for found in self._lists.every():
            if found.network is None:
                views.append(NetworkView(found.name, "", (), found.own, str(found.path), error=found.error))
            else:
                network = found.network
                subnets = tuple(map(str, subnets_of(network)))
                document = json.dumps(network.document()).encode()
                views.append(NetworkView(network.name, network.types[0], subnets, found.own, str(found.path), document))
        default = self._default or next((view.name for view in views if not view.error), "")
        return tuple(sorted(views, key=lambda view: view.name != default or bool(view.error)))

    def _make_default(self) -> None:
        """Our own directory, with a list that works, at its first use: whole or not at all."""
        own = self._lists.own
        with self._changing:
            if not own.is_dir():
                new = own.with_name(f".{own.name}.new")
                write(new, default_list(self._root, self._leases), "10-")
                new.rename(own)

    def create(self, spec: NetworkSpec) -> NetworkView:
        """Write a list of our own."""
        with self._changing:
            others = [found.network for found in self._lists.every() if found.network is not None]
            network = list_of(spec, others, self._leases)
            write(self._lists.own, network)
        return next(view for view in self.views() if view.name == network.name)

    def remove(self, name: str) -> None:
        """Remove a list of our own, its leases, and its bridge."""
        with self._changing:
            found = next((each for each in self._lists.every() if each.name == name), None)
            if found is None:
                raise NotFound(f"there is no network {name}")
            if not found.own:
                raise FailedPrecondition(f"the network {name} is not ours: {found.path} belongs to another program")
            if any(cached.network.name == name for cached in self._cache.every()):
                raise FailedPrecondition(f"the network {name} is in use: disconnect its containers first")
            if found.network is not None:
                _remove_bridges(found.network)
                shutil.rmtree(self._leases / name, ignore_errors=True)
            found.path.unlink(missing_ok=True)


def container_id(attachment: Attachment) -> str:
    """A container's name in CNI: no two of different namespaces have the same, as no identifier has __ in it."""
    return f"{attachment.namespace}__{attachment.container}"


def _place(network: NetworkList, attachment: Attachment, addresses: tuple[str, ...]) -> Place:
    """Where the list is applied. Raises InvalidArgument when something is asked for that none of its plugins does."""
    declared = chain.capabilities(network)
    wanted: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    if attachment.ports:
        wanted["portMappings"] = [
            {
                "hostPort": port.host_port,
                "containerPort": port.container_port,
                "protocol": port.protocol,
                **({"hostIP": port.host_ip} if port.host_ip else {}),
            }
            for port in attachment.ports
        ]
    if attachment.mac:
        wanted["mac"] = attachment.mac
    for key, value in attachment.options.items():
        try:
            wanted[key] = json.loads(value)
        except ValueError:
            raise InvalidArgument(f"the option {key} of the network is not JSON: {value[:60]!r}") from None
    for key, value in wanted.items():
        if key not in declared:
            raise InvalidArgument(
                f"no plugin of the network {network.name} declares {key}, which was asked for: {value}"
            )
    if attachment.dns and "dns" in declared:
        wanted["dns"] = {"servers": list(attachment.dns)}
    if addresses:
        try:
            ips = [str(ipaddress.ip_interface(address).ip) for address in addresses]
        except ValueError as error:
            raise InvalidArgument(f"the address that was asked for: {error}") from None
        if "ips" in declared:
            wanted["ips"] = list(addresses)
        else:
            asked["ips"] = ips
    return Place(container_id(attachment), attachment.netns, attachment.interface, wanted, {}, asked)


def _remove_bridges(network: NetworkList) -> None:
    """A bridge that is nobody's any more: one with ports belongs to somebody."""
    with RouteSocket(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)) as links:
        for plugin in network.plugins:
            bridge = links.find(plugin.get("bridge", "")) if plugin["type"] == "bridge" else None
            if bridge is None or bridge.kind != "bridge":
                continue
            if any(link.master == bridge.index for link in links.links()):
                raise FailedPrecondition(f"the bridge {bridge.name} has links of others on it")
            links.delete_link(bridge.name)
