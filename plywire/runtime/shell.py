"""The loop round a core: pipes, devices and timers in, outputs out.

The same shell runs in two ways: `run` blocks in a ZeroMQ poll (tcp, ip, link), `attach` hangs it
into an asyncio loop (app, whose gRPC server lives there). It reads the clock; the core never does.

The core lives by the lab's time, which may stand still. Pipes and devices, which find their
neighbours and lose no word of theirs, live by real time, and so does the loop.
"""

from __future__ import annotations

import asyncio
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

import zmq

from plywire.layer import Layer
from plywire.messages import Barrier, Message
from plywire.roles import LAYERS, WIRE, Role
from plywire.runtime.clock import REAL_CLOCK, Clock
from plywire.runtime.heartbeat import Heartbeat
from plywire.runtime.observer import Control, Publisher
from plywire.runtime.pipe import Pipe
from plywire.trace import IN, OUT, Tracer

if TYPE_CHECKING:
    from plywire.runtime.handover import Handover

MS = 1_000_000


class Port(Protocol):
    """A device of a link: the shell's way to a wire or a TAP."""

    ifindex: int
    counters: Counter[str]

    def pollable(self) -> zmq.Socket | int:
        """What to wait on for input."""

    def receive(self) -> list[Message]:
        """What has arrived, a bounded number; never waits."""

    def send(self, messages: Sequence[Message]) -> None:
        """Put frames out; drops and counts what does not fit; never waits."""

    def answer(self, barrier: Barrier) -> None:
        """A barrier that came in here has been through all layers and back."""

    def deadline(self) -> int | None:
        """When `expire` is next needed, in monotonic time, or None."""

    def expire(self, now: int) -> list[Message]:
        """Run the device's own timers; now: monotonic time. Returns frames that come in late."""

    def to_state(self) -> list:
        """What a successor's device should know, as the snapshot of a layer."""

    def restore(self, state: list) -> None:
        """Take over from `to_state`."""

    def close(self, successor: bool = False) -> None:
        """Leave; without a goodbye when a successor takes this place at once."""


class Shell:
    """One layer with its pipes (by neighbour), devices, trace publisher and control socket."""

    def __init__(
        self,
        layer: Layer,
        pipes: Mapping[Role, Pipe],
        tracer: Tracer,
        *,
        ports: Sequence[Port] = (),
        publisher: Publisher | None = None,
        control: Control | None = None,
        clock: Clock = REAL_CLOCK,
    ) -> None:
        self.layer = layer
        self.pipes = dict(pipes)
        self.tracer = tracer
        self.ports: dict[int, Port] = {}
        self._timed: list[Port | Pipe | Heartbeat | Handover] = list(pipes.values())
        self.publisher = publisher
        self.control = control
        self.handover: Handover | None = None
        self.held: dict[Role, list[Message]] | None = None
        """What is not sent any more, by neighbour, once this layer is about to be exchanged."""
        self.frozen = False
        """The core's state has been taken: it is given nothing more."""
        self.when_thawed: list[Callable[[], object]] = []
        self.leaving = False
        """A successor takes over: `run` returns."""
        self.clock = clock.now
        """The lab's time."""
        self._real = clock.real
        self.received: Counter[Role] = Counter()
        """Messages that came in, by who gave them; `sent`: those that went out, by who got them."""
        self.sent: Counter[Role] = Counter()
        self._sources = [(pipe.receive, pipe.inbox.socket, role) for role, pipe in pipes.items()]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dying: AbstractContextManager[object] = nullcontext()
        self._timer: asyncio.TimerHandle | None = None
        for port in ports:
            self.add_port(port)

    def add_port(self, port: Port) -> None:
        """Let a device carry the frames of its interface; before the loop starts."""
        self.ports[port.ifindex] = port
        self._sources.append((port.receive, port.pollable(), WIRE))
        self._timed.append(port)

    def hand_over_by(self, handover: Handover) -> None:
        """Let this layer be exchanged by way of `handover`; before the loop starts."""
        self.handover = handover
        self._timed.append(handover)

    def add_timer(self, timer: Heartbeat) -> None:
        """Let something run beside the core, by real time; before the loop starts."""
        self._timed.append(timer)

    # --- the blocking way ---

    def run(self, wakeups: Sequence[int]) -> None:
        """Work until one of the descriptors in `wakeups` becomes readable."""
        poller = zmq.Poller()
        sources = {}
        for receive, pollable, role in self._sources:
            poller.register(pollable, zmq.POLLIN)
            sources[pollable] = (receive, role)
        for extra in self._extras():
            poller.register(extra.socket, zmq.POLLIN)
            sources[extra.socket] = None
        for wakeup in wakeups:
            poller.register(wakeup, zmq.POLLIN)
        polled_out: dict[Role, zmq.Socket] = {}
        self.flush()
        while not self.leaving:
            if self.frozen:
                if not self._stand_still(wakeups):
                    return
                continue
            for role, pipe in self.pipes.items():
                outlet = pipe.outlet.socket if pipe.blocked else None
                if outlet is not polled_out.get(role):
                    if role in polled_out:
                        poller.unregister(polled_out.pop(role))
                    if outlet is not None:
                        poller.register(outlet, zmq.POLLOUT)
                        polled_out[role] = outlet
            deadline = self._deadline()
            for pollable, _ in poller.poll(self._patience(deadline)):
                if pollable in wakeups:
                    return
                source = sources.get(pollable, False)
                if source:
                    self._feed(*source)
                elif source is None:
                    self._serve()
            for role in polled_out:
                self.pipes[role].flush()
            if deadline is not None and deadline <= time.monotonic_ns():
                self._expire()
            self.flush()

    def _stand_still(self, wakeups: Sequence[int]) -> bool:
        """Wait for what becomes of the exchange, and serve nobody else; False when told to stop."""
        poller = zmq.Poller()
        poller.register(self.handover.socket, zmq.POLLIN)
        for wakeup in wakeups:
            poller.register(wakeup, zmq.POLLIN)
        ready = dict(poller.poll(self._patience(self.handover.deadline())))
        if any(wakeup in ready for wakeup in wakeups):
            return False
        self._serve()
        self.handover.expire(time.monotonic_ns())
        return True

    # --- the asyncio way ---

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let `loop` drive this shell from now on. Devices need `run`."""
        if self.ports:
            raise ValueError("a shell with devices cannot be attached to a loop")
        self._loop = loop
        self._dying = _Dying()
        for _, pollable, _ in self._sources:
            loop.add_reader(_descriptor(pollable), self._turn)
        for pipe in self.pipes.values():
            loop.add_reader(_descriptor(pipe.outlet.socket), self._turn)
            pipe.renewed = self._renewed
        for extra in self._extras():
            loop.add_reader(_descriptor(extra.socket), self._turn)
        loop.call_soon(self._turn)

    def detach(self) -> None:
        """Take this shell out of its loop again."""
        if self._loop is None:
            return
        sockets = [pollable for _, pollable, _ in self._sources]
        sockets += [pipe.outlet.socket for pipe in self.pipes.values()]
        sockets += [extra.socket for extra in self._extras()]
        for pollable in sockets:
            self._loop.remove_reader(_descriptor(pollable))
        if self._timer is not None:
            self._timer.cancel()
        self._loop = None

    # --- both ---

    def flush(self) -> None:
        """Send what the core has put out; in asyncio, also set the timer anew.

        Whoever calls an operation of the core calls this afterwards.
        """
        with self._dying:
            self._flush()

    def _flush(self) -> None:
        outputs = self.layer.outputs()
        if outputs:
            tracer = self.tracer
            groups: dict[Role, list[Message]] = {}
            for to, message in outputs:
                if tracer.enabled:
                    tracer.crossing(OUT, message, to, self.clock())
                group = groups.get(to)
                if group is None:
                    groups[to] = [message]
                else:
                    group.append(message)
            for to, messages in groups.items():
                self.sent[to] += len(messages)
                if to == WIRE:
                    self._to_ports(messages)
                else:
                    self._to_pipe(to, messages)
        if self.publisher is not None and self.tracer.enabled:
            self.publisher.flush()
        if self.held is not None:
            self.handover.look()
        if self._loop is not None:
            self._arm()

    def thaw(self) -> None:
        """The core is in use again."""
        if self._loop is not None:
            self._loop.call_soon(self._turn)
        for call in self.when_thawed:
            call()
        self.when_thawed.clear()

    def neighbours(self) -> dict[Role, bool]:
        """Which neighbours have said Hello and are connected now."""
        return {
            role: pipe.peer_generation is not None and pipe.outlet.writable()
            for role, pipe in self.pipes.items()
        }

    def traffic(self) -> dict[Role, dict[str, int]]:
        """For each neighbour, and the wire of a layer with devices: `connected` (0 or 1), messages
        `received`, `sent`, and `waiting` until it can take them (a device may hold some back)."""
        there = self.neighbours()
        waiting = {role: pipe.waiting for role, pipe in self.pipes.items()}
        if self.ports:
            there[WIRE] = all(getattr(port, "joined", True) for port in self.ports.values())
            waiting[WIRE] = sum(getattr(port, "waiting", 0) for port in self.ports.values())
        return {
            role: {
                "connected": int(there[role]),
                "received": self.received[role],
                "sent": self.sent[role],
                "waiting": waiting[role],
            }
            for role in there
        }

    def counters(self) -> Counter[str]:
        """The core's, the pipes' and the devices' together."""
        total = Counter(self.layer.counters)
        for port in self.ports.values():
            total.update(port.counters)
        if self.publisher is not None:
            total.update(self.publisher.counters)
        return total

    def close(self) -> None:
        """Release pipes, devices and observers."""
        self.detach()
        for port in self.ports.values():
            port.close(self.leaving)
        for pipe in self.pipes.values():
            pipe.close()
        for extra in (self.publisher, self.control):
            if extra is not None:
                extra.close()

    def _extras(self) -> list[Publisher | Control | Handover]:
        every = (self.publisher, self.control, self.handover)
        return [extra for extra in every if extra is not None]

    def _to_pipe(self, to: Role, messages: Sequence[Message]) -> None:
        if self.held is None:
            self.pipes[to].send(messages)
        else:
            self.held.setdefault(to, []).extend(messages)

    def _feed(self, receive: Callable[[], list[Message]], role: Role) -> None:
        """Hand the core what has arrived at one source."""
        self._hand(receive(), role)

    def _hand(self, messages: Sequence[Message], role: Role) -> None:
        self.received[role] += len(messages)
        now = self.clock()
        take = self.layer.receive
        tracer = self.tracer
        for message in messages:
            if type(message) is Barrier:
                self._pass_on(message, role)
                continue
            if tracer.enabled:
                tracer.crossing(IN, message, role, self.clock())
            take(message, role, now)

    def _pass_on(self, barrier: Barrier, source: Role) -> None:
        """A barrier goes on behind what the core made of all before it: up to app, and down."""
        self.flush()
        me = LAYERS.index(self.tracer.layer)
        rising = source == WIRE or LAYERS.index(source) > me
        to = next((role for role in self.pipes if (LAYERS.index(role) < me) == rising), None)
        if to is None and rising:  # this is the top
            to = source
        if to in self.pipes:
            self._to_pipe(to, [barrier])
        elif barrier.ifindex in self.ports:
            self.ports[barrier.ifindex].answer(barrier)
        else:
            self.layer.counters["drop_barrier_unknown_interface"] += 1

    def _renewed(self, old: zmq.Socket, new: zmq.Socket) -> None:
        self._loop.remove_reader(_descriptor(old))
        self._loop.add_reader(_descriptor(new), self._turn)
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """One round in asyncio. ZeroMQ's descriptors tell of changes only, so all is drained."""
        with self._dying:
            busy = not self.frozen
            while busy:
                busy = False
                for role, pipe in self.pipes.items():
                    if pipe.inbox.readable():
                        self._feed(pipe.receive, role)
                        busy = True
                    if pipe.waiting:
                        pipe.flush()
                self._expire()
                self.flush()
                busy = busy and not self.frozen
            self._serve()
            self.flush()

    def _serve(self) -> None:
        """Look after listeners and questions from outside."""
        if self.publisher is not None:
            self.publisher.attend(self.tracer)
        if self.control is not None:
            self.control.attend(self.clock())
        if self.handover is not None:
            self.handover.attend(self.clock())

    def _to_ports(self, messages: Sequence[Message]) -> None:
        if len(self.ports) == 1:
            (only,) = self.ports.items()
            if all(message.ifindex == only[0] for message in messages):
                only[1].send(messages)
                return
        for ifindex, port in self.ports.items():
            mine = [message for message in messages if message.ifindex == ifindex]
            if mine:
                port.send(mine)

    def _expire(self) -> None:
        deadline = None if self.frozen else self.layer.deadline()
        if deadline is not None:
            now = self.clock()
            if deadline <= now:
                self.layer.expire(now)
        for other in self._timed:
            due = other.deadline()
            if due is not None and due <= time.monotonic_ns():
                late = other.expire(time.monotonic_ns())
                if late:
                    self._hand(late, WIRE)

    def _deadline(self) -> int | None:
        """When there is something to do, in monotonic time."""
        earliest = None if self.frozen else self.layer.deadline()
        if earliest is not None:
            earliest = self._real(earliest)
        for other in self._timed:
            due = other.deadline()
            if due is not None and (earliest is None or due < earliest):
                earliest = due
        return earliest

    def _patience(self, deadline: int | None) -> int | None:
        """How long to poll, in ms, rounded up so that a timer is due when the poll returns."""
        if deadline is None:
            return None
        return max(0, -((time.monotonic_ns() - deadline) // MS))

    def _arm(self) -> None:
        deadline = self._deadline()
        if self._timer is not None:
            if deadline is not None and self._timer.when() * 1e9 <= deadline:
                return  # it comes early and is armed again then: cheaper than a new timer each time
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = self._loop.call_at(deadline / 1e9, self._ring)

    def _ring(self) -> None:
        self._timer = None
        with self._dying:
            self._expire()
            self.flush()


class _Dying:
    """Within it an exception is the end of the process, as it stands.

    It is a bug. asyncio would log it and go on, without what was lost by it; gRPC would make it the
    answer to some call. Another process is started, and goes on from what is kept.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            traceback.print_exc()
            os._exit(1)


def _descriptor(pollable: zmq.Socket | int) -> int:
    return pollable if isinstance(pollable, int) else pollable.get(zmq.FD)
