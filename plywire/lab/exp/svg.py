"""Plots as inline SVG: axes with round numbers, lines, dots and intervals. Pure text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import ceil, floor, log10

Point = tuple[float, float | None]
"""x, y; None breaks a line."""

LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 38
POINTS_MAX = 700
"""Of one line; of more, the lowest and the highest of each stretch are kept."""


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from low to high, about so many."""
    if high <= low:
        return [low]
    raw = (high - low) / about
    power = 10 ** floor(log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def thinned(points: Sequence[Point], most: int = POINTS_MAX) -> list[Point]:
    """Points of a line that look the same: of each stretch the first, the lowest, the highest and
    the last. Gaps stay."""
    if len(points) <= most:
        return list(points)
    size = ceil(len(points) * 4 / most)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        known = [index for index, point in enumerate(stretch) if point[1] is not None]
        if len(known) < len(stretch):
            gap = next(index for index, point in enumerate(stretch) if point[1] is None)
            known.append(gap)
        chosen = {0, len(stretch) - 1, known[-1]}
        if any(stretch[index][1] is not None for index in known):
            with_y = [index for index in known if stretch[index][1] is not None]
            chosen.add(min(with_y, key=lambda index: stretch[index][1]))
            chosen.add(max(with_y, key=lambda index: stretch[index][1]))
        kept += [stretch[index] for index in sorted(chosen)]
    return kept


class Plot:
    """One plot. x and y: lowest and highest value; what lies beyond is cut off."""

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        x_label: str,
        y_label: str,
        *,
        width: int = 640,
        height: int = 260,
    ) -> None:
        self.width, self.height = width, height
        self._x = x if x[1] > x[0] else (x[0], x[0] + 1)
        self._y = y if y[1] > y[0] else (y[0], y[0] + 1)
        self._labels = x_label, y_label
        self._parts: list[str] = []

    def line(
        self, points: Iterable[Point], color: str, *, dashed: bool = False, width: float = 1.6
    ) -> None:
        """A line through the points."""
        path, pen = [], "M"
        for x, y in thinned(list(points)):
            if y is None:
                pen = "M"
                continue
            path.append(f"{pen}{self._at_x(x):.1f} {self._at_y(y):.1f}")
            pen = "L"
        dash = ' stroke-dasharray="5 3"' if dashed else ""
        self._parts.append(
            f'<path d="{"".join(path)}" fill="none" stroke="{color}" stroke-width="{width}"{dash}/>'
        )

    def crosses(self, points: Iterable[tuple[float, float]], color: str) -> None:
        """Small crosses."""
        path = [
            f"M{self._at_x(x) - 3:.1f} {self._at_y(y) - 3:.1f}l6 6m0 -6l-6 6" for x, y in points
        ]
        if path:
            self._parts.append(
                f'<path d="{"".join(path)}" fill="none" stroke="{color}" stroke-width="1.6"/>'
            )

    def render(self, description: str) -> str:
        """The `svg` element. description: for who does not see it."""
        right, bottom = self.width - RIGHT, self.height - BOTTOM
        grid = []
        for value in ticks(*self._y):
            y = self._at_y(value)
            grid.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            grid.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        for value in ticks(*self._x, 8):
            x = self._at_x(value)
            grid.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}"'
                        f' y2="{bottom + 4}"/>')  # fmt: skip
            grid.append(
                f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{value:g}</text>'
            )
        x_label, y_label = map(escape, self._labels)
        middle = (TOP + bottom) / 2
        grid.append(f'<text class="label" x="{right}" y="{self.height - 4}"'
                    f' text-anchor="end">{x_label}</text>')  # fmt: skip
        grid.append(f'<text class="label" transform="translate(12 {middle}) rotate(-90)"'
                    f' text-anchor="middle">{y_label}</text>')  # fmt: skip
        grid.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        # A nested svg cuts off what lies beyond the axes, without an id that must be unique.
        inside = (
            f'<svg x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}"'
            f' viewBox="{LEFT} {TOP} {right - LEFT} {bottom - TOP}">{"".join(self._parts)}</svg>'
        )
        return _svg(self.width, self.height, description, "".join(grid) + inside)

    def _at_x(self, value: float) -> float:
        low, high = self._x
        return LEFT + (value - low) / (high - low) * (self.width - LEFT - RIGHT)

    def _at_y(self, value: float) -> float:
        low, high = self._y
        bottom = self.height - BOTTOM
        return bottom - (value - low) / (high - low) * (bottom - TOP)


def intervals(
    rows: Sequence[tuple[str, str, Sequence[float], tuple[float, float, float] | None]],
    unit: str,
    description: str,
    width: int = 640,
) -> str:
    """A row for each (name, color, values, (median, low, high)): values as dots, the interval as
    a bar, the median as a stroke. The axis begins at 0."""
    margin = 20 + 7 * max(len(name) for name, *_ in rows)
    height = 34 * len(rows) + BOTTOM + 4
    right = width - 70
    values = [value for _, _, some, _ in rows for value in some]
    most = max(values, default=0) * 1.02 or 1.0

    def at(value: float) -> float:
        return margin + value / most * (right - margin)

    bottom = height - BOTTOM
    parts = []
    for value in ticks(0, most, 6):
        parts.append(f'<line class="grid" x1="{at(value):.1f}" x2="{at(value):.1f}" y1="2"'
                     f' y2="{bottom}"/>')  # fmt: skip
        parts.append(f'<text x="{at(value):.1f}" y="{bottom + 16}" text-anchor="middle">'
                     f"{value:g}</text>")  # fmt: skip
    parts.append(f'<text class="label" x="{right}" y="{height - 4}" text-anchor="end">'
                 f"{escape(unit)}</text>")  # fmt: skip
    for index, (name, color, some, item) in enumerate(rows):
        y = 20 + 34 * index
        parts.append(f'<text class="name" x="{margin - 10}" y="{y + 4}" text-anchor="end">'
                     f"{escape(name)}</text>")  # fmt: skip
        if item is None:
            parts.append(f'<text x="{margin + 6}" y="{y + 4}">no runs yet</text>')
            continue
        median, low, high = item
        wide = max(at(high) - at(low), 1.5)
        parts.append(f'<rect x="{at(low):.1f}" y="{y - 7}" width="{wide:.1f}" height="14" rx="3"'
                     f' fill="{color}" fill-opacity="0.28"/>')  # fmt: skip
        for value in some:
            parts.append(
                f'<circle cx="{at(value):.1f}" cy="{y}" r="3" fill="{color}" fill-opacity="0.55">'
                f"<title>{value:.4g} {escape(unit)}</title></circle>"
            )
        parts.append(f'<line x1="{at(median):.1f}" x2="{at(median):.1f}" y1="{y - 10}"'
                     f' y2="{y + 10}" stroke="{color}" stroke-width="3"/>')  # fmt: skip
        parts.append(f'<text class="name" x="{right + 8}" y="{y + 4}">{median:.4g}</text>')
    return _svg(width, height, description, "".join(parts))


def _svg(width: int, height: int, description: str, inside: str) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' role="img" aria-label="{escape(description)}">{inside}</svg>'
    )
