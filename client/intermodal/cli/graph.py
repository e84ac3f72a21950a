"""Draws what requires what: as a tree in text, and as an SVG in layers."""

from __future__ import annotations

import itertools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

__all__ = ["as_svg", "as_text"]

_CHAR, _HEIGHT, _GAP, _LAYER, _MARGIN, _WIDTH = 7.3, 26, 18, 64, 16, 900
_COLOURS = {
    "ready": "#d7f0dd",
    "available": "#f2f2f2",
    "disabled": "#ffffff",
    "skipped": "#fdf3cf",
    "failed": "#f9d5d5",
}


def as_text(nodes: Sequence[Mapping[str, Any]], edges: Sequence[Mapping[str, Any]]) -> str:
    """A tree from those that nothing requires; what was drawn above already is not drawn again below.

    Those of which no requirement is known are listed at the end.
    """
    states = {node["id"]: node["state"] for node in nodes}
    below = _below(nodes, edges)
    alone = _alone(below)
    seen: set[str] = set()
    lines: list[str] = []

    def draw(id: str, how: str, first: str, rest: str) -> None:
        again = id in seen and bool(below[id])
        lines.append(f"{first}{_named(id, states[id])}{how}{' (above)' if again else ''}")
        seen.add(id)
        children = [] if again else below[id]
        for number, (child, why) in enumerate(children):
            last = number == len(children) - 1
            draw(
                child, f" ({why})" if why else "", rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  ")
            )

    for top in _tops([node for node in nodes if node["id"] not in alone], below):
        draw(top, "", "", "")
    lines += ["", *(_named(id, states[id]) for id in sorted(alone))] if alone else []
    return "\n".join(lines)


def as_svg(nodes: Sequence[Mapping[str, Any]], edges: Sequence[Mapping[str, Any]]) -> str:
    """Each below all that require it, in a layer where its neighbours above are. A dashed line is a default.

    Those of which no requirement is known are in rows at the bottom.
    """
    below = _below(nodes, edges)
    alone = _alone(below)
    layers = _layers([node for node in nodes if node["id"] not in alone], below)
    width = {node["id"]: len(node["id"]) * _CHAR + 20 for node in nodes}
    full = max([_WIDTH, *(sum(width[id] + _GAP for id in layer) for layer in layers)]) + 2 * _MARGIN
    places: dict[str, tuple[float, float]] = {}
    y = float(_MARGIN)
    for layer in layers:
        x = (full - sum(width[id] + _GAP for id in layer) + _GAP) / 2
        for id in layer:
            places[id] = (x, y)
            x += width[id] + _GAP
        y += _LAYER
    x = float(_MARGIN)
    for id in sorted(alone):
        if x + width[id] > full - _MARGIN:
            x, y = float(_MARGIN), y + _HEIGHT + _GAP
        places[id] = (x, y)
        x += width[id] + _GAP
    height = max((top for _, top in places.values()), default=0) + _HEIGHT + _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{full:.0f}" height="{height:.0f}" font-family="monospace" font-size="12">'
    ]
    for id, children in below.items():
        for child, why in children:
            (x, y), (to, bottom) = places[id], places[child]
            start, end = x + width[id] / 2, to + width[child] / 2
            dash = ' stroke-dasharray="4 3"' if why else ""
            middle = (y + _HEIGHT + bottom) / 2
            lines.append(
                f'<path d="M{start:.1f},{y + _HEIGHT} C{start:.1f},{middle} {end:.1f},{middle} {end:.1f},{bottom}" '
                f'fill="none" stroke="#888"{dash}/>'
            )
    for node in nodes:
        id, (x, y) = node["id"], places[node["id"]]
        lines.append(
            f'<g><title>{_escaped(id)}: {node["state"]}</title><rect x="{x:.1f}" y="{y}" width="{width[id]:.1f}" height="{_HEIGHT}" '
            f'rx="4" fill="{_COLOURS.get(node["state"], "#ffffff")}" stroke="#555"/>'
            f'<text x="{x + width[id] / 2:.1f}" y="{y + 17}" text-anchor="middle">{_escaped(id)}</text></g>'
        )
    return "\n".join([*lines, "</svg>"])


def _named(id: str, state: str) -> str:
    return id if state == "ready" else f"{id} [{state}]"


def _alone(below: Mapping[str, list[tuple[str, str]]]) -> set[str]:
    required = {child for children in below.values() for child, _ in children}
    return {id for id, children in below.items() if not children and id not in required}


def _below(nodes: Sequence[Mapping[str, Any]], edges: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[str, str]]]:
    """Of each node what it requires, once each, with a word where it is no requirement."""
    found: dict[str, dict[str, str]] = {node["id"]: {} for node in nodes}
    for edge in edges:
        why = edge["how"] if edge["how"] == "default" else ""
        found[edge["from"]].setdefault(edge["to"], why)
    return {id: list(children.items()) for id, children in found.items()}


def _tops(nodes: Sequence[Mapping[str, Any]], below: Mapping[str, list[tuple[str, str]]]) -> Iterator[str]:
    """Those that nothing requires; and one of each circle that nothing leads into."""
    required = {child for children in below.values() for child, _ in children}
    reached: set[str] = set()

    def reach(id: str) -> None:
        if id not in reached:
            reached.add(id)
            for child, _ in below[id]:
                reach(child)

    for id in [node["id"] for node in nodes if node["id"] not in required] + [node["id"] for node in nodes]:
        if id not in reached:
            reach(id)
            yield id


def _layers(nodes: Sequence[Mapping[str, Any]], below: Mapping[str, list[tuple[str, str]]]) -> list[list[str]]:
    depth: dict[str, int] = {}

    def sink(id: str, to: int, path: tuple[str, ...]) -> None:
        if id not in path and depth.get(id, -1) < to:  # a circle is drawn as it is come upon
            depth[id] = to
            for child, _ in below[id]:
                sink(child, to + 1, (*path, id))

    for top in _tops(nodes, below):
        sink(top, 0, ())
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
    for node in nodes:
        layers[depth[node["id"]]].append(node["id"])
    for upper, layer in itertools.pairwise(layers):
        above: dict[str, list[int]] = {}
        for place, id in enumerate(upper):
            for child, _ in below[id]:
                above.setdefault(child, []).append(place)
        layer.sort(key=lambda id: sum(above.get(id, [0])) / len(above.get(id, [0])))
    return layers


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
