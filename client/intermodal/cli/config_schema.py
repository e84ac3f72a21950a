"""`imod config schema`: a JSON Schema (2020-12) of the config, of the very types that the daemon reads it with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from intermodal_core.config import PROXIES, RELOADABLE, Common, Core
from intermodal_core.plugin import Plugin

__all__ = ["schema"]

#: What every proxy has; the rest is of its type.
_PROXY = {"type": "object", "required": ["type", "address"], "properties": {"address": {"type": "string"}}}
_REFERENCE = "#/$defs/{name}"


def schema(kinds: Collection[str], plugins: Mapping[tuple[str, str], Plugin[Any]]) -> dict[str, Any]:
    """What a main file may hold where these plugins, by kind and id, are installed.

    A section is described in the newest form of its plugin's options. What the daemon checks besides (names of instances
    in `[defaults]` and `[[rules]]`, what a plugin makes of its values) is beyond a schema.
    """
    tables = {name: table for plugin in plugins.values() for name, table in plugin.tables.items()}
    types = [Core, Common, *(plugin.config for plugin in plugins.values()), *tables.values()]
    shapes, definitions = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    for each in definitions.values():
        if each.get("type") == "object" and "properties" in each:
            each["additionalProperties"] = False  # so the daemon has it, whatever the type lets pass
    core, common, *own = (_object(shape, definitions) for shape in shapes[: 2 + len(plugins)])
    for key in RELOADABLE:
        core["properties"][key] = {**core["properties"][key], "reloadable": True}
    properties = dict(core["properties"])
    for kind in kinds:
        sections = {
            id: _section(common, shape, plugin)
            for ((of, id), plugin), shape in zip(plugins.items(), own, strict=True)
            if of == kind
        }
        definitions.update({f"{kind}.{id}": section for id, section in sections.items()})
        properties[kind] = _kind(kind, list(sections))
    properties[PROXIES] = {"type": "object", "additionalProperties": _PROXY}
    properties.update(zip(tables, shapes[2 + len(plugins) :], strict=True))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The config of intermodald",
        "type": "object",
        "properties": properties,
        "required": ["version"],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _object(shape: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The properties behind a reference."""
    name = shape["$ref"].rpartition("/")[2] if "$ref" in shape else ""
    found = dict(definitions[name] if name else shape)
    return {"properties": dict(found.get("properties", {})), "required": list(found.get("required", ()))}


def _section(common: Mapping[str, Any], own: Mapping[str, Any], plugin: Plugin[Any]) -> dict[str, Any]:
    section: dict[str, Any] = {
        "type": "object",
        "properties": {**common["properties"], **own["properties"]},
        "required": list(own["required"]),
        "additionalProperties": False,
    }
    section["properties"]["version"] = {**common["properties"]["version"], "const": plugin.version}
    if plugin.migrations:  # without it, the options are those of version 1
        section["required"].append("version")
    return section


def _kind(kind: str, ids: list[str]) -> dict[str, Any]:
    """`[KIND.NAME]`: of the plugin that `plugin` names, else of the one that is called NAME."""
    told = [{"if": {"properties": {"plugin": {"const": id}}}, "then": {"$ref": f"#/$defs/{kind}.{id}"}} for id in ids]
    named: dict[str, Any] = {"properties": {"plugin": {"enum": ids}}, "required": ["plugin"]}
    if told:
        named["allOf"] = told
    return {
        "type": "object",
        "properties": {
            id: {"if": {"required": ["plugin"]}, "then": named, "else": {"$ref": f"#/$defs/{kind}.{id}"}} for id in ids
        },
        "additionalProperties": named,
    }
