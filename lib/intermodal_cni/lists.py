"""Network configuration lists, as files hold them: .conflist, and a single plugin's .conf or .json.

What is wrong with a file is said with its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from intermodal_core.errors import IntermodalError, InvalidArgument

from intermodal_cni.versions import SUPPORTED, check_version

__all__ = ["NAME", "NetworkList", "line_of", "load", "parse"]

#: What a network, a container and a plugin may be called (the specification's pattern).
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")

_BLANKS = " \t\n\r"
_decode = json.JSONDecoder().raw_decode


class NetworkList(msgspec.Struct, frozen=True):
    """One network: plugins in the order of ADD. `source` is the file that it was read from."""

    name: str
    version: str
    plugins: tuple[dict[str, Any], ...]
    disable_check: bool = False
    disable_gc: bool = False
    source: str = ""

    @property
    def types(self) -> tuple[str, ...]:
        """The plugins' types, in order."""
        return tuple(plugin["type"] for plugin in self.plugins)

    def document(self) -> dict[str, Any]:
        """As a .conflist file has it."""
        document: dict[str, Any] = {"cniVersion": self.version, "name": self.name, "plugins": list(self.plugins)}
        if self.disable_check:
            document["disableCheck"] = True
        if self.disable_gc:
            document["disableGC"] = True
        return document


def load(path: Path) -> NetworkList:
    """The list in a file. Raises InvalidArgument with `file:line`."""
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path}: not UTF-8 at byte {error.start}") from None
    return parse(text, str(path), single=path.suffix != ".conflist")


def parse(text: str, source: str = "", single: bool = False) -> NetworkList:
    """The list in a text; `single`: the text is one plugin's configuration. Raises InvalidArgument with `source:line`."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidArgument(f"{source or 'the list'}:{error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise InvalidArgument(f"{source or 'the list'}:1: nested too deep") from None
    try:
        return _checked(document, source, single)
    except _Wrong as wrong:
        line = line_of(text, wrong.path)
        raise InvalidArgument(f"{source or 'the list'}:{line}: {wrong}") from None


class _Wrong(Exception):
    def __init__(self, path: Sequence[str | int], why: str) -> None:
        super().__init__(why)
        self.path = path


def _checked(document: Any, source: str, single: bool) -> NetworkList:
    if not isinstance(document, dict):
        raise _Wrong((), "a network is a JSON object")
    version = document.get("cniVersion", "")
    versions = document.get("cniVersions")
    if versions is not None:
        if not isinstance(versions, list) or not all(isinstance(each, str) for each in versions):
            raise _Wrong(("cniVersions",), "cniVersions is a list of versions")
        usable = sorted({each for each in (*versions, version) if each in SUPPORTED})
        version = usable[-1] if usable else version
    if not isinstance(version, str):
        raise _Wrong(("cniVersion",), "cniVersion is a text")
    try:
        check_version(version)
    except IntermodalError as error:
        raise _Wrong(("cniVersion",), error.message) from None
    name = document.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise _Wrong(("name",), f"{name!r} is no name of a network: letters, digits, and after the first one _ . -")
    plugins = [document] if single else document.get("plugins")
    if not isinstance(plugins, list) or not plugins:
        raise _Wrong(("plugins",), "a list needs one plugin at least, in plugins")
    for index, plugin in enumerate(plugins):
        _check_plugin(plugin, () if single else ("plugins", index))
    if single:
        plugins = [{key: value for key, value in document.items() if key not in ("cniVersion", "cniVersions", "name")}]
    return NetworkList(
        name,
        version,
        tuple(plugins),
        _flag(document, "disableCheck"),
        _flag(document, "disableGC"),
        source,
    )


def _check_plugin(plugin: Any, path: tuple[str | int, ...]) -> None:
    if not isinstance(plugin, dict):
        raise _Wrong(path, "a plugin is a JSON object")
    kind = plugin.get("type")
    if not isinstance(kind, str) or not NAME.fullmatch(kind):
        raise _Wrong((*path, "type"), f"{kind!r} is no type of a plugin: it names an executable, without a path")
    for key, wanted in (("capabilities", dict), ("ipam", dict), ("args", dict), ("dns", dict), ("runtimeConfig", dict)):
        if not isinstance(plugin.get(key, wanted()), wanted):
            raise _Wrong((*path, key), f"{key} is a JSON object")


def _flag(document: Mapping[str, Any], key: str) -> bool:
    value = document.get(key, False)
    if value not in (True, False, "true", "false"):
        raise _Wrong((key,), f"{key} is true or false")
    return value in (True, "true")


def line_of(text: str, path: Sequence[str | int]) -> int:
    """The line on which the value at `path` of a JSON text begins; that of the object around it where it is missing."""
    position, found = _skip(text, 0), 0
    for step in path:
        inner = _member(text, position, step)
        if inner is None:
            break
        found, position = inner
        found = position if isinstance(step, int) else found
    else:
        position = found if path else position
    return text.count("\n", 0, position) + 1


def _member(text: str, at: int, step: str | int) -> tuple[int, int] | None:
    """Where a member's key and its value begin."""
    opened = text[at : at + 1]
    if opened != ("{" if isinstance(step, str) else "["):
        return None
    at, index = _skip(text, at + 1), 0
    while at < len(text) and text[at] not in "}]":
        begin, name = at, None
        if opened == "{":
            name, at = _decode(text, at)
            at = _skip(text, _skip(text, at) + 1)
        if step in (name, index if opened == "[" else None):
            return begin, at
        _, at = _decode(text, at)
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        index += 1
    return None


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at
