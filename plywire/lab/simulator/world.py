"""The world: a clock, what happens in which order, and everything that can be watched.

Nothing in it happens by itself. Virtual time moves when the caller moves it, events of one instant
run in the order in which they were caused, and all randomness derives from the seed: equal calls
on equal seeds give equal traces.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from plywire.calls import Call
from plywire.errors import ConfigError
from plywire.lab.simulator.capture import Capture
from plywire.lab.simulator.host import Host
from plywire.lab.simulator.node import Node
from plywire.lab.simulator.wire import Wire
from plywire.messages import Message
from plywire.roles import Role
from plywire.trace import Event

EVENTS_IN_AN_INSTANT = 1_000_000
"""More than these at one time and the world is taken for one that never gets any further."""

_ANY_EPOCH = -1

Goal = Callable[[], bool] | Call | Iterable[Call] | None


class World:
    """A clock and the hosts and wires that live by it.

    seed: of all randomness. start: the clock's first value in nanoseconds. strict: pass every
    message through the envelope, so that its schema is checked as on a real pipe. hop_delay: how
    long a message takes from one layer to the next, in nanoseconds.
    """

    def __init__(
        self, seed: int = 0, *, start: int = 0, strict: bool = False, hop_delay: int = 0
    ) -> None:
        self.seed = seed
        self.strict = strict
        self.hop_delay = hop_delay
        self.hosts: dict[str, Host] = {}
        self.wires: dict[str, Wire] = {}
        self.names: dict[str, bytes] = {}
        """Names that every host resolves, with their addresses: `h1` and `h1.lab` of each host."""
        self.trace: list[Event] = []
        """What `observe()` without a callback has collected."""
        self._now = start
        self._running = False
        self._sequence = 0
        # (time, sequence, node or None, message or callback, source, the node's epoch). A node
        # without a message is a wake-up for its timers.
        self._queue: list[tuple[int, int, Node | None, Any, Role, int]] = []
        self._observers: list[Callable[[Event], None]] = []
        self._captures: list[Capture] = []

    # --- what there is ----------------------------------------------------------------------------

    def host(self, name: str, address: str | None = None, **settings: Any) -> Host:
        """A new host with four fresh layers, at work at once; `Host` tells the settings.

        Raises ConfigError, with key and reason.
        """
        if name in self.hosts:
            raise ConfigError(f"host {name}", "there is one of this name already")
        return Host(self, name, address, **settings)

    def wire(self, name: str, *, raw: bool | None = None, **impairments: Any) -> Wire:
        """The wire of this name, made if there is none, with these impairments changed.

        raw: a wire of bare IP packets, without Ethernet and ARP; to be said before a host is
        on it. Impairments are the fields of `plywire.impair.Impairments`.
        """
        wire = self.wires.get(name)
        if wire is None:
            wire = self.wires[name] = Wire(self, name, raw=bool(raw))
        elif raw is not None and raw != wire.raw:
            raise ConfigError(f"wire {name}", "there is one of the other kind already")
        wire.impair(**impairments)
        return wire

    def random(self, *purpose: object) -> random.Random:
        """Randomness of its own for a purpose, so that one use does not disturb another."""
        return random.Random("/".join(map(str, (self.seed, *purpose))))

    # --- the clock --------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """The virtual time in nanoseconds."""
        return self._now

    def next_time(self) -> int | None:
        """When something happens next, or None when nothing is pending."""
        queue = self._queue
        while queue:
            time, _, node, message, _, epoch = queue[0]
            if node is not None:
                if (epoch not in (node.epoch, _ANY_EPOCH)) or (
                    message is None and node.wake != time
                ):
                    heapq.heappop(queue)  # its layer has crashed, or has armed an earlier timer
                    continue
                if message is None and node.timer_has_moved(time):
                    heapq.heappop(queue)
                    node.arm()
                    continue
            return time
        return None

    def step(self) -> int | None:
        """Go to the next event and run all that happens at its time; the time, or None."""
        time = self.next_time()
        if time is not None:
            self._run_until(time)
        return time

    def advance_to(self, time: int) -> None:
        """Run everything up to and including `time`, and set the clock to it."""
        if time < self._now:
            raise ValueError(f"time does not go back: it is {self._now}, not {time}")
        self._run_until(time)

    def advance(self, duration: int) -> None:
        """Run everything in the next `duration` nanoseconds."""
        self.advance_to(self._now + duration)

    def run(self, until: Goal = None, limit: int | None = None) -> bool:
        """Step until `until` holds; whether it does.

        until: a function, or calls that are to be answered; None: until nothing is pending. It
        gives up when nothing is pending, and, the clock then being there, after `limit`
        nanoseconds.
        """
        reached = _goal(until)
        end = None if limit is None else self._now + limit
        while not reached():
            time = self.next_time()
            if time is None:
                return until is None
            if end is not None and time > end:
                self._run_until(end)
                return False
            self._run_until(time)
        return True

    def wait(self, call: Call, limit: int | None = None) -> Any:
        """Run until a call is answered: its value, or its SocketError raised.

        Raises TimeoutError when it is still pending after `limit` nanoseconds, or when nothing
        can happen any more.
        """
        if not self.run(call, limit):
            raise TimeoutError(f"the call is still pending at {self._now} ns")
        return call.result()

    def at(self, time: int, action: Callable[[], object]) -> None:
        """Have `action()` run at `time`: to change a wire, say, in mid-transfer."""
        self._push(max(time, self._now), None, action, "", 0)

    # --- observation ------------------------------------------------------------------------------

    def observe(self, callback: Callable[[Event], None] | None = None) -> Callable[[], None]:
        """Have each trace event passed to `callback`, or collected in `trace`; call it to stop."""
        observer = callback or self.trace.append
        self._observers.append(observer)
        self._tell_tracers()

        def stop() -> None:
            self._observers.remove(observer)
            self._tell_tracers()

        return stop

    def capture(self, path: str | Path) -> Capture:
        """Write what is sent on every wire to a pcapng file, until it is closed."""
        capture = Capture(path, self._captures.remove)
        self._captures.append(capture)
        return capture

    # --- for hosts, nodes and wires ---------------------------------------------------------------

    def post(self, time: int, node: Node, message: Message, source: Role) -> None:
        """Have `node` receive a message at a time, unless it has crashed by then."""
        self._push(time, node, message, source, node.epoch)

    def arrive(self, time: int, node: Node, message: Message, source: Role) -> None:
        """Have whatever layer runs at `node` then receive a message at a time."""
        self._push(time, node, message, source, _ANY_EPOCH)

    def wake(self, time: int, node: Node) -> None:
        """Have the timers of `node` looked at, at a time."""
        self._push(max(time, self._now), node, None, "", node.epoch)

    def settle(self) -> None:
        """Run what needs no time. Does nothing inside of a running event, which goes on anyway."""
        if not self._running:
            self._run_until(self._now)

    def captured(self, wire: Wire, time: int, frame: bytes, comment: str) -> None:
        """A frame was sent on a wire."""
        for capture in self._captures:
            capture.packet(wire, time, frame, comment)

    def sink(self) -> Callable[[Event], None] | None:
        """Where tracers send their events now: None while nobody observes."""
        return self._emit if self._observers else None

    # --- inside -----------------------------------------------------------------------------------

    def _push(self, time: int, node: Node | None, what: Any, source: Role, epoch: int) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (time, self._sequence, node, what, source, epoch))

    def _run_until(self, end: int) -> None:
        if self._running:
            raise RuntimeError("the clock cannot be moved from inside of an event")
        self._running = True
        try:
            count = 0
            while (time := self.next_time()) is not None and time <= end:
                if time > self._now:
                    self._now = time
                    count = 0
                count += 1
                if count > EVENTS_IN_AN_INSTANT:
                    raise RuntimeError(f"{count} events at {time} ns: this never gets any further")
                _, _, node, what, source, _ = heapq.heappop(self._queue)
                if node is None:
                    what()
                elif what is None:
                    node.expire(time)
                else:
                    node.receive(what, source, time)
            self._now = max(self._now, end)
        finally:
            self._running = False

    def _emit(self, event: Event) -> None:
        for observer in tuple(self._observers):
            observer(event)

    def _tell_tracers(self) -> None:
        sink = self.sink()
        for host in self.hosts.values():
            for node in host.nodes.values():
                node.trace_to(sink)


def _goal(until: Goal) -> Callable[[], bool]:
    if until is None:
        return lambda: False
    if isinstance(until, Call):
        return lambda: until.done
    if callable(until):
        return until
    calls = list(until)
    return lambda: all(call.done for call in calls)
