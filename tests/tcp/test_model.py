"""Two sockets beside an ideal pipe: whatever programs and wire do, what is read is a prefix of what
was written, and once the wire is whole and both sides close, all of it arrives and both end.

Hypothesis makes the programs; `Watch` looks at every step (tests/tcp/invariants.py).
"""

from __future__ import annotations

import os
import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from plywire.messages import Close, Option, PacketError, Segment

from .harness import MS, SECOND, Pair, Side
from .invariants import Watch, watch_sending

EXPLORE = int(os.environ.get("PLYWIRE_EXPLORE", "0"))
"""Run so many programs that were never run before, instead of the same ones as always."""

HOUR = 3600 * SECOND
PATTERN = random.Random(1).randbytes(150_000)
FATES = ("lost", "twice", "late", "corrupt")
HEADER = 20


class World(Pair):
    """A pair whose wire does what it is told to the next segments, and takes no packet above
    `path` bytes. patience: no end of retries ends a connection that the wire still has."""

    def __init__(self, seed: int, **tcp: object) -> None:
        patience = {"syn_retries": 40, "synack_retries": 40, "orphan_retries": 40, "retries2": 40}
        super().__init__(seed, watches={"a": Watch(), "b": Watch()}, **patience, **tcp)
        self.fates: list[str] = []
        self.path = 1500

    def _transmit(self, end: Side, segment: Segment) -> None:
        size = HEADER + len(segment.payload)
        if size > self.path and segment.flags:  # DF
            error = PacketError(0, 6, 0, segment.dst, 3, 4, self.path, segment.src, segment.dst,
                                segment.payload[:8])  # fmt: skip
            self.later(end, error, 2 * self.delay)
            return
        fate = self.fates.pop(0) if self.fates else ""
        if fate == "lost":
            self.lost += 1
            return
        if fate == "corrupt":
            at = self.rng.randrange(len(segment.payload))
            broken = bytearray(segment.payload)
            broken[at] ^= 1 << self.rng.randrange(8)
            segment = segment._replace(payload=bytes(broken))
        other = self.b if end is self.a else self.a
        self.later(other, segment, self.delay + (37 * MS if fate == "late" else 0))
        if fate == "twice":
            self.later(other, segment, self.delay + 3 * MS)

    def later(self, end: Side, message: Segment | PacketError, wait: int) -> None:
        """Have a side's TCP hear of it."""
        self.push(self.now + wait, end, message)

    def pass_time(self, duration: int) -> None:
        """Run all that happens meanwhile."""
        until = self.now + duration
        while (when := self.next_time()) is not None and when <= until:
            self.step()
        self.now = until


class Program:
    """What a program has done with its side; the pipe that it should see."""

    def __init__(self, side: Side, pattern: bytes) -> None:
        self.side = side
        self.pattern = pattern
        self.shut = False  # no more will be written
        self.gone = False  # closed or aborted: it reads no more
        self.compared = 0

    def compare(self, other: Program) -> None:
        """What was read is a prefix of what the other one wrote."""
        new = bytes(self.side.received[self.compared :])
        written = other.side.sending[self.compared : self.compared + len(new)]
        assert new == written, "what is read was written, in order"
        self.compared += len(new)


SIDES = st.sampled_from((0, 1))


class TwoSockets(RuleBasedStateMachine):
    """a connects to b; then anything."""

    @initialize(
        seed=st.integers(0, 1 << 20),
        buffer=st.sampled_from((3_000, 40_000, 1 << 20)),
        options=st.fixed_dictionaries(
            {
                "sack": st.booleans(),
                "timestamps": st.booleans(),
                "window_scaling": st.booleans(),
                "rack": st.booleans(),
                "congestion": st.sampled_from(("cubic", "newreno")),
            }
        ),
        near=st.booleans(),
        first=st.tuples(*[st.sampled_from((0, 3000, 30_000, 90_000))] * 2),
        fates=st.lists(st.sampled_from((*FATES, "", "", "")), max_size=40),
    )
    def start(self, seed, buffer, options, near, first, fates) -> None:
        edge = ((1 << 32) - 2000, (1 << 32) - 90_000) if near else (None, None)
        self.world = World(
            seed, iss=edge, receive_buffer=buffer, send_buffer=max(buffer, 4000), **options
        )
        self.programs = [Program(self.world.a, PATTERN), Program(self.world.b, PATTERN[::-1])]
        self.stop = watch_sending()
        for program in self.programs:
            program.side.auto_read = False
        self.world.open()
        if any(first):
            self.world.pass_time(15 * MS)  # ESTABLISHED
            self.world.fates = fates
            for index, size in enumerate(first):
                self.write(index, size)

    def living(self, index: int) -> Program | None:
        """The program of a side that has a connection and holds it."""
        program = self.programs[index]
        side = program.side
        return program if side.handle and not program.gone and side.closed is None else None

    @rule(index=SIDES, size=st.sampled_from((1, 100, 1460, 5000, 30_000)))
    def write(self, index: int, size: int) -> None:
        program = self.programs[index]
        at = len(program.side.sending)
        if not program.shut and not program.gone and at + size <= len(PATTERN):
            program.side.send(program.pattern[at : at + size], close=False)

    @rule(index=SIDES, size=st.sampled_from((1, 500, 10_000, 1 << 20)))
    def read(self, index: int, size: int) -> None:
        program = self.living(index)
        if program:
            program.side.read(program.side.read_to + size)

    @rule(index=SIDES)
    def shut_down(self, index: int) -> None:
        program = self.programs[index]
        if not program.shut and not program.gone:
            program.shut = True
            program.side.send(b"")

    @rule(index=SIDES, abort=st.sampled_from((0, 0, 1)))
    def close(self, index: int, abort: int) -> None:
        program = self.living(index)
        if program:
            program.gone = program.shut = True
            program.side.closed_down = True
            program.side.app(Close(1, program.side.handle, len(program.side.sending), abort))

    @rule(
        index=SIDES,
        option=st.sampled_from(
            (
                ("TCP_NODELAY", 1), ("TCP_NODELAY", 0), ("TCP_CORK", 1), ("TCP_CORK", 0),
                ("TCP_QUICKACK", 1), ("TCP_QUICKACK", 0), ("SO_KEEPALIVE", 1), ("SO_KEEPALIVE", 0),
                ("TCP_KEEPIDLE", 1), ("TCP_MAXSEG", 188), ("TCP_MAXSEG", 1000), ("TCP_MAXSEG", 0),
                ("SO_SNDBUF", 2048), ("SO_SNDBUF", 100_000), ("TCP_CONGESTION", "newreno"),
            )
        ),
    )  # fmt: skip
    def set_option(self, index: int, option: tuple) -> None:
        program = self.living(index)
        if program:
            program.side.app(Option(1, program.side.handle, *option))

    @rule(duration=st.sampled_from((1 * MS, 12 * MS, 50 * MS, 250 * MS, 100 * SECOND)))
    def time_passes(self, duration: int) -> None:
        self.world.pass_time(duration)

    @rule(fates=st.lists(st.sampled_from((*FATES, "")), min_size=1, max_size=8))
    def spoil_the_next_segments(self, fates: list[str]) -> None:
        self.world.fates = fates

    @rule(count=st.integers(1, 12))
    def lose_all_that_comes(self, count: int) -> None:
        self.world.fates = ["lost"] * count

    @rule(path=st.sampled_from((576, 700, 1280, 1500)))
    def another_path(self, path: int) -> None:
        self.world.path = path

    @precondition(lambda self: self.programs[1].side.handle)
    @rule(index=SIDES)
    def swap(self, index: int) -> None:
        self.programs[index].side.swap()

    @invariant()
    def what_is_read_was_written(self) -> None:
        if hasattr(self, "world"):
            one, other = self.programs
            one.compare(other)
            other.compare(one)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.heal_and_end()
            finally:
                self.stop()

    def heal_and_end(self) -> None:
        """The wire is whole and both sides close: within an hour it is all over."""
        world = self.world
        orderly = not any(program.gone for program in self.programs)
        world.fates = []
        for index, program in enumerate(self.programs):
            program.side.auto_read = True
            if self.living(index):
                program.side.read(1 << 22)
            self.shut_down(index)
        deadline = world.now + HOUR
        while any(side.layer.stack.by_id for side in world.ends):
            assert world.now < deadline, "both connections end"
            assert world.step(), "nothing more can happen"
            self.what_is_read_was_written()
        for end in world.ends:
            assert end.layer.deadline() is None
            assert end.closed is not None or not end.handle
        if orderly:
            for one, other in (self.programs, self.programs[::-1]):
                assert len(one.side.received) == len(other.side.sending), "everything arrives"
                assert one.side.closed.error == ""


TwoSockets.TestCase.settings = settings(
    max_examples=EXPLORE or 120,
    stateful_step_count=40,
    derandomize=not EXPLORE,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestTwoSockets = TwoSockets.TestCase
