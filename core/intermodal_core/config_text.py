"""Config as text: values as TOML writes them, and what is in force with its origins."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from intermodal_core.config import PROXIES
from intermodal_core.config_lines import KeyPath, dotted, quoted

if TYPE_CHECKING:
    from intermodal_core.config import Config
    from intermodal_core.plugin import Plugin

__all__ = ["dump", "toml"]


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


def dump(config: Config, plugins: Mapping[tuple[str, str], Plugin[Any]], with_origin: bool) -> str:
    """The values of `config` in force; see `Config.dump`."""
    lines: list[str] = []

    def origin(path: KeyPath, of: Config = config) -> str:
        return f"  # {of.where(path)}" if with_origin else ""

    def write(
        path: KeyPath,
        values: Mapping[str, Any],
        prefix: tuple[str, ...] = (),
        new: Collection[str] = (),
        of: Config = config,
    ) -> None:
        for key, value in values.items():
            if isinstance(value, Mapping) and value:
                if len(path) != 1:  # what is below a top-level table has a header of its own
                    write((*path, key), value, (*prefix, key), of=of)
            elif value is not None:
                whence = path if key in new else (*path, key)  # what was migrated is not written anywhere
                lines.append(f"{dotted((*prefix, key))} = {toml(value)}{origin(whence, of)}")

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
    for key, section in sorted(sections.items()):
        if key[0] == PROXIES:
            continue  # it is there again as the instance that it makes
        at, of, plugin = section.path, section.config, plugins.get(key)
        lines += ["", f"[{dotted(at)}]"]
        proxied = {"type": of.tables[PROXIES][at[1]]["type"]} if at[0] == PROXIES else {}
        write(at, proxied, of=of)
        hidden = {"plugin"} if proxied else set()
        if plugin is None:
            write(at, {key: value for key, value in section.options.items() if key not in hidden}, of=of)
        else:
            migrated = section.migrated(plugin.migrations)
            common = msgspec.to_builtins(section.common) | {"version": plugin.version}
            own = msgspec.to_builtins(section.convert(plugin.config, plugin.migrations))
            common = {key: value for key, value in common.items() if key not in hidden}
            write(at, common, new=("version",) if migrated.replaced else (), of=of)
            write(at, own, new=migrated.new, of=of)
    return "\n".join(lines) + "\n"
