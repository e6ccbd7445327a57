"""One layer at work in a world: what the shell is to a layer in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from plywire.envelope import decode, encode
from plywire.layer import Layer
from plywire.messages import Hello, Kept, Message
from plywire.roles import WIRE, Role
from plywire.trace import IN, OUT, Event, Tracer

if TYPE_CHECKING:
    from plywire.lab.simulator.host import Host


NOBODY: Mapping[Role, int] = MappingProxyType({})


class Killed(Exception):
    """Raised in a layer, by what a test has put there: its process dies here."""


class Node:
    """A layer, its place, and when it is to be woken.

    epoch: counts crashes; what was under way to a layer that crashed is lost with it. line: the
    generations that it stands for, its own and of those whose heir it is. wake: the
    time of the one wake-up in the world's queue that counts, or None.
    """

    __slots__ = ("epoch", "generation", "host", "kept", "layer", "line", "role", "tracer", "wake",
                 "world")  # fmt: skip

    def __init__(self, host: Host, role: Role) -> None:
        self.host = host
        self.world = host.world
        self.role = role
        self.epoch = 0
        self.wake: int | None = None
        self.tracer = Tracer(host.name, role, self.world.sink())
        self.generation = 0
        self.line: list[int] = []
        self.kept: Mapping[Role, int] = {}
        self.layer: Layer

    def start(self, layer: Layer, generation: int, kept: Mapping[Role, int] = NOBODY) -> None:
        """Put a layer to work that its neighbours do not know. kept: those, with their generation,
        with whom it has recovered what a predecessor had."""
        self.layer = layer
        self.kept = kept
        self.generation = generation
        self.line = [generation, *self.line] if kept else [generation]
        self.epoch += 1
        self.wake = None
        self.flush()

    def take_over(self, layer: Layer) -> None:
        """Put a layer to work that stands where its predecessor stood."""
        self.layer = layer
        self.wake = None
        self.flush()

    def greet(self, other: Node) -> None:
        """Exchange Hellos with a neighbour, as two shells do when they first reach each other."""
        at = self.world.now + self.world.hop_delay
        self._introduce(at, other, 0)
        other._introduce(at, self, 1)

    def _introduce(self, at: int, other: Node, reply: int) -> None:
        known = self.kept.get(other.role)
        if known in other.line:
            self.world.post(at, other, Kept(0, self.generation, known), self.role)
        self.world.post(at, other, Hello(0, self.role, self.generation, reply), self.role)

    def trace_to(self, sink: Callable[[Event], None] | None) -> None:
        """Send trace events there from now on; None: build none."""
        self.tracer.sink = sink
        self.tracer.enabled = sink is not None

    def receive(self, message: Message, source: Role, now: int) -> None:
        """Hand the layer a message."""
        if self.tracer.enabled:
            self.tracer.crossing(IN, message, source, now)
        try:
            self.layer.receive(message, source, now)
        except Killed:
            self.host.crash(self.role)
            return
        except Exception as error:
            error.add_note(
                f"{self.host.name} {self.role} at {now} ns, from {source}: {message!r:.400}"
            )
            raise
        self.flush()

    def expire(self, now: int) -> None:
        """Run the layer's timers that are due."""
        self.wake = None
        try:
            self.layer.expire(now)
        except Killed:
            self.host.crash(self.role)
            return
        self.flush()

    def flush(self) -> None:
        """Send what the layer has to send, and see to its next timer."""
        host, world, tracer, role = self.host, self.world, self.tracer, self.role
        now = world.now
        at = now + world.hop_delay
        try:
            outputs = self.layer.outputs()
        except Killed:
            host.crash(role)
            return
        for to, message in outputs:
            if tracer.enabled:
                tracer.crossing(OUT, message, to, now)
            if world.strict:
                message = self._through_envelope(message, to)
            if to == WIRE:
                host.transmit(message)
            else:
                world.post(at, host.nodes[to], message, role)
        self.arm()

    def arm(self) -> None:
        """Be woken when the layer's first timer is due."""
        deadline = self.layer.deadline()
        if deadline is not None and (self.wake is None or deadline < self.wake):
            self.wake = max(deadline, self.world.now)
            self.world.wake(self.wake, self)

    def timer_has_moved(self, time: int) -> bool:
        """Whether the wake-up of `time` is no longer needed; it then no longer counts."""
        deadline = self.layer.deadline()
        if deadline is not None and deadline <= time:
            return False
        self.wake = None
        return True

    def _through_envelope(self, message: Message, to: Role) -> Message:
        messages, errors = decode(encode([message]))
        if errors:
            raise AssertionError(
                f"{self.host.name} {self.role} -> {to}: {errors[0]}: {message!r:.400}"
            )
        return messages[0]
