"""Intervals and tests with known answers, and against counting out."""

from __future__ import annotations

import random
from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plywire.lab.exp.statistics import doubled_ranks, holm, interval, rank_sum


@pytest.mark.parametrize(
    ("count", "rank", "confidence"),
    [  # 1 - 2 P(B < rank) for B binomial (count, 1/2): tables of the sign test
        (1, 1, 0.0),
        (2, 1, 0.5),
        (5, 1, 0.9375),
        (6, 1, 0.96875),
        (8, 1, 0.9921875),
        (9, 2, 0.9609375),
        (10, 2, 0.978515625),
        (12, 3, 0.9614257812),
        (15, 4, 0.9648437500),
        (20, 6, 0.9586105347),
        (30, 10, 0.9572260547),
    ],
)
def test_the_interval_is_the_narrowest_of_its_level(count, rank, confidence):
    values = list(range(1, count + 1))
    random.Random(count).shuffle(values)
    found = interval(values)
    assert (found.low, found.high) == (rank, count + 1 - rank)
    assert found.confidence == pytest.approx(confidence, abs=1e-9)
    assert found.median == (count + 1) / 2
    assert found.count == count


def test_the_interval_holds_the_median_as_often_as_it_says():
    rng = random.Random(1)
    held = 0
    for _ in range(4000):
        found = interval([rng.expovariate(1) for _ in range(9)])
        held += found.low <= 0.6931471805599453 <= found.high  # the median is ln 2
    assert held / 4000 == pytest.approx(0.9609375, abs=0.01)


def test_equal_values_have_an_interval_of_no_width():
    assert interval([3.0] * 7)[:3] == (3.0, 3.0, 3.0)


@pytest.mark.parametrize(
    ("one", "other", "chance"),
    [
        ([1, 2, 3], [4, 5, 6], 2 / 20),
        ([4, 5, 6], [1, 2, 3], 2 / 20),
        ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], 2 / 252),
        ([1, 3, 5], [2, 4, 6], 14 / 20),
        ([7] * 6, [7] * 6, 1.0),
        ([7] * 6, [8] * 6, 2 / 924),
        ([1, 4], [2, 3], 1.0),
        ([1], [2], 1.0),
    ],
)
def test_the_rank_sum_has_the_chance_that_tables_have(one, other, chance):
    assert rank_sum(one, other) == pytest.approx(chance)


VALUES = st.lists(st.integers(0, 6), min_size=1, max_size=6)


@given(VALUES, VALUES)
def test_the_rank_sum_is_what_counting_out_gives_with_ties(one, other):
    ranks = doubled_ranks([*one, *other])
    middle = len(one) * (len(ranks) + 1)
    distance = abs(sum(ranks[: len(one)]) - middle)
    extreme = sum(abs(sum(some) - middle) >= distance for some in combinations(ranks, len(one)))
    assert rank_sum(one, other) == pytest.approx(extreme / comb(len(ranks), len(one)))


def test_many_values_go_by_the_normal_distribution_which_is_near():
    rng = random.Random(3)
    one = [rng.gauss(0, 1) for _ in range(30)]
    other = [rng.gauss(0.6, 1) for _ in range(30)]
    exact = rank_sum(one, other)
    assert 0.001 < exact < 0.2
    near = rank_sum([*one, 0.3], other)
    assert near == pytest.approx(exact, rel=0.35)
    assert rank_sum([1.0] * 40, [1.0] * 40) == 1.0
    assert rank_sum(range(40), range(100, 140)) < 1e-12


def test_a_difference_that_is_none_is_seldom_shown():
    rng = random.Random(5)
    shown = sum(
        rank_sum([rng.random() for _ in range(8)], [rng.random() for _ in range(8)]) < 0.05
        for _ in range(2000)
    )
    assert 0.03 < shown / 2000 <= 0.055


def test_ranks_of_equal_values_share_their_mean():
    assert doubled_ranks([10, 30, 20, 20]) == [2, 8, 5, 5]


def test_holm_multiplies_the_smallest_most_and_never_turns_the_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@pytest.mark.parametrize("call", [lambda: interval([]), lambda: rank_sum([], [1])])
def test_no_values_are_refused(call):
    with pytest.raises(ValueError, match="no values"):
        call()
