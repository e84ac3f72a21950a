"""The tables of the networks manager."""

from __future__ import annotations

from typing import Literal

import msgspec
from intermodal_core.contracts.managers.networks import AttachmentView
from intermodal_core.contracts.metadata import Table
from intermodal_core.contracts.networks import Attachment

__all__ = ["ADDRESSES", "ATTACHMENTS", "AddressRow", "AttachmentRow"]


class AttachmentRow(msgspec.Struct, frozen=True):
    """An attachment from before it is made until after it is undone.

    `boot` is the boot in which its namespace was made; `names` are those by which others find it; times are ns since the epoch.
    """

    namespace: str
    container: str
    network: str
    instance: str
    attachment: Attachment
    state: Literal["begun", "attached", "owed"]
    boot: str
    created_at: int
    names: tuple[str, ...] = ()
    result: bytes = b"{}"
    addresses: tuple[str, ...] = ()
    error: str = ""
    tries: int = 0
    retry_at: int = 0

    def view(self) -> AttachmentView:
        """As lists show it."""
        return AttachmentView(
            self.namespace,
            self.container,
            self.network,
            self.attachment.interface,
            self.state,
            self.addresses,
            self.attachment.ports,
            self.error,
            self.tries,
            self.retry_at,
        )


class AddressRow(msgspec.Struct, frozen=True):
    """The addresses that a container had last in a network, to be asked for again."""

    namespace: str
    container: str
    network: str
    addresses: tuple[str, ...]


ATTACHMENTS = Table("attachments", AttachmentRow, ("namespace", "container", "network"), {"network": ("network",)})
ADDRESSES = Table("addresses", AddressRow, ("namespace", "container", "network"))
