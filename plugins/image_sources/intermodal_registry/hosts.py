"""Which servers serve a registry's names, as containerd's `certs.d/HOST/hosts.toml` says.

    server = "https://registry.example"          the name's own server, asked last
    [host."https://mirror.example"]              the mirrors, asked first, in their order
    capabilities = ["pull", "resolve", "push"]
    ca = "ca.pem"                                one or several; paths are relative to the file
    client = [["cert.pem", "key.pem"]]           or one file that holds both
    skip_verify = false
    override_path = false                        the URL's path is the whole API root, without /v2
    dial_timeout = "5s"
    [host."https://mirror.example".header]
    x-what = "value"

The same keys at the top of the file are for the server. The directory of HOST is `HOST_PORT_`, `HOST:PORT` or `HOST`, and
`_default` for all that have none. Without hosts.toml, `*.crt` in it are CAs, `*.cert` with `*.key` client certificates.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from intermodal_core.contracts.image_sources import Access
from intermodal_core.errors import InvalidArgument, from_os_error

__all__ = ["HUB", "Server", "is_local", "servers_of"]

HUB: Final = "docker.io"
#: The server behind the names of docker.io.
_HUB_SERVER: Final = "index.docker.io"
_ALL: Final = ("pull", "resolve", "push")
_LOOPBACK: Final = re.compile(r"127(?:\.\d+){3}")
_KEYS: Final = frozenset(
    {"capabilities", "ca", "client", "skip_verify", "override_path", "header", "dial_timeout", "server", "host"}
)


@dataclass(frozen=True)
class Server:
    """One server: `url` is its API root, with the version; `origin` where that is written.

    `upstream` is the host whose names it serves where it is a mirror, else "". `ca` None: the system's CAs.
    """

    url: str
    origin: str
    upstream: str = ""
    capabilities: tuple[str, ...] = _ALL
    ca: tuple[str, ...] | None = None
    client: tuple[tuple[str, str | None], ...] = ()
    skip_verify: bool = False
    header: Mapping[str, str] = field(default_factory=dict)
    dial_timeout: float = 0

    @property
    def host(self) -> str:
        """Host and port, by which credentials are looked up."""
        return urlsplit(self.url).netloc

    @property
    def trust(self) -> str:
        """Whom TLS trusts, for people."""
        if self.url.startswith("http:"):
            return "none: plain HTTP"
        client = "; client certificate " + ", ".join(cert for cert, _ in self.client) if self.client else ""
        if self.skip_verify:
            return f"any certificate (skip_verify){client}"
        return (f"the system's CAs and {', '.join(self.ca)}" if self.ca else "the system's CAs") + client


def is_local(host: str) -> bool:
    """Whether a host, with or without a port, is this machine by its name."""
    name = urlsplit(f"//{host}").hostname or ""
    return name in ("localhost", "::1") or name.endswith(".localhost") or _LOOPBACK.fullmatch(name) is not None


def servers_of(domain: str, directories: Sequence[Path], access: Access) -> list[Server]:
    """The servers of a name's domain, mirrors first. Raises InvalidArgument for a wrong hosts.toml."""
    own = _default(domain, access)
    directory = next((found for top in directories if (found := _directory(top, domain))), None)
    if directory is None:
        return [own]
    path = directory / "hosts.toml"
    if not path.exists():
        return [_with_certificates(own, directory)]
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise from_os_error(error, f"reading {path}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgument(f"{path} is not TOML: {error}") from None
    return _from_document(document, path, domain, own, access)


def _default(domain: str, access: Access) -> Server:
    host = _HUB_SERVER if domain == HUB else domain
    scheme = "http" if access.plain_http or is_local(host) else "https"
    return Server(f"{scheme}://{host}/v2", "the name itself", skip_verify=access.skip_verify)


def _directory(top: Path, domain: str) -> Path | None:
    host, colon, port = domain.rpartition(":")
    names = [f"{host}_{port}_", domain, host] if colon and port.isdecimal() else [domain]
    for name in (*names, "_default"):
        if (top / name).is_dir():
            return top / name
    return None


def _from_document(document: dict[str, Any], path: Path, domain: str, own: Server, access: Access) -> list[Server]:
    mirrors = _typed(document, "host", dict, path, {})
    servers = [
        replace(_server(url, _table(table, url, path), path, f'{path} [host."{url}"]'), upstream=domain)
        for url, table in mirrors.items()
    ]
    address = _typed(document, "server", str, path, "")
    if address and "://" not in address:
        address = f"{urlsplit(own.url).scheme}://{address}"
    last = _server(address or own.url.removesuffix("/v2"), document, path, str(path))
    if access.plain_http and not address:
        last = replace(last, url=last.url.replace("https://", "http://", 1))
    if last.url == f"https://{HUB}/v2":
        last = replace(last, url=f"https://{_HUB_SERVER}/v2")
    elif urlsplit(last.url).netloc not in (domain, urlsplit(own.url).netloc):
        last = replace(last, upstream=domain)
    if access.skip_verify:
        last = replace(last, skip_verify=True)
    # A mirror that is also the server is asked once, at its place among the mirrors.
    return [*servers, *([] if any(server.url == last.url for server in servers) else [last])]


def _server(url: str, table: dict[str, Any], path: Path, origin: str) -> Server:
    for key in table:
        if key not in _KEYS:
            raise InvalidArgument(f"{path}: the key {key!r} is not known; there are {', '.join(sorted(_KEYS))}")
    if "://" not in url:
        url = f"https://{url}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidArgument(f"{path}: {url!r} is no URL of a registry; write https://HOST[:PORT][/PATH]")
    root = parts.path.rstrip("/")
    if not _typed(table, "override_path", bool, path, False) and not root.endswith("/v2"):
        root += "/v2"
    capabilities = tuple(_typed(table, "capabilities", list, path, list(_ALL)))
    for capability in capabilities:
        if capability not in _ALL:
            raise InvalidArgument(f"{path}: there is no capability {capability!r}; there are {', '.join(_ALL)}")
    ca = _listed(table.get("ca"), path, "ca")
    return Server(
        url=f"{parts.scheme}://{parts.netloc}{root}",
        origin=origin,
        capabilities=capabilities,
        ca=tuple(str(path.parent / name) for name in ca) or None,
        client=tuple(_pairs(table.get("client"), path)),
        skip_verify=_typed(table, "skip_verify", bool, path, False),
        header=_header(table.get("header", {}), path),
        dial_timeout=_seconds(table.get("dial_timeout", "0s"), path),
    )


def _with_certificates(server: Server, directory: Path) -> Server:
    """Docker's way: the files of the directory say it all."""
    ca = tuple(str(path) for path in sorted(directory.glob("*.crt")))
    client = []
    for path in sorted(directory.glob("*.cert")):
        key = path.with_suffix(".key")
        if not key.exists():
            raise InvalidArgument(f"{path} is a client certificate without its key {key}")
        client.append((str(path), str(key)))
    scheme_fixed = server.url.replace("http://", "https://", 1) if ca or client else server.url
    return replace(server, url=scheme_fixed, ca=ca or None, client=tuple(client), origin=str(directory))


def _pairs(value: Any, path: Path) -> list[tuple[str, str | None]]:
    """`client`: a file with both, a list of such, or of pairs of certificate and key."""
    if value is None:
        return []
    pairs: list[tuple[str, str | None]] = []
    for each in [value] if isinstance(value, str) else value if isinstance(value, list) else [None]:
        names = [each] if isinstance(each, str) else each
        if not isinstance(names, list) or not 1 <= len(names) <= 2 or not all(isinstance(x, str) for x in names):
            raise InvalidArgument(f"{path}: client must be a file, or a list of files or of [certificate, key]")
        pairs.append((str(path.parent / names[0]), str(path.parent / names[1]) if names[1:] and names[1] else None))
    return pairs


def _header(value: Any, path: Path) -> dict[str, str]:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{path}: header must be a table of names and values")
    return {name: ", ".join(_listed(values, path, f"header.{name}")) for name, values in value.items()}


def _listed(value: Any, path: Path, key: str) -> list[str]:
    values = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in values):
        raise InvalidArgument(f"{path}: {key} must be a text or a list of texts")
    return values


def _typed(table: Mapping[str, Any], key: str, kind: type, path: Path, default: Any) -> Any:
    value = table.get(key, default)
    if not isinstance(value, kind):
        raise InvalidArgument(f"{path}: {key} must be of the type {kind.__name__}, not {type(value).__name__}")
    return value


def _table(value: Any, url: str, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgument(f'{path}: host."{url}" must be a table')
    return value


def _seconds(value: Any, path: Path) -> float:
    """A duration as Go writes it, in one unit."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", value) if isinstance(value, str) else None
    if found is None:
        raise InvalidArgument(f"{path}: dial_timeout must be a duration such as 5s, not {value!r}")
    return float(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[found[2]]
