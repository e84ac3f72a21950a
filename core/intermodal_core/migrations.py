"""Options of an older version of a plugin, step by step in the form of the newest.

A plugin's options have a version of their own, `version` in its section of the config; a section without one is of version 1,
as every section was before there was a second. `Plugin.migrations` has a step for each version but the newest: step n, counted
from 1, is a pure function from the options of version n to those of version n + 1.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from intermodal_core.errors import InvalidArgument

__all__ = ["Migrated", "Migration", "migrate"]

#: From the options of one version, as they are read from TOML, to those of the next. It may change the dict that it gets.
#: It leaves what it does not know as it is, and raises InvalidArgument for a value that has no meaning any more.
Migration = Callable[[dict[str, Any]], dict[str, Any]]


class Migrated(NamedTuple):
    """Options in their newest form, and what became of the keys: `replaced` are not there any more, `new` were not before."""

    options: dict[str, Any]
    replaced: tuple[str, ...]
    new: tuple[str, ...]


def migrate(options: Mapping[str, Any], version: int, steps: Sequence[Migration]) -> Migrated:
    """The options of `version` in the form of version len(steps) + 1; `options` itself stays as it is.

    Raises InvalidArgument for a version that is newer than that, and what a step raises.
    """
    newest = len(steps) + 1
    if version > newest:
        raise InvalidArgument(
            f"the options are of version {version}, and the plugin that is installed knows them up to version {newest}; "
            f"install a release of it that knows version {version}"
        )
    changed = copy.deepcopy(dict(options))
    for step in steps[version - 1 :]:
        changed = step(changed)
    gone = tuple(key for key in options if key not in changed)
    return Migrated(changed, gone, tuple(key for key in changed if key not in options))
