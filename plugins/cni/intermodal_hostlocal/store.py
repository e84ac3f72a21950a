"""Leases as files, in the layout of the reference plugin host-local, so that both may work on one directory at once.

Below `DATADIR/NETWORK`: a file an address, named by it, which holds container and interface on two lines; `last_reserved_ip.N`
for each set of ranges; and `lock`, held (flock(2)) by whoever looks or changes.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import sys
from pathlib import Path

__all__ = ["Lease", "Store"]

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Lease = tuple[str, str]  # container, interface
_BREAK = "\r\n"


class Store:
    """The leases of one network, under its lock from `__enter__` to `__exit__`. `make` makes the directory if need be."""

    def __init__(self, data: str, network: str, make: bool = True) -> None:
        self._directory = Path(data) / network
        self._make = make
        self._lock = -1

    @property
    def there(self) -> bool:
        """Whether anything was ever leased."""
        return self._directory.is_dir()

    def __enter__(self) -> Store:
        if self._make:
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def taken(self) -> set[str]:
        """The names of the files: addresses, and some that are none."""
        return set(os.listdir(self._directory))

    def leases(self) -> dict[str, Lease]:
        """Every lease, by address."""
        found = {}
        for name in self.taken():
            if name == "lock" or name.startswith("last_reserved_ip"):
                continue
            try:
                with open(self._directory / name, newline="") as file:
                    words = file.read().strip()
            except (OSError, UnicodeDecodeError):
                continue
            container, _, interface = words.partition(_BREAK)
            found[name] = (container.strip(), interface.strip())
        return found

    def of(self, container: str, interface: str) -> list[str]:
        """The addresses that are leased to an attachment; old files name no interface."""
        return [
            address for address, lease in self.leases().items() if lease[0] == container and lease[1] in (interface, "")
        ]

    def reserve(self, address: IP, lease: Lease, range_set: int) -> bool:
        """Lease an address; False where it is leased already."""
        sys.audit("intermodal.step", "host-local.reserve")
        try:
            fd = os.open(self._file(address), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return False
        os.write(fd, _BREAK.join(lease).encode())
        os.close(fd)
        with open(self._directory / f"last_reserved_ip.{range_set}", "w") as file:
            file.write(str(address))
        return True

    def last(self, range_set: int) -> IP | None:
        """The address that was leased last of a set."""
        try:
            return ipaddress.ip_address((self._directory / f"last_reserved_ip.{range_set}").read_text().strip())
        except (OSError, ValueError):
            return None

    def release(self, address: str) -> None:
        """Give an address back; it may have been given back already."""
        sys.audit("intermodal.step", "host-local.release")
        (self._directory / address).unlink(missing_ok=True)

    def _file(self, address: IP) -> Path:
        return self._directory / str(address)
