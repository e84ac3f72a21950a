"""`imod-cni`: a type of the group `intermodal.cni` as the specification's executable, for any runtime.

The type is the name by which it is called (a link named `bridge`, in the CNI bin path), or `CNI_PLUGIN`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast, get_args

from intermodal_core.child import Completed
from intermodal_core.contracts.cni import Call, Host, Result, ValidAttachment, Verb
from intermodal_core.errors import DeadlineExceeded, PluginSkipped, Unavailable
from intermodal_core.plugin import Context, Plugin
from intermodal_netlink.namespaces import Local

from intermodal_cni.errors import INCOMPATIBLE, INVALID_CONFIG, INVALID_ENVIRONMENT, UNDECODABLE, as_document, numbered
from intermodal_cni.executables import Executables
from intermodal_cni.host import Invoke, TypesHost, invoke
from intermodal_cni.lists import NAME
from intermodal_cni.versions import NEWEST, SUPPORTED, check_version, decode_result, encode_result

__all__ = ["load_type", "main"]

_GROUP = "intermodal.cni"
_SINCE = {"CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}
_NEEDED = {"ADD": ("CONTAINERID", "NETNS", "IFNAME"), "DEL": ("CONTAINERID", "IFNAME")}


def main() -> None:
    """Do what CNI_COMMAND says, and end with the status that the specification asks for."""
    own = os.path.basename(sys.argv[0])
    type = os.environ.get("CNI_PLUGIN", "") if own == "imod-cni" else own
    if "CNI_COMMAND" not in os.environ:
        print(
            f"CNI {type or 'plugins'} of intermodal\nCNI protocol versions supported: {', '.join(SUPPORTED)}",
            file=sys.stderr,
        )
        sys.exit(0)
    version = NEWEST
    try:
        config = _configuration(sys.stdin.buffer.read())
        version = config.get("cniVersion") or "0.1.0"
        answer = _run(type, os.environ["CNI_COMMAND"], version, config)
    except Exception as error:
        print(json.dumps(as_document(error, version if version in SUPPORTED else NEWEST)))
        sys.exit(1)
    if answer is not None:
        print(json.dumps(answer))


def load_type(name: str) -> Invoke | None:
    """The type of that name, if an entry point offers it and it can run here. Raises Unavailable where it cannot."""
    found = tuple(entry_points(group=_GROUP, name=name))
    if not found:
        return None
    plugin: Plugin[Any] = found[0].load()
    nothing: Any = None
    context = Context(
        kind="cni",
        name=name,
        config=plugin.config(),
        root=Path("/var/lib/cni") / name,
        state=Path("/run/cni") / name,
        address="",
        log=logging.getLogger(f"cni.{name}"),
        events=nothing,
        spawner=nothing,
        registry=nothing,
    )
    try:
        instance = plugin.factory(context)
    except PluginSkipped as skip:
        raise Unavailable(f"the CNI plugin {name} cannot run here: {skip.reason}") from None
    return lambda verb, call, host: invoke(instance, verb, call, host)


def _configuration(text: bytes) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise numbered(UNDECODABLE, f"standard input is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise numbered(UNDECODABLE, "standard input is not a JSON object")
    return config


def _run(type: str, verb: str, version: str, config: dict[str, Any]) -> dict[str, Any] | None:
    if verb == "VERSION":
        return {"cniVersion": NEWEST, "supportedVersions": list(SUPPORTED)}
    if verb not in get_args(Verb):
        raise numbered(INVALID_ENVIRONMENT, f"CNI_COMMAND is {verb!r}: it is ADD, DEL, CHECK, STATUS, GC or VERSION")
    check_version(version)
    if version < _SINCE.get(verb, version):
        raise numbered(INCOMPATIBLE, f"cniVersion {version} has no {verb}; it came with {_SINCE[verb]}")
    if not NAME.fullmatch(str(config.get("name") or "")):
        raise numbered(INVALID_CONFIG, f"the network's name is {config.get('name')!r}")
    variables = {key[4:]: value for key, value in os.environ.items() if key.startswith("CNI_")}
    call = _call(cast(Verb, verb), config, variables)
    found = load_type(type)
    if found is None:
        raise numbered(
            INVALID_ENVIRONMENT,
            f"there is no CNI type {type or '(no name)'}: call it by a link of that name, or set CNI_PLUGIN",
        )
    path = [folder for folder in variables.get("PATH", "").split(os.pathsep) if folder]
    host: Host = TypesHost(load_type, Local(), Executables(path, _execute))
    result = found(cast(Verb, verb), call, host)
    return encode_result(result, version, interfaces=bool(result.interfaces)) if isinstance(result, Result) else None


def _call(verb: Verb, config: dict[str, Any], variables: Mapping[str, str]) -> Call:
    missing = [
        f"CNI_{name}"
        for name in _NEEDED.get(verb, _NEEDED["ADD"] if verb == "CHECK" else ())
        if not variables.get(name)
    ]
    if missing:
        raise numbered(INVALID_ENVIRONMENT, f"{', '.join(missing)} must be set for {verb}")
    container = variables.get("CONTAINERID", "")
    if container and not NAME.fullmatch(container):
        raise numbered(INVALID_ENVIRONMENT, f"CNI_CONTAINERID {container!r} has characters that it may not have")
    previous = config.pop("prevResult", None)
    if previous is not None and not isinstance(previous, dict):
        raise numbered(UNDECODABLE, "prevResult is not a JSON object")
    valid = config.pop("cni.dev/valid-attachments", None) or config.pop("cni.dev/attachments", None) or ()
    return Call(
        config,
        container,
        variables.get("NETNS", ""),
        variables.get("IFNAME", ""),
        _arguments(variables.get("ARGS", "")),
        decode_result(previous) if previous else None,
        tuple(ValidAttachment(str(each["containerID"]), str(each["ifname"])) for each in valid),
    )


def _arguments(text: str) -> dict[str, str]:
    found = {}
    for item in filter(None, text.split(";")):
        key, equals, value = item.partition("=")
        if not equals:
            raise numbered(INVALID_ENVIRONMENT, f"CNI_ARGS has {item!r}: write KEY=VALUE;KEY=VALUE")
        found[key] = value
    return found


def _execute(
    argv: Any, input: bytes = b"", timeout: float = 30.0, *, env: Mapping[str, str] | None = None
) -> Completed:
    import subprocess

    try:
        done = subprocess.run(argv, input=input, capture_output=True, timeout=timeout, env=env, check=False)
    except subprocess.TimeoutExpired:
        raise DeadlineExceeded(f"{argv[0]} has not ended within {timeout:g} s and was killed") from None
    return Completed(done.returncode, done.stdout, done.stderr)
