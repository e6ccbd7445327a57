"""The lab's clock, with a real time of the test's own."""

import random

import pytest

from plywire.errors import ConfigError
from plywire.runtime.clock import FILE, LEAD, TOO_LATE, LabClock, Pace

MS = 1_000_000
START = 5_000_000_000_000


class Machine:
    """The monotonic clock of a machine, and lab clocks over one run directory."""

    def __init__(self, directory) -> None:
        self.directory = directory
        self.real = START

    def clock(self) -> LabClock:
        return LabClock(self.directory, lambda: self.real)

    def change(self, clock: LabClock, num: int, den: int = 1) -> None:
        """Change the pace, and let time go on until it counts."""
        clock.adopt(clock.plan(num, den))
        self.real += LEAD


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_a_clock_that_nobody_changed_is_real_time(machine):
    clock = machine.clock()
    assert clock.now() == START
    assert clock.real(START + 7) == START + 7
    assert clock.describe() == {"time": START, **Pace()._asdict()}


def test_paused_time_stands_still_and_no_later_time_comes(machine):
    clock = machine.clock()
    machine.change(clock, 0)
    stopped = clock.now()
    assert stopped == START + LEAD
    machine.real += 60_000 * MS
    assert clock.now() == stopped
    assert clock.real(stopped + 1) is None
    assert clock.real(stopped) <= machine.real


def test_resumed_time_goes_on_where_it_stood(machine):
    clock = machine.clock()
    machine.change(clock, 0)
    stopped = clock.now()
    machine.real += 1000 * MS
    machine.change(clock, 1)
    assert clock.now() == stopped
    machine.real += 3 * MS
    assert clock.now() == stopped + 3 * MS
    assert clock.real(stopped + 5 * MS) == machine.real + 2 * MS


def test_slow_time(machine):
    clock = machine.clock()
    machine.change(clock, 1, 10)
    then = clock.now()
    machine.real += 1000 * MS
    assert clock.now() == then + 100 * MS
    assert clock.real(then + 101 * MS) == machine.real + 10 * MS


def test_a_change_counts_from_its_time_and_not_before(machine):
    clock, other = machine.clock(), machine.clock()
    clock.adopt(clock.plan(0, 1))
    machine.real += LEAD - 1
    assert clock.now() == other.now() == START + LEAD - 1
    assert other.real(START + LEAD + 1) is None
    assert other.real(START + LEAD - 1) == machine.real
    machine.real += 10
    assert clock.now() == other.now() == START + LEAD


def test_a_layer_that_starts_later_goes_by_the_same_clock(machine):
    first = machine.clock()
    machine.change(first, 1, 3)
    machine.real += 12_345
    assert machine.clock().now() == first.now()


@pytest.mark.parametrize("seed", range(20))
def test_all_agree_however_seldom_they_look_and_time_never_goes_back(machine, seed):
    rng = random.Random(seed)
    often, seldom = machine.clock(), machine.clock()
    last = often.now()
    for _ in range(200):
        if rng.random() < 0.2:
            num, den = rng.choice([(0, 1), (1, 1), (1, 10), (1, 1000), (3, 7)])
            try:
                often.adopt(often.plan(num, den))
            except ConfigError:
                pass  # the one before is still to come
        machine.real += rng.choice([1, 1000, 10 * MS, 60 * MS])
        now = often.now()
        assert now >= last
        last = now
        if rng.random() < 0.1:
            assert seldom.now() == now
        when = now + rng.randrange(100 * MS)
        due = often.real(when)
        if due is not None and due >= machine.real:
            there, machine.real = machine.real, due
            assert often.now() >= when
            machine.real = max(there, due - 1)
            assert often.now() <= when
            machine.real = there


def test_a_change_while_another_is_to_come_is_refused(machine):
    clock = machine.clock()
    clock.adopt(clock.plan(0, 1))
    with pytest.raises(ConfigError, match="under way"):
        clock.plan(1, 1)
    machine.real += LEAD
    clock.plan(1, 1)


def test_a_change_that_comes_too_late_is_refused_unless_it_is_known(machine):
    clock = machine.clock()
    plan = clock.plan(0, 1)
    clock.adopt(plan)
    machine.real += LEAD
    clock.adopt(plan)
    late = clock.plan(1, 1)
    machine.real += LEAD
    with pytest.raises(ValueError, match=TOO_LATE):
        clock.adopt(late)
    assert clock.describe()["num"] == 0


@pytest.mark.parametrize(("num", "den"), [(-1, 1), (1, 0), (1, -1), (1, 1 << 40)])
def test_a_pace_that_cannot_be(machine, num, den):
    with pytest.raises(ValueError, match="cannot run"):
        machine.clock().plan(num, den)


@pytest.mark.parametrize(
    "plan", [[], [1] * 7, ["1"] * 8, [1.0] * 8, [1, 1, 1, 0, 1, 1, 1, 1], [-1] * 8, [1 << 63] * 8]
)
def test_a_plan_that_cannot_be(machine, plan):
    with pytest.raises(ValueError, match=r"integers|fraction"):
        machine.clock().adopt(plan)


def test_a_record_that_is_being_written_is_read_at_the_next_look(machine):
    clock, other = machine.clock(), machine.clock()
    machine.change(clock, 0)
    file = machine.directory / FILE
    whole = file.read_bytes()
    with file.open("r+b") as half:
        half.write(whole[:8] + bytes(len(whole) - 8))
    assert other.now() == machine.real
    with file.open("r+b") as half:
        half.write(whole)
    machine.real += MS
    assert other.now() == machine.real - MS


def test_a_run_directory_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be used"):
        LabClock(tmp_path / "nowhere")
