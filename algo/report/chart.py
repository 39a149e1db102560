"""Curves as geometry: pure functions from values over steps to points of an SVG drawing.

What is drawn with the points (colours, dashes, text) is the template's part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 720
HEIGHT: Final = 260
LEFT: Final = 40
RIGHT: Final = 12
TOP: Final = 10
BOTTOM: Final = 34
# More would lie closer than a pixel to each other.
_MOST_POINTS: Final = 400


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    step: int
    value: float


@dataclass(frozen=True)
class Curve:
    """One line; `points` are in the drawing's units, origin top left."""

    label: str
    points: tuple[Point, ...]

    @property
    def path(self) -> str:
        """The `points` attribute of an SVG polyline."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


@dataclass(frozen=True)
class Chart:
    """Curves of shares in [0, 1] over steps, and the places of the axes' labels."""

    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, int], ...]
    y_ticks: tuple[tuple[float, float], ...]


def chart(series: Mapping[str, Mapping[int, float]]) -> Chart | None:
    """The drawing of all non-empty `series`; None when there is none."""
    drawn = {label: values for label, values in series.items() if values}
    if not drawn:
        return None
    steps = sorted({step for values in drawn.values() for step in values})
    low, high = steps[0], steps[-1]
    curves = tuple(
        Curve(label, tuple(_point(step, values[step], low, high) for step in _thinned(values)))
        for label, values in drawn.items()
    )
    x_ticks = tuple((_x(step, low, high), step) for step in _ticks(low, high))
    return Chart(curves, x_ticks, tuple((_y(v / 4), v / 4) for v in range(5)))


def _point(step: int, value: float, low: int, high: int) -> Point:
    return Point(_x(step, low, high), _y(value), step, value)


def _x(step: int, low: int, high: int) -> float:
    span = WIDTH - LEFT - RIGHT
    return LEFT + (span * (step - low) / (high - low) if high > low else span / 2)


def _y(value: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - value)


def _thinned(values: Mapping[int, float]) -> Sequence[int]:
    """The steps, evenly thinned out to a bounded number; first and last are kept."""
    steps = sorted(values)
    if len(steps) <= _MOST_POINTS:
        return steps
    last = len(steps) - 1
    return [steps[round(k * last / (_MOST_POINTS - 1))] for k in range(_MOST_POINTS)]


def _ticks(low: int, high: int) -> Sequence[int]:
    """At most 11 round numbers in [low, high]."""
    size = 1
    while (high - low) // size > 10:
        size = size * 5 // 2 if str(size).startswith("2") else size * 2
    return range(-(-low // size) * size, high + 1, size)
