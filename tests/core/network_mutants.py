"""Networks with one fault each, which the kit must find: run by test_network_kit.py, not collected by itself.

The one without a fault is small but real: a bridge in the container's namespace, and a file a lease of an address.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import msgspec
import pytest
from intermodal_core.contracts.networks import Attachment, AttachResult
from intermodal_core.errors import FailedPrecondition, NotFound
from intermodal_core.testing.networks import Factory, NetworkKit


class Bridges:
    """Implements the contract."""

    def __init__(self, root: Path) -> None:
        root.mkdir(exist_ok=True)
        self._root = root

    def attach(self, attachment: Attachment) -> AttachResult:
        lease = self._lease(attachment)
        address = self.free_address()
        lease.write_text(address)
        try:
            self._ip(attachment, "link", "add", attachment.interface, "type", "bridge")
            self._ip(attachment, "address", "add", address, "dev", attachment.interface)
        except NotFound:
            self.forget(lease)
            raise
        return AttachResult("path", attachment.netns, (address,), json.dumps({"address": address}).encode())

    def detach(self, attachment: Attachment, result: bytes) -> None:
        try:
            self._ip(attachment, "link", "delete", attachment.interface)
        except NotFound:
            pass
        self._lease(attachment).unlink(missing_ok=True)

    def check(self, attachment: Attachment, result: bytes) -> None:
        try:
            self._ip(attachment, "link", "show", attachment.interface)
        except NotFound as error:
            raise FailedPrecondition(f"the link is gone: {error}") from error

    def gc(self, live: tuple[Attachment, ...]) -> None:
        for lease in set(self._root.iterdir()) - {self._lease(one) for one in live}:
            lease.unlink()

    def free_address(self) -> str:
        taken = {path.read_text() for path in self._root.iterdir()}
        return next(address for n in range(1, 255) if (address := f"192.0.2.{n}/24") not in taken)

    def forget(self, lease: Path) -> None:
        lease.unlink()

    def _lease(self, attachment: Attachment) -> Path:
        return self._root / hashlib.sha256(attachment.id.encode()).hexdigest()

    def _ip(self, attachment: Attachment, *words: str) -> None:
        done = subprocess.run(
            ["nsenter", f"--net={attachment.netns}", "ip", *words], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NotFound(done.stderr.strip())


class _Kit(NetworkKit):
    capabilities = frozenset({"netns"})
    Mutant: type[Bridges] = Bridges

    @pytest.fixture
    def factory(self) -> Factory:
        return self.Mutant


class TestCorrect(_Kit):
    """No fault: nothing may fail."""


class TestN1(_Kit):
    class Mutant(Bridges):
        """Keeps the lease where attaching fails."""

        def forget(self, lease: Path) -> None:
            return


class TestN1Shared(_Kit):
    class Mutant(Bridges):
        """Gives everybody the same address."""

        def free_address(self) -> str:
            return "192.0.2.1/24"


class TestN1Mode(_Kit):
    class Mutant(Bridges):
        """Does not say where the namespace is."""

        def attach(self, attachment: Attachment) -> AttachResult:
            return msgspec.structs.replace(super().attach(attachment), netns="")


class TestN1Result(_Kit):
    class Mutant(Bridges):
        """Has no JSON for a result."""

        def attach(self, attachment: Attachment) -> AttachResult:
            return msgspec.structs.replace(super().attach(attachment), result=b"")


class TestN2(_Kit):
    class Mutant(Bridges):
        """Detaches once only."""

        def detach(self, attachment: Attachment, result: bytes) -> None:
            if not self._lease(attachment).exists():
                raise NotFound(attachment.id)
            super().detach(attachment, result)


class TestN2Result(_Kit):
    class Mutant(Bridges):
        """Cannot do without the result."""

        def detach(self, attachment: Attachment, result: bytes) -> None:
            if json.loads(result).get("address"):
                super().detach(attachment, result)


class TestN2Gone(_Kit):
    class Mutant(Bridges):
        """Keeps the lease where the namespace is gone."""

        def detach(self, attachment: Attachment, result: bytes) -> None:
            if Path(attachment.netns).exists():
                super().detach(attachment, result)


class TestN2Link(_Kit):
    class Mutant(Bridges):
        """Leaves the link."""

        def detach(self, attachment: Attachment, result: bytes) -> None:
            self._lease(attachment).unlink(missing_ok=True)


class TestN2Forgetful(_Kit):
    class Mutant(Bridges):
        """Undoes nothing after a restart."""

        def __init__(self, root: Path) -> None:
            super().__init__(root)
            self._mine: set[str] = set()

        def attach(self, attachment: Attachment) -> AttachResult:
            self._mine.add(attachment.id)
            return super().attach(attachment)

        def detach(self, attachment: Attachment, result: bytes) -> None:
            if attachment.id in self._mine:
                super().detach(attachment, result)


class TestN3(_Kit):
    class Mutant(Bridges):
        """Looks at its own records only."""

        def check(self, attachment: Attachment, result: bytes) -> None:
            if not self._lease(attachment).exists():
                raise FailedPrecondition(attachment.id)


class TestN3Error(_Kit):
    class Mutant(Bridges):
        """Raises another error."""

        def check(self, attachment: Attachment, result: bytes) -> None:
            self._ip(attachment, "link", "show", attachment.interface)


class TestN4(_Kit):
    class Mutant(Bridges):
        """Frees nothing."""

        def gc(self, live: tuple[Attachment, ...]) -> None:
            return


class TestN4Greedy(_Kit):
    class Mutant(Bridges):
        """Frees everything."""

        def gc(self, live: tuple[Attachment, ...]) -> None:
            super().gc(())
