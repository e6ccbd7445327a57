"""Plots: where things are drawn, round numbers, and lines that keep their looks."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from plywire.lab.exp.svg import (
    BOTTOM,
    LEFT,
    POINTS_MAX,
    RIGHT,
    TOP,
    Plot,
    intervals,
    thinned,
    ticks,
)


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 7.3, [0, 2, 4, 6]),
        (0, 0.042, [0, 0.01, 0.02, 0.03, 0.04]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round(low, high, found):
    assert ticks(low, high) == pytest.approx(found)


def test_a_line_goes_from_corner_to_corner_and_breaks_at_a_gap():
    plot = Plot((0, 4), (0, 100), "s", "kB", width=640, height=260)
    plot.line([(0, 0), (2, 50), (3, None), (3, 100), (4, 100)], "#123456", dashed=True)
    root = ElementTree.fromstring(plot.render("a <line>"))
    assert root.get("aria-label") == "a <line>"
    (path,) = root.iter("path")
    right, bottom = 640 - RIGHT, 260 - BOTTOM
    middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
    numbers = [float(word) for word in re.findall(r"[\d.]+", path.get("d"))]
    assert re.sub(r"[\d. ]+", "", path.get("d")) == "MLML"
    three = LEFT + 0.75 * (right - LEFT)
    wanted = [LEFT, bottom, middle_x, middle_y, three, TOP, right, TOP]
    assert numbers == pytest.approx(wanted, abs=0.06)
    assert path.get("stroke-dasharray")


def test_what_lies_beyond_the_axes_is_cut_off():
    plot = Plot((0, 1), (0, 1), "", "")
    plot.line([(0, 0), (1, 50)], "red")
    root = ElementTree.fromstring(plot.render(""))
    inner = root.find("svg")
    assert len(list(inner.iter("path"))) == 1
    assert float(inner.get("y")) == TOP


def test_a_long_line_keeps_its_ends_peaks_and_gaps():
    points = [(float(x), 0.0) for x in range(20_000)]
    points[7_777] = (7_777.0, 99.0)
    points[9_999] = (9_999.0, -3.0)
    points[12_345] = (12_345.0, None)
    found = thinned(points)
    assert len(found) <= POINTS_MAX * 1.3
    assert {points[0], points[7_777], points[9_999], points[12_345], points[-1]} <= set(found)
    assert found == sorted(found, key=lambda point: point[0])
    assert thinned(points[:50]) == points[:50]


def test_a_line_of_gaps_alone_is_drawn_as_nothing():
    plot = Plot((0, 1), (0, 1), "", "")
    plot.line([(x / 5000, None) for x in range(5000)], "red")
    (path,) = ElementTree.fromstring(plot.render("")).iter("path")
    assert path.get("d") == ""


def test_intervals_begin_at_zero_and_name_what_has_no_runs():
    rows = [("a&b", "#111111", [1.0, 2.0, 4.0], (2.0, 1.0, 4.0)), ("none", "#222222", [], None)]
    root = ElementTree.fromstring(intervals(rows, "Mbit/s", "x", width=640))
    dots = [float(dot.get("cx")) for dot in root.iter("circle")]
    zero = dots[0] - (dots[1] - dots[0])
    assert dots[2] - zero == pytest.approx(4 * (dots[0] - zero), abs=0.5)
    words = [text.text for text in root.iter("text")]
    assert {"a&b", "none", "no runs yet", "0"} <= set(words)
    (bar,) = root.iter("rect")
    assert float(bar.get("x")) == dots[0]
    assert float(bar.get("width")) == pytest.approx(dots[2] - dots[0], abs=0.1)
