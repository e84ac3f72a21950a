"""Config as text: every option with its documentation, and what is in force with its origins."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, get_args, get_origin

import msgspec

from intermodal_core.config import Common, Core
from intermodal_core.config_lines import KeyPath, dotted, quoted
from intermodal_core.config_types import documentation

if TYPE_CHECKING:
    from intermodal_core.config import Config
    from intermodal_core.plugin import Plugin

__all__ = ["default_text", "dump", "toml"]

WIDTH = 100


def toml(value: Any) -> str:
    """A value as TOML writes it in one line; tables inline."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float):
        return (
            ("nan" if math.isnan(value) else "inf" if value > 0 else "-inf")
            if not math.isfinite(value)
            else repr(value)
        )
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{dotted((key,))} = {toml(part)}" for key, part in value.items() if part is not None)
        return f"{{ {inside} }}" if inside else "{}"
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


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
        text = "".join(char if char.isprintable() else " " for char in documentation(field.type))
        lines += [f"# {line}" for line in textwrap.wrap(text, WIDTH)]
        key = dotted((field.encode_name,))
        if value is msgspec.NODEFAULT:
            lines += [f"# {key} =    (required)", ""]
        elif value is None:
            lines += [f"# {key} =    (unset)", ""]
        else:
            lines += [f"{key} = {toml(msgspec.to_builtins(value))}", ""]
    return lines


def dump(config: Config, plugins: Mapping[tuple[str, str], Plugin[Any]], with_origin: bool) -> str:
    """The values of `config` in force; see `Config.dump`."""
    lines: list[str] = []

    def origin(path: KeyPath) -> str:
        return f"  # {config.where(path)}" if with_origin else ""

    def write(
        path: KeyPath, values: Mapping[str, Any], prefix: tuple[str, ...] = (), new: Collection[str] = ()
    ) -> None:
        for key, value in values.items():
            if isinstance(value, Mapping) and value:
                if len(path) != 1:  # what is below a top-level table has a header of its own
                    write((*path, key), value, (*prefix, key))
            elif value is not None:
                whence = path if key in new else (*path, key)  # what was migrated is not written anywhere
                lines.append(f"{dotted((*prefix, key))} = {toml(value)}{origin(whence)}")

    write((), msgspec.to_builtins(config.core))
    claimed = {name: annotation for plugin in plugins.values() for name, annotation in plugin.tables.items()}
    known = {name: msgspec.to_builtins(config.table(name, annotation)) for name, annotation in claimed.items()}
    for name, table in (dict(config.tables) | known).items():
        for path, part in [((name, n), part) for n, part in enumerate(table)] if isinstance(table, list) else []:
            lines += [
                "",
                f"[[{dotted((name,))}]]{origin(path)}",
                *(f"{dotted((k,))} = {toml(v)}" for k, v in part.items() if v is not None),
            ]
        if isinstance(table, dict) and not all(isinstance(value, dict) for value in table.values()):
            lines += ["", f"[{dotted((name,))}]"]
            write((name,), table)
    sections = {key: config.section(*key) for key in plugins} | dict(config.instances())
    for (kind, name), section in sorted(sections.items()):
        lines += ["", f"[{dotted((kind, name))}]"]
        plugin = plugins.get((kind, name))
        if plugin is None:
            write((kind, name), section.options)
        else:
            migrated = section.migrated(plugin.migrations)
            common = msgspec.to_builtins(section.common) | {"version": plugin.version}
            own = msgspec.to_builtins(section.convert(plugin.config, plugin.migrations))
            write((kind, name), common, new=("version",) if migrated.replaced else ())
            write((kind, name), own, new=migrated.new)
    return "\n".join(lines) + "\n"
