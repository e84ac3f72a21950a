"""Elements of nftables' sets by owner: found, removed, collected."""

from __future__ import annotations

import errno
from collections.abc import Callable

from intermodal_core.contracts.cni import Call
from intermodal_netlink.nftables import Element, NftSocket, Table

from intermodal_cni.types import kernel, owner

__all__ = ["Owned"]

_TRIES = 20


class Owned:
    """The elements of one table, whose owners are written as `types.owner` does."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def of(self, call: Call) -> list[Element]:
        """Those of this call's container and interface."""
        mine = owner(call)
        with kernel("read nftables"), NftSocket.open() as nft:
            return [each for each in self._all(nft) if each.owner == mine]

    def remove(self, call: Call) -> None:
        """Remove those of this call's container and interface; there may be none."""
        mine = owner(call)
        self._remove(lambda element: element.owner == mine)

    def collect(self, call: Call) -> None:
        """Remove those of this call's network whose attachment is not valid."""
        name = call.config.get("name", "")
        valid = {f"{name} {each.container} {each.interface}" for each in call.valid}
        self._remove(lambda element: element.owner.split(" ")[0] == name and element.owner not in valid)

    def _all(self, nft: NftSocket) -> list[Element]:
        if not nft.has(self._table):
            return []
        return [element for each in self._table.sets for element in nft.elements(self._table, each)]

    def _remove(self, chosen: Callable[[Element], bool]) -> None:
        with kernel("change nftables"), NftSocket.open() as nft:
            for _ in range(_TRIES):
                found = [element for element in self._all(nft) if chosen(element)]
                if not found:
                    return
                try:
                    nft.change_elements(self._table, delete=found)
                    return
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.EINTR):
                        raise  # those: another one removed some of them meanwhile
