"""runsc's options: an operator's, and a client's for one container; all of them end as words of runsc's command line."""

from __future__ import annotations

import os
import tomllib
from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from intermodal_api.containerd.runtime.runtime_options_pb2 import Options as Generic
from intermodal_core.errors import InvalidArgument, from_os_error

from intermodal_runsc.plugin import Config

__all__ = ["OPTIONS_TYPE", "TYPE_URL", "asked", "words"]

#: Names the format of `runtimeoptions.v1.Options` that gVisor's shim takes, and the message that carries it.
OPTIONS_TYPE = "io.containerd.runsc.v1.options"
TYPE_URL = Generic.DESCRIPTOR.full_name
#: Flags of ours by gVisor's names, which a client's `[runsc_config]` uses.
_OURS = {
    "platform": "platform",
    "network": "network",
    "overlay2": "overlay",
    "file-access": "file_access",
    "host-uds": "host_uds",
    "oci-seccomp": "oci_seccomp",
    "ignore-cgroups": "ignore_cgroups",
    "systemd-cgroup": "systemd_cgroup",
    "debug-log": "debug_log",
}
#: What no client may set: where state and logs are, and what opens the host.
_RESERVED = frozenset(
    {"root", "log", "log-fd", "log-format", "rootless", "allow-flag-override", "TESTONLY-unsafe-nonroot"}
)


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """The configuration that gVisor's shim reads; what concerns that shim alone is accepted and changes nothing here."""

    binary_name: str = ""
    root: str = ""
    runsc_config: dict[str, str | bool | int] = {}
    log_path: str = ""
    log_level: str = ""
    shim_cgroup: str = ""
    io_uid: int = 0
    io_gid: int = 0


def words(config: Config, platform: str, network: str) -> tuple[str, ...]:
    """The flags before each command. `platform` and `network` are what `auto` came to."""
    flags: dict[str, Any] = {
        "platform": platform,
        "network": network,
        "overlay2": config.overlay,
        "file-access": config.file_access,
        "host-uds": config.host_uds if config.host_uds != "none" else "",
        "oci-seccomp": config.oci_seccomp,
        "ignore-cgroups": config.ignore_cgroups,
        "debug-log": config.debug_log,
        "debug": bool(config.debug_log),
        **config.flags,
    }
    return tuple(f"--{name}={value}" for name, value in ((n, _text(v)) for n, v in flags.items()) if value)


def _text(value: str | bool | int) -> str:
    if isinstance(value, bool):
        return "true" if value else ""
    return str(value)


def asked(config: Config, type_url: str, value: bytes) -> Config:
    """The options for one container: an operator's, overridden by the client's `runtimeoptions.v1.Options`.

    Raises InvalidArgument for another type, and for what is no option of runsc.
    """
    if not type_url:
        return config
    try:
        generic = Generic.FromString(value) if type_url.rpartition("/")[2] == TYPE_URL else None
    except DecodeError as error:
        raise InvalidArgument(f"the runtime options are no {TYPE_URL}: {error}") from error
    if generic is None or generic.type_url not in ("", OPTIONS_TYPE):
        given = generic.type_url if generic else type_url
        raise InvalidArgument(f"runsc takes options as {TYPE_URL} of the type {OPTIONS_TYPE}, and not as {given}")
    try:
        text = generic.config_body.decode() if generic.config_body else _read(generic.config_path)
        body = msgspec.convert(tomllib.loads(text), _Body)
        return _with(config, body)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InvalidArgument(f"the options for runsc ({generic.config_path or 'config_body'}): {error}") from error


def _read(path: str) -> str:
    if not path:
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise from_os_error(error, "reading the options for runsc") from error


def _with(config: Config, body: _Body) -> Config:
    changes: dict[str, Any] = {}
    if body.binary_name:
        changes["binary"] = body.binary_name
    if body.root:
        changes["root"] = os.path.abspath(body.root)
    further = dict(config.flags)
    for name, value in body.runsc_config.items():
        if name in _RESERVED or name.startswith("-"):
            raise InvalidArgument(
                f"{name} cannot be set for one container: it is the operator's, in [runtimes.*] flags"
            )
        if name in _OURS:
            changes[_OURS[name]] = value == "true" if value in ("true", "false") else value
        else:
            further[name] = _text(value) or "false"
    merged = {**msgspec.structs.asdict(config), **changes, "flags": further}
    return msgspec.convert(merged, Config)
