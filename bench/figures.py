"""What was measured: samples beside each other, their medians, and the table that shows them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

OURS = "intermodal"


@dataclass
class Figure:
    """Samples of one quantity, by whose they are; the first name is ours, the others are what it is held beside.

    `targets` says for some of the others which ratio (ours to theirs) is to be reached: at most, or at least where
    `higher` is better.
    """

    what: str
    unit: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)
    higher: bool = False

    def add(self, whose: str, *values: float) -> None:
        self.samples.setdefault(whose, []).extend(values)

    def median(self, whose: str) -> float:
        return statistics.median(self.samples[whose])

    def ratio(self, whose: str) -> float:
        """Ours by theirs, of the medians."""
        return self.median(OURS) / self.median(whose)

    def reached(self, whose: str) -> bool | None:
        """Whether the target beside `whose` is reached; None where there is none."""
        target = self.targets.get(whose)
        if target is None:
            return None
        return self.ratio(whose) >= target if self.higher else self.ratio(whose) <= target

    def to_json(self) -> dict[str, object]:
        others = [name for name in self.samples if name != OURS]
        return asdict(self) | {
            "medians": {name: self.median(name) for name in self.samples},
            "ratios": {name: self.ratio(name) for name in others if OURS in self.samples},
        }


def table(figures: Iterable[Figure]) -> str:
    """One line for each pair: median and spread (tenth to ninetieth percentile) of both, ratio, target."""
    rows = [("", OURS, "", "beside", "", "", "ratio", "target", "")]
    for figure in figures:
        own = _cells(figure, OURS)
        head = f"{figure.what}, {figure.unit}"
        for name in [name for name in figure.samples if name != OURS] or [""]:
            theirs = (name, *_cells(figure, name)) if name else ("", "", "")
            ratio = f"{figure.ratio(name):.2f}" if name and OURS in figure.samples else ""
            target, verdict = _target(figure, name)
            rows.append((head, *own, *theirs, ratio, target, verdict))
            head, own = "", ("", "")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = {0, 2, 3, 5, 8}
    lines = (
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _cells(figure: Figure, whose: str) -> tuple[str, str]:
    values = figure.samples.get(whose)
    if not values:
        return "-", ""
    if len(values) < 3:
        return _number(figure.median(whose)), ""
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return _number(figure.median(whose)), f"({_number(tenths[0])}-{_number(tenths[-1])})"


def _target(figure: Figure, whose: str) -> tuple[str, str]:
    reached = figure.reached(whose)
    if reached is None:
        return "", ""
    sign = ">=" if figure.higher else "<="
    return f"{sign} {figure.targets[whose]:.2f}", "reached" if reached else "missed"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
