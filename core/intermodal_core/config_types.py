"""Plain data against msgspec types: which keys no type has, and a conversion error as a sentence with its full path."""

from __future__ import annotations

import enum
import functools
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from intermodal_core.config_lines import KeyPath

__all__ = ["explain", "nearest", "unknown_keys"]

_WORDS = {
    "object": "table",
    "array": "list",
    "bool": "true or false",
    "float": "number",
    "int": "whole number",
    "str": "text",
}


def nearest(name: str, names: Iterable[str]) -> str:
    """A half sentence for a misspelt name: the nearest valid one, or all of them."""
    import difflib

    names = sorted(names)
    close = difflib.get_close_matches(name, names, 1, 0.5)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"there are: {', '.join(names)}" if names else "there are none"


def unknown_keys(data: Any, annotation: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, list[str]]]:
    """The path of every key in `data` that no field of the structs in `annotation` has, with the valid names there."""
    annotation = _bare(annotation)
    if isinstance(data, Mapping):
        names = _names(annotation)
        for key, value in data.items():
            if _is_struct(annotation) and key not in names:
                yield (*path, key), names
            else:
                yield from unknown_keys(value, _child(annotation, key), (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from unknown_keys(value, _child(annotation, index), (*path, index))


def explain(error: msgspec.ValidationError, data: Any, annotation: Any) -> tuple[KeyPath, str]:
    """Where in `data` the conversion to `annotation` failed, and what was expected there."""
    found = re.fullmatch(r"(.*?)(?: - at (?:`key` in )?`\$(.*)`)?", str(error), re.DOTALL)
    message, where = (found[1], found[2] or "") if found else (str(error), "")
    path: list[str | int] = []
    for name, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", where):
        part: str | int = name or (index if index == "..." else int(index))
        if part == "...":  # a key of a mapping, which msgspec leaves out
            part = next((key for key, value in data.items() if not _fits(value, _child(annotation, key))), "")
        annotation, data = _child(annotation, part), _item(data, part)
        path.append(part)
    choices = _choices(annotation)
    if message.startswith("Invalid enum value") and choices:
        listed = ", ".join(msgspec.json.encode(choice).decode() for choice in choices)
        return tuple(path), f"expected one of {listed}, found {data!r}"
    missing = re.fullmatch(r"Object missing required field `(.*)`", message)
    if missing:
        return tuple(path), f'the key "{missing[1]}" is required'
    message = re.sub(r" \| null|null \| ", "", message)
    message = re.sub(r"`([a-z]+)`", lambda word: _WORDS.get(word[1], word[1]), message).replace("`", "")
    return tuple(path), message[:1].lower() + message[1:] + (
        f" ({data!r})" if isinstance(data, str | int | float) else ""
    )


def _bare(annotation: Any) -> Any:
    """Without Annotated and None; of a union the one member that has parts."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [_bare(part) for part in get_args(annotation) if part is not type(None)]
        compound = [part for part in parts if _names(part) or get_origin(part) in (list, dict)]
        return parts[0] if len(parts) == 1 else compound[0] if len(compound) == 1 else Any
    return annotation


def _is_struct(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


@functools.lru_cache(maxsize=64)
def _fields(struct: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """The fields; to ask msgspec is to have the annotations evaluated anew, which takes a millisecond."""
    return msgspec.structs.fields(struct)


def _names(annotation: Any) -> list[str]:
    """The keys that a struct takes."""
    if not _is_struct(annotation):
        return []
    tag = annotation.__struct_config__.tag_field
    return [*([tag] if tag else []), *(field.encode_name for field in _fields(annotation))]


def _child(annotation: Any, part: str | int) -> Any:
    annotation = _bare(annotation)
    if _names(annotation):
        return next((field.type for field in _fields(annotation) if field.encode_name == part), Any)
    arguments = get_args(annotation)
    if get_origin(annotation) in (dict, Mapping) and len(arguments) == 2:
        return arguments[1]
    return arguments[0] if get_origin(annotation) in (list, tuple, set, frozenset) and arguments else Any


def _choices(annotation: Any) -> list[Any]:
    annotation = _bare(annotation)
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [member.value for member in annotation]
    return []


def _item(data: Any, part: str | int) -> Any:
    try:
        return data[part]
    except (KeyError, IndexError, TypeError):
        return None


def _fits(data: Any, annotation: Any) -> bool:
    try:
        msgspec.convert(data, annotation)
    except msgspec.ValidationError:
        return False
    return True
