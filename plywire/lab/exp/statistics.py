"""Medians with exact intervals, and whether two samples differ. Pure; no distribution is assumed.

The interval for a median is made of order statistics (the sign test turned round); two samples are
compared by the rank sum (Wilcoxon 1945, Mann and Whitney 1947), exactly, with ties; several
comparisons share one level (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, erfc, sqrt
from statistics import median
from typing import NamedTuple

LEVEL = 0.95
EXACT_MAX = 60
"""Values in both samples together up to which the distribution of the rank sum is counted out;
beyond it the normal one is near enough."""


class Interval(NamedTuple):
    """A median, and where that of all possible runs lies with this confidence. Few values give
    less confidence than was asked for; then the interval is from the lowest to the highest."""

    median: float
    low: float
    high: float
    confidence: float
    count: int


def interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The median of at least one value, with its narrowest exact interval of this level.

    For the k-th lowest to the k-th highest of n values the confidence is 1 - 2 P(B < k), where B
    is binomial with n and one half.
    """
    ordered = sorted(values)
    count = len(ordered)
    if not count:
        raise ValueError("no values")
    half = 2**count
    below = 1  # outcomes with fewer than k of n on one side, for k = 1
    rank, confidence = 1, 1 - 2 * below / half
    while 2 * (rank + 1) <= count + 1:
        below += comb(count, rank)
        narrower = 1 - 2 * below / half
        if narrower < level:
            break
        rank, confidence = rank + 1, narrower
    return Interval(median(ordered), ordered[rank - 1], ordered[-rank], max(confidence, 0.0), count)


def rank_sum(one: Sequence[float], other: Sequence[float]) -> float:
    """How likely two samples of one distribution differ as much as these, or more (two-sided)."""
    if not one or not other:
        raise ValueError("no values")
    ranks = doubled_ranks([*one, *other])
    mine = sum(ranks[: len(one)])
    n, total = len(one), len(ranks)
    middle = n * (total + 1)  # of doubled ranks: the mean of the sum
    distance = abs(mine - middle)
    if not distance:
        return 1.0
    if total <= EXACT_MAX:
        ways = _sums(ranks, n)
        extreme = sum(count for value, count in ways.items() if abs(value - middle) >= distance)
        return extreme / comb(total, n)
    mean_square = sum((rank - (total + 1)) ** 2 for rank in ranks) / total
    variance = n * (total - n) * mean_square / (total - 1)
    return erfc(max(distance - 1, 0) / sqrt(2 * variance)) if variance else 1.0


def doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value from 1 on; equal ones share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for index in order[start:end]:
            ranks[index] = start + 1 + end
        start = end
    return ranks


def _sums(ranks: Sequence[int], size: int) -> dict[int, int]:
    """In how many ways `size` of the ranks have each sum."""
    ways: list[dict[int, int]] = [{0: 1}] + [{} for _ in range(size)]
    for index, rank in enumerate(ranks):
        for taken in range(min(index, size - 1), -1, -1):
            onto = ways[taken + 1]
            for value, count in ways[taken].items():
                onto[value + rank] = onto.get(value + rank, 0) + count
    return ways[size]


def holm(chances: Sequence[float]) -> list[float]:
    """The chances adjusted, so that each can be held against the level that all share."""
    order = sorted(range(len(chances)), key=chances.__getitem__)
    adjusted = [0.0] * len(chances)
    highest = 0.0
    for position, index in enumerate(order):
        highest = max(highest, min(1.0, chances[index] * (len(chances) - position)))
        adjusted[index] = highest
    return adjusted
