"""/etc/hosts, /etc/hostname and /etc/resolv.conf of containers: files below a directory that is gone at reboot.

Containers of one network and namespace find each other by name, since each has the others in its hosts file: that takes no
process, no port and no trust in what answers, works with every runtime, and is there before the container starts. A file
is rewritten in place, as it is what is mounted.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from intermodal_core.contracts.cni import Dns
from intermodal_core.contracts.common import Mount

__all__ = ["Files", "host_resolver"]

_HOSTS = (
    "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
)
_NAMES = ("hosts", "hostname", "resolv.conf")
_RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


class Files:
    """The files of all containers below `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def mounts(self, namespace: str, container: str) -> tuple[Mount, ...]:
        """What to mount into the container."""
        own = self._own(namespace, container)
        return tuple(Mount("bind", str(own / name), ("rbind", "rw", "rprivate"), f"/etc/{name}") for name in _NAMES)

    def make(self, namespace: str, container: str, hostname: str, hosts: str, resolver: str) -> None:
        """Make them, whole."""
        own = self._own(namespace, container)
        own.mkdir(mode=0o711, parents=True, exist_ok=True)
        for name, text in zip(_NAMES, (hosts, f"{hostname}\n", resolver), strict=True):
            path = own / name
            path.write_text(text)
            path.chmod(0o644)

    def rewrite(self, namespace: str, container: str, name: str, text: str) -> None:
        """Replace the content of one of them, where it is there. A reader may see old and new lines together, never none."""
        try:
            fd = os.open(self._own(namespace, container) / name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return
        try:
            data = text.encode()
            os.pwrite(fd, data, 0)
            os.ftruncate(fd, len(data))
        finally:
            os.close(fd)

    def there(self, namespace: str, container: str) -> bool:
        """Whether a container has files."""
        return self._own(namespace, container).is_dir()

    def owners(self) -> list[tuple[str, str]]:
        """The containers that have files, as (namespace, id)."""
        return [(path.parent.name, path.name) for path in self._directory.glob("*/*")]

    def remove(self, namespace: str, container: str) -> None:
        """Remove them; they may be gone."""
        shutil.rmtree(self._own(namespace, container), ignore_errors=True)

    def _own(self, namespace: str, container: str) -> Path:
        return self._directory / namespace / container


def hosts_text(entries: Iterable[tuple[str, tuple[str, ...]]]) -> str:
    """A hosts file of addresses (with or without prefix length) and their names."""
    lines = [f"{address.partition('/')[0]}\t{' '.join(names)}\n" for address, names in entries if names]
    return _HOSTS + "".join(lines)


def resolver_text(dns: Dns) -> str:
    """A resolv.conf."""
    lines = [f"nameserver {server}\n" for server in dns.nameservers]
    if search := dns.search or ((dns.domain,) if dns.domain else ()):
        lines.append(f"search {' '.join(search)}\n")
    if dns.options:
        lines.append(f"options {' '.join(dns.options)}\n")
    return "".join(lines)


def host_resolver(own: bool = True, paths: Iterable[Path] = _RESOLVERS) -> str:
    """The host's resolv.conf. With a namespace of its `own` a container cannot reach name servers on the host's loopback."""
    text = ""
    for path in paths:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        kept = [line for line in text.splitlines() if not (own and _on_loopback(line))]
        if not own or any(line.startswith("nameserver") for line in kept):
            return "".join(f"{line}\n" for line in kept)
    return text if not own else ""


def _on_loopback(line: str) -> bool:
    words = line.split()
    if len(words) < 2 or words[0] != "nameserver":
        return False
    try:
        return ipaddress.ip_address(words[1].partition("%")[0]).is_loopback
    except ValueError:
        return True
