"""`imod config default`: every option with its default and its documentation."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping
from typing import Annotated, Any, get_args, get_origin

import msgspec
from intermodal_core.config import Common, Core
from intermodal_core.config_lines import dotted
from intermodal_core.config_text import toml
from intermodal_core.plugin import Plugin

__all__ = ["default_text"]

WIDTH = 100


def default_text(core: Core, plugins: Mapping[tuple[str, str], Plugin[Any]], opt_in: Collection[str] = ()) -> str:
    """A config file with every option at its default and its documentation; it reads back to the same values.

    `plugins` are by kind and name. An option without a default is a comment, and so are an entry of a list of tables, and a
    section of the kinds `opt_in`.
    """
    lines = ["# The config of intermodald. Every option is here, with its default.", ""]
    lines += _options(type(core), core)
    lines += ["# Every [KIND.NAME] below also takes these:", "#"]
    lines += [f"#   {line}".rstrip() for line in _options(Common, Common())]
    tables = {name: annotation for plugin in plugins.values() for name, annotation in plugin.tables.items()}
    for name, annotation in tables.items():
        if get_origin(annotation) is list:  # none is the default: one is shown as a comment
            entry = ["", f"[[{dotted((name,))}]]", *_options(get_args(annotation)[0])]
            lines += ["", "# Any number of these, in order:", *(f"# {line}".rstrip() for line in entry)]
        else:
            lines += ["", f"[{dotted((name,))}]", *_options(annotation)]
    for key, plugin in plugins.items():
        version = [f"version = {plugin.version}", ""] if plugin.migrations else []
        section = ["", f"[{dotted(key)}]", *version, *_options(plugin.config)]
        lines += (
            ["", "# Not in use without this:", *(f"# {line}".rstrip() for line in section)]
            if key[0] in opt_in
            else section
        )
    return "\n".join(lines).rstrip() + "\n"


def _options(annotation: type[msgspec.Struct], values: msgspec.Struct | None = None) -> list[str]:
    lines: list[str] = []
    for field in msgspec.structs.fields(annotation):
        if values is not None:
            value = getattr(values, field.name)
        elif field.default_factory is not msgspec.NODEFAULT:
            value = field.default_factory()
        else:
            value = field.default
        text = "".join(char if char.isprintable() else " " for char in _documentation(field.type))
        lines += [f"# {line}" for line in textwrap.wrap(text, WIDTH)]
        key = dotted((field.encode_name,))
        if value is msgspec.NODEFAULT:
            lines += [f"# {key} =    (required)", ""]
        elif value is None:
            lines += [f"# {key} =    (unset)", ""]
        else:
            lines += [f"{key} = {toml(msgspec.to_builtins(value))}", ""]
    return lines


def _documentation(annotation: Any) -> str:
    """The description that `Annotated[T, msgspec.Meta(description=...)]` carries."""
    if get_origin(annotation) is Annotated:
        for meta in get_args(annotation)[1:]:
            if isinstance(meta, msgspec.Meta) and meta.description:
                return meta.description
    return ""
