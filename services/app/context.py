"""What the parts of the app layer share: the tables, the way out to TCP, and waiting.

An operation that cannot be answered at once becomes a Waiter in a list of its socket. Whatever
happens to the socket then, `advance` tries the first of each list again. A waiter knows how to try
(`attempt`), and what its answer is when its time has passed (`give_up`).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from plywire.calls import Call
from plywire.config import SECOND, HostConfig
from plywire.errors import SocketError
from plywire.layer import Output
from plywire.messages import Close, Message, Option
from plywire.roles import TCP
from plywire.timers import Timers
from plywire.trace import Tracer
from services.app.sockets import Descriptors, Leaving, Socket
from services.app.streams import SendStream

if TYPE_CHECKING:
    from services.app.survival import Survival

MAX_WAITING = 65_536
"""Calls that may be blocked at one time."""
MAX_BLOCKED_BYTES = 256 << 20
"""Data that blocked sends may hold, all together."""

_FOR_EVER = 3_155_760_000
"""Seconds: a hundred years."""


class Waiter:
    """A call that waits. `socket` is the one that it is about, if it is one, `line` the list of it
    that it stands in, `size` the data that it holds."""

    __slots__ = ("call", "line", "size", "socket", "trace")

    def __init__(
        self,
        trace: int,
        socket: Socket | None = None,
        line: list[Waiter] | None = None,
        size: int = 0,
    ) -> None:
        self.call = Call()
        self.trace = trace
        self.socket = socket
        self.line = line
        self.size = size

    def attempt(self) -> Any:
        """The answer, or None to go on waiting. Raises SocketError to fail the call."""
        raise NotImplementedError

    def give_up(self) -> Any:
        """The answer when the timeout has passed. Raises SocketError to fail the call."""
        raise NotImplementedError

    def leave(self) -> None:
        """The call is over: forget it everywhere but in its line."""


class Context:
    """The shared state of one app layer. `now` is the time of what is being done, `cause` the
    trace id of the message being handled, or 0 when a program's call is."""

    def __init__(self, host: HostConfig, rng: random.Random, tracer: Tracer) -> None:
        self.host = host
        self.rng = rng
        self.tracer = tracer
        self.counters: Counter[str] = Counter()
        self.timers = Timers()
        self.now = 0
        self.cause = 0
        self.table = Descriptors(host.app.max_descriptors)
        self.handles: dict[int, Socket] = {}
        self.closing: dict[int, Leaving] = {}  # what TCP has not answered Close for, by handle
        self.corpses: dict[int, Socket] = {}  # TCP has said Closed, and was not answered yet
        self.touched: dict[Socket | Leaving, None] = {}  # what is not as it was last kept
        self.survival: Survival | None = None
        self.resuming = False  # this process has recovered, and TCP has not told it all again yet
        self.checking: set[int] = set()  # handles that a recovered TCP is asked whether it knows
        self.recovered = False  # the TCP that says Hello next has what the one before had
        self.next_handle = 2
        self.tcp_generation: int | None = None
        self.out: list[Output] = []
        self.held: list[Message] = []  # for a TCP that has not been heard of yet
        self.waiters: dict[Call, Waiter] = {}
        self.blocked_bytes = 0

    # --- towards TCP ---

    def tell(self, message: Message) -> None:
        """Send a message to TCP, or keep it until there is one.

        What is kept is bounded: a socket has few calls open with TCP, a later setting of an option
        replaces the earlier one, and Close takes back what nobody has heard of.
        """
        if self.tcp_generation is not None:
            self.out.append(Output(TCP, message))
            if type(message) is Close:
                self.closing[message.handle] = Leaving(message)
            return
        gone = (message.handle,) if isinstance(message, Close) else ()
        same = (message.handle, message.name) if isinstance(message, Option) else ()
        self.held = [
            held
            for held in self.held
            if held.handle not in gone
            and not (isinstance(held, Option) and (held.handle, held.name) == same)
        ]
        if not gone:
            self.held.append(message)

    def leave(self, message: Close, descriptor: int, send: SendStream | None) -> Leaving | None:
        """Tell TCP that a descriptor is closed; what it may have to hear again, or None."""
        self.tell(message)
        leaving = self.closing.get(message.handle)
        if leaving is not None:
            leaving.descriptor, leaving.send = descriptor, send
            self.touched[leaving] = None
        return leaving

    def confirm(self, socket: Socket) -> None:
        """TCP has said that a connection is over, and nobody needs anything of it any more."""
        handle, socket.corpse = socket.corpse, 0
        del self.corpses[handle]
        self.out.append(Output(TCP, Close(socket.trace, handle, 0, 0)))
        self.touched[socket] = None

    def new_handle(self, socket: Socket) -> int:
        """Name a socket on the boundary; app's handles are even."""
        socket.handle = self.next_handle
        self.next_handle += 2
        self.handles[socket.handle] = socket
        return socket.handle

    def new_trace(self) -> int:
        """A trace id for a call of a program."""
        return self.rng.getrandbits(48) or 1

    def trace_of(self, own: int) -> int:
        """The id for an effect of a call: that of the message which caused it, else its own."""
        return self.cause or own

    def changed(self, trace: int, subject: str, before: dict, socket: Socket | None) -> None:
        """Trace a change of control information; ask `tracer.enabled` first."""
        after = socket.control() if socket is not None else {}
        self.tracer.state(self.now, trace, subject, before, after)

    # --- waiting ---

    def run(self, waiter: Waiter, timeout: int | None) -> Call:
        """Answer a call now if that is possible, else let it wait for up to `timeout` ns.

        Who stands in a line behind others does not try. Raises ENOBUFS when too much waits.
        """
        line = waiter.line
        if not line and self.settle(waiter):
            return waiter.call
        if timeout == 0:
            self._answer(waiter, waiter.give_up)
            return waiter.call
        if len(self.waiters) >= MAX_WAITING or self.blocked_bytes + waiter.size > MAX_BLOCKED_BYTES:
            waiter.leave()
            raise SocketError("ENOBUFS", "too many calls wait already")
        self.waiters[waiter.call] = waiter
        self.blocked_bytes += waiter.size
        if line is not None:
            line.append(waiter)
        if timeout is not None:
            self.timers.set(waiter, self.now + timeout)
        return waiter.call

    def settle(self, waiter: Waiter) -> bool:
        """Try a waiter; True when its call is answered."""
        try:
            value = waiter.attempt()
        except SocketError as error:
            self._remove(waiter)
            waiter.call.fail(error)
            return True
        if value is None:
            return False
        if waiter.socket is not None:
            self.touched[waiter.socket] = None
        self._remove(waiter)
        waiter.call.resolve(value)
        return True

    def advance(self, socket: Socket) -> None:
        """Something happened to a socket: answer the calls that can be answered now."""
        for line in (socket.connects, socket.accepts, socket.sends, socket.receives):
            while line and self.settle(line[0]):
                pass
        if socket.pollers:
            for poller in list(socket.pollers):
                if poller.call in self.waiters and poller.concerns(socket):
                    self.settle(poller)

    def fail_all(self, waiters: Iterable[Waiter], error: SocketError) -> None:
        """Answer calls with an error."""
        for waiter in list(waiters):
            if waiter.call in self.waiters:
                self._remove(waiter)
                waiter.call.fail(error)

    def cancel(self, call: Call) -> None:
        """Nobody wants the answer any more: stop waiting, and take nothing."""
        waiter = self.waiters.get(call)
        if waiter is not None:
            self._remove(waiter)

    def expire(self) -> None:
        """Answer the calls whose timeout has passed."""
        for waiter in self.timers.expire(self.now):
            self._answer(waiter, waiter.give_up)

    def _answer(self, waiter: Waiter, answer: Any) -> None:
        try:
            value = answer()
        except SocketError as error:
            self._remove(waiter)
            waiter.call.fail(error)
            return
        self._remove(waiter)
        waiter.call.resolve(value)

    def _remove(self, waiter: Waiter) -> None:
        if self.waiters.pop(waiter.call, None) is not None:
            self.blocked_bytes -= waiter.size
            self.timers.cancel(waiter)
            if waiter.line is not None:
                waiter.line.remove(waiter)
        waiter.leave()


def nanoseconds(timeout: float | None) -> int | None:
    """A timeout in seconds as the program gave it; None, and a hundred years, are for ever.
    Raises EINVAL."""
    if timeout is None:
        return None
    if not timeout >= 0:
        raise SocketError("EINVAL", f"a timeout of {timeout} s")
    if timeout > _FOR_EVER:
        return None
    return math.ceil(timeout * SECOND)
