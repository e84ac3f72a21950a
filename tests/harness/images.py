"""Small images for tests, made on the spot: a layer or more, a config, and either archive form that clients import.

`busybox_layout(path)` is the usual one; `write_image` takes any layers. All are deterministic: the same arguments
give the same bytes and so the same digests.
"""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import zstandard
from intermodal_oci import platforms

Compression = Literal["gzip", "zstd", "none"]
Form = Literal["oci", "docker-archive"]

BUSYBOX = Path("/usr/bin/busybox")
NAME = "docker.io/library/busybox:latest"
_OCI = "application/vnd.oci.image."
_SUFFIXES: dict[Compression, str] = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}

PASSWD = "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/home/guest:/bin/sh\n"
GROUP = "root:x:0:\nwheel:x:10:root\nguest:x:1000:\nstaff:x:1001:guest\n"


@dataclass(frozen=True)
class Entry:
    """One member of a layer: a file where there is data, a link where there is one, else a directory."""

    path: str
    data: bytes | None = None
    link: str = ""
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True)
class Built:
    """What was written: where, under which name, and the digests that a test may look for."""

    path: Path
    name: str
    manifest: str
    config: str
    layers: tuple[str, ...]
    diff_ids: tuple[str, ...]


def layer_tar(entries: Sequence[Entry]) -> bytes:
    """An uncompressed layer with `entries` in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
            if entry.link:
                info.type, info.linkname = tarfile.SYMTYPE, entry.link
            elif entry.data is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(entry.data)
            tar.addfile(info, None if entry.data is None else io.BytesIO(entry.data))
    return buffer.getvalue()


@cache
def busybox_layer() -> bytes:
    """A root file system around Debian's static busybox: each applet a link, root and guest as users."""
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True, timeout=10).stdout.split()
    directories = ("bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr", "var")
    return layer_tar(
        [
            *(Entry(name, mode=0o1777 if name == "tmp" else 0o755) for name in directories),
            Entry("home/guest", uid=1000, gid=1000),
            Entry("etc/passwd", PASSWD.encode(), mode=0o644),
            Entry("etc/group", GROUP.encode(), mode=0o644),
            Entry("bin/busybox", BUSYBOX.read_bytes()),
            *(Entry(f"bin/{name}", link="busybox", mode=0o777) for name in applets if name != "busybox"),
        ]
    )


def busybox_layout(
    path: Path,
    cmd: Sequence[str] = ("sh",),
    *,
    extra_layers: Sequence[bytes] = (),
    name: str = NAME,
    form: Form = "oci",
    compression: Compression = "gzip",
    **config: Any,
) -> Built:
    """Write a tar of an image with busybox, and `extra_layers` upon it, to `path`.

    Further keywords are those of an image config: entrypoint, env, user, working_dir, labels, stop_signal.
    """
    layers = [busybox_layer(), *extra_layers]
    return write_image(path, layers, cmd=cmd, name=name, form=form, compression=compression, **config)


def write_image(
    path: Path,
    layers: Sequence[bytes],
    *,
    name: str = NAME,
    form: Form = "oci",
    compression: Compression = "gzip",
    cmd: Sequence[str] = (),
    entrypoint: Sequence[str] = (),
    env: Sequence[str] = (),
    user: str = "",
    working_dir: str = "",
    labels: Mapping[str, str] | None = None,
    stop_signal: str = "",
) -> Built:
    """Write a tar of an image with these uncompressed layers; a Docker archive holds them as they are."""
    fields: dict[str, Any] = {"Cmd": list(cmd), "Entrypoint": list(entrypoint), "Env": list(env), "User": user}
    fields |= {"WorkingDir": working_dir, "Labels": dict(labels or {}), "StopSignal": stop_signal}
    host = platforms.host()
    diff_ids = [_digest(layer) for layer in layers]
    config = _json(
        {
            "architecture": host.architecture,
            "os": host.os,
            "config": {key: value for key, value in fields.items() if value},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    )
    if form == "docker-archive":
        return _write_docker_archive(path, name, config, layers, diff_ids)
    return _write_oci_layout(
        path, name, config, [_compress(layer, compression) for layer in layers], compression, diff_ids
    )


def _write_oci_layout(
    path: Path, name: str, config: bytes, layers: list[bytes], compression: Compression, diff_ids: list[str]
) -> Built:
    media_type = f"{_OCI}layer.v1.tar{_SUFFIXES[compression]}"
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}manifest.v1+json",
            "config": _descriptor(f"{_OCI}config.v1+json", config),
            "layers": [_descriptor(media_type, layer) for layer in layers],
        }
    )
    target = _descriptor(f"{_OCI}manifest.v1+json", manifest)
    tag = name.rpartition(":")[2]
    target["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag}
    blobs = {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (manifest, config, *layers)}
    index = _json({"schemaVersion": 2, "mediaType": f"{_OCI}index.v1+json", "manifests": [target]})
    _write_tar(path, {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": index, **blobs})
    digests = tuple(_digest(layer) for layer in layers)
    return Built(path, name, _digest(manifest), _digest(config), digests, tuple(diff_ids))


def _write_docker_archive(path: Path, name: str, config: bytes, layers: Sequence[bytes], diff_ids: list[str]) -> Built:
    files = {f"{digest[7:]}/layer.tar": layer for digest, layer in zip(diff_ids, layers, strict=True)}
    config_name = f"{_digest(config)[7:]}.json"
    manifest = _json([{"Config": config_name, "RepoTags": [name], "Layers": list(files)}])
    _write_tar(path, {"manifest.json": manifest, config_name: config, **files})
    return Built(path, name, "", _digest(config), tuple(diff_ids), tuple(diff_ids))


def _compress(layer: bytes, compression: Compression) -> bytes:
    if compression == "gzip":
        return gzip.compress(layer, compresslevel=1, mtime=0)
    if compression == "zstd":
        return zstandard.ZstdCompressor(level=1).compress(layer)
    return layer


def _write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    path.write_bytes(layer_tar([Entry(name, data, mode=0o644) for name, data in files.items()]))


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
