"""Updates by field path, and lists by filter, for any record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from intermodal_core.errors import InvalidArgument
from intermodal_core.filters import Resolver, compile_filters, resolver_of

__all__ = ["merged", "selected"]

R = TypeVar("R", bound=msgspec.Struct)


def merged(current: R, new: R, fields: Sequence[str], mutable: Mapping[str, str]) -> R:
    """`current` with the values that `fields` name taken from `new`.

    `mutable` maps a client's path to the record's attribute. A path `labels.KEY` names one key of a dict: absent or empty in
    `new`, it is removed. No fields: all that is mutable. Raises InvalidArgument for another path.
    """
    changes: dict[str, Any] = {}
    for path in fields or tuple(mutable):
        head, _, key = path.partition(".")
        attribute = mutable.get(head)
        value = getattr(new, attribute) if attribute else None
        if attribute is None or (key and not isinstance(value, Mapping)):
            raise InvalidArgument(
                f"the field {path!r} of a {type(current).__name__.lower()} cannot be updated (these can: {', '.join(mutable)})"
            )
        if key and isinstance(value, Mapping):
            kept = dict(changes.get(attribute, getattr(current, attribute)))
            kept.pop(key, None)
            if value.get(key):
                kept[key] = value[key]
            changes[attribute] = kept
        else:
            changes[attribute] = value
    return msgspec.structs.replace(current, **changes)


def selected(records: Iterable[R], filters: Sequence[str]) -> list[R]:
    """Those records that match any of `filters`; all where there is none."""
    if not filters:
        return list(records)
    matches = compile_filters(filters)
    return [record for record in records if matches(_resolver(record))]


#: containerd's names for fields that are called otherwise in a record here.
_ALIASES = {
    ("runtime", "name"): ("runtime",),
    ("target", "mediatype"): ("target", "media_type"),
    ("name",): ("key",),
}


def _resolver(record: msgspec.Struct) -> Resolver:
    resolve = resolver_of(record)

    def with_aliases(path: tuple[str, ...]) -> tuple[str, bool]:
        value, present = resolve(path)
        return resolve(_ALIASES[path]) if not present and path in _ALIASES else (value, present)

    return with_aliases
