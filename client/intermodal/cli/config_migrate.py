"""`imod config migrate`: brings the options of plugins in config files up to date; comments, order and layout stay."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from intermodal_core.config import Common, Config
from intermodal_core.migrations import Migration, migrate
from intermodal_core.plugin import Plugin
from tomlkit.container import Container
from tomlkit.items import Item, Table

__all__ = ["difference", "migrated", "write"]

_COMMON = frozenset(Common.__struct_fields__)


def migrated(config: Config, plugins: Mapping[tuple[str, str], Plugin[Any]]) -> dict[str, str]:
    """The new text of each file of `config` in which a section is of an older version. Raises what a step raises."""
    return {file: new for file, text in config.texts.items() if (new := _file(text, config, plugins)) != text}


def difference(file: str, old: str, new: str) -> str:
    """A unified diff."""
    return "".join(difflib.unified_diff(old.splitlines(True), new.splitlines(True), file, f"{file} (migrated)"))


def write(file: str, text: str) -> str:
    """Put `text` in the place of the file, whose old self is kept beside it; returns that one's name."""
    path, kept, fresh = Path(file), f"{file}.before-migrate", Path(f"{file}.migrated")
    mode = path.stat()
    fresh.write_text(text)
    os.chmod(fresh, mode.st_mode & 0o7777)
    os.chown(fresh, mode.st_uid, mode.st_gid)
    Path(kept).unlink(missing_ok=True)
    os.link(path, kept)
    os.replace(fresh, path)
    return kept


def _file(text: str, config: Config, plugins: Mapping[tuple[str, str], Plugin[Any]]) -> str:
    document = tomlkit.parse(text)
    for kind in list(document):
        sections = document[kind]
        for name in list(sections) if isinstance(sections, Mapping) else []:
            section = config.instances().get((kind, name))
            plugin = plugins.get((kind, (section.common.plugin or name) if section else name))
            if section is None or plugin is None or section.common.version >= plugin.version:
                continue
            steps = plugin.migrations[section.common.version - 1 :]
            own = {key: value for key, value in _plain(sections[name]).items() if key not in _COMMON}
            after = migrate(own, 1, steps).options
            sections[name] = _with(sections[name], own, after, _renamed(own, after, steps), plugin.version)
    return tomlkit.dumps(document)


def _with(
    table: Any, before: Mapping[str, Any], after: Mapping[str, Any], renamed: Mapping[str, str], version: int
) -> Table:
    """The table with other options; one that got another name keeps its place and its comments."""
    new = tomlkit.table()
    if isinstance(table, Table):
        for part in ("indent", "comment_ws", "comment", "trail"):
            setattr(new.trivia, part, getattr(table.trivia, part))
    body: list[tuple[Any, Any]] = table.value.body if isinstance(table, Table) else Container().body
    if not isinstance(table, Table):  # inline, or put together of several headers
        body = [(key, tomlkit.item(value)) for key, value in _plain(table).items()]
    placed: set[str] = set()
    if "version" not in table:
        new.add("version", version)
    for key, item in body:
        name = key.key if key is not None and hasattr(key, "key") else key
        if name is None:
            new.add(item)
            continue
        to = renamed.get(name, name)
        if name == "version":
            item = _like(version, item)
        elif name not in _COMMON:
            if to not in after:
                continue
            placed.add(to)
            if to != name or after[to] != before[name]:
                item = _like(after[to], item)
        new.append(to, item)
    for key, value in after.items():
        if key not in placed:
            new.add(key, value)
    return new


def _renamed(before: Mapping[str, Any], after: Mapping[str, Any], steps: Sequence[Migration]) -> dict[str, str]:
    """Old name to new of the keys that went as another came: what the steps make of each alone tells."""
    found: dict[str, str] = {}
    for key in before:
        if key in after:
            continue
        try:
            come = [new for new in migrate({key: before[key]}, 1, steps).options if new != key]
        except Exception:  # a step that wants several keys at once tells nothing of one
            continue
        if len(come) == 1 and come[0] in after and come[0] not in before and come[0] not in found.values():
            found[key] = come[0]
    return found


def _like(value: Any, item: Any) -> Item:
    """The value, with the comment of the item that it replaces."""
    new: Item = tomlkit.item(value)
    if hasattr(item, "trivia") and not isinstance(new, Table):
        for part in ("indent", "comment_ws", "comment", "trail"):
            setattr(new.trivia, part, getattr(item.trivia, part))
    return new


def _plain(table: Any) -> dict[str, Any]:
    plain = table.unwrap() if hasattr(table, "unwrap") else dict(table)
    return dict(plain)
