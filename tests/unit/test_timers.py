"""The timer table, beside a plain dictionary."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from plywire.timers import Timers

KEYS = st.sampled_from("abcdef")
TIMES = st.integers(0, 50)


class Model(RuleBasedStateMachine):
    """Every sequence of operations leaves the table and a dictionary with the same contents."""

    def __init__(self) -> None:
        super().__init__()
        self.timers = Timers()
        self.model: dict[str, int] = {}
        self.now = 0

    @rule(key=KEYS, when=TIMES)
    def arm(self, key: str, when: int) -> None:
        self.timers.set(key, self.now + when)
        self.model[key] = self.now + when

    @rule(key=KEYS)
    def disarm(self, key: str) -> None:
        self.timers.cancel(key)
        self.model.pop(key, None)

    @rule(step=TIMES)
    def expire(self, step: int) -> None:
        self.now += step
        found = list(self.timers.expire(self.now))
        due = {key: when for key, when in self.model.items() if when <= self.now}
        assert sorted(found) == sorted(due)
        assert [due[key] for key in found] == sorted(due.values())
        for key in due:
            del self.model[key]

    @invariant()
    def same(self) -> None:
        assert self.timers.deadline() == min(self.model.values(), default=None)
        assert dict(self.timers.items()) == self.model
        assert [when for _, when in self.timers.items()] == sorted(self.model.values())
        assert len(self.timers) == len(self.model)
        for key in "abcdef":
            assert (key in self.timers) == (key in self.model)
            assert self.timers.get(key) == self.model.get(key)


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestModel = Model.TestCase


def test_nothing_is_due_at_first():
    timers = Timers()
    assert timers.deadline() is None
    assert list(timers.expire(10**20)) == []
    timers.cancel("never armed")


def test_equal_times_come_in_the_order_of_arming():
    timers = Timers()
    for key in "zayb":
        timers.set(key, 5)
    assert list(timers.expire(5)) == list("zayb")


def test_key_armed_while_expiring_for_a_time_that_has_come_is_yielded_again():
    timers = Timers()
    timers.set("a", 1)
    found = []
    for key in timers.expire(10):
        found.append(key)
        if len(found) < 3:
            timers.set("a", 2 + len(found))
    assert found == ["a", "a", "a"]


def test_key_armed_while_expiring_for_later_waits():
    timers = Timers()
    timers.set("a", 1)
    for key in timers.expire(10):
        timers.set(key, 11)
    assert timers.deadline() == 11


def test_key_cancelled_while_expiring_is_not_yielded():
    timers = Timers()
    timers.set("a", 1)
    timers.set("b", 2)
    found = []
    for key in timers.expire(10):
        found.append(key)
        timers.cancel("b")
    assert found == ["a"]


def test_rearming_for_later_does_not_grow_the_heap():
    timers = Timers()
    rng = random.Random(1)
    when = 1000
    for _ in range(10_000):
        when += rng.randrange(10)
        timers.set("retransmit", when)
    assert len(timers._heap) == 1
    assert timers.deadline() == when


def test_what_was_disarmed_leaves_the_heap():
    """Each connection that a peer opens and resets arms a keep-alive of two hours."""
    timers = Timers()
    timers.set("stays", 5)
    for index in range(10_000):
        timers.set(index, 1_000_000 + index)
        timers.cancel(index)
        assert len(timers._heap) <= 64 + 2 * 2
    assert (timers.deadline(), len(timers)) == (5, 1)


def test_a_key_armed_for_earlier_again_and_again_leaves_one_entry_behind():
    timers = Timers()
    for index in range(10_000):
        timers.set("early", 1_000_000 - index)
        assert len(timers._heap) <= 64 + 2 * 2
    assert list(timers.expire(2_000_000)) == ["early"]


def test_sweeping_while_expiring():
    timers = Timers()
    for index in range(200):
        timers.set(index, index)
    found = []
    for key in timers.expire(1000):
        found.append(key)
        for other in range(key + 1, 200, 2):
            timers.cancel(other)
    assert found == list(range(0, 200, 2))
