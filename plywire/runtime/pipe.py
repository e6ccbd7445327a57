"""Pipes: batches of messages over ZeroMQ.

Each reader binds an inbox (PULL) and each writer connects an outlet (PUSH) to it, so either side
may start, stop or be replaced in any order. An outlet holds messages for a neighbour only while
that neighbour is connected (ZMQ_IMMEDIATE): a packet boundary whose reader is away or full drops
and counts, as a NIC ring does.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

import zmq

from plywire import envelope
from plywire.errors import ConfigError
from plywire.messages import Hello, Message
from plywire.roles import Role
from plywire.runtime.lock import Lock

Context = zmq.Context
Socket = zmq.Socket

HIGH_WATER = 256
"""Batches that a packet boundary holds on each of its two sides before it drops."""
PACKETS_PER_BATCH = 32
CHUNKS_PER_BATCH = 8
MESSAGES_PER_TURN = 64
"""About how many messages a reader takes before it works through them."""

_RECONNECT_MS = 10
_RECONNECT_MAX_MS = 200


class Inbox:
    """A bound PULL socket. Bad messages are counted as `drop_pipe_<reason>` and passed over.

    Raises ConfigError when the endpoint cannot be bound, Held when another process has it.
    """

    def __init__(self, context: Context, endpoint: str, counters: Counter[str]) -> None:
        self.endpoint = endpoint
        self.counters = counters
        path = endpoint.removeprefix("ipc://")
        self._lock = Lock(f"{path}.lock") if path != endpoint else None
        self.socket = context.socket(zmq.PULL)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RCVHWM, HIGH_WATER)
        self.socket.set(zmq.MAXMSGSIZE, envelope.MAX_BATCH)
        try:
            self.socket.bind(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(endpoint, f"cannot listen here: {error.strerror}") from None

    def receive(self) -> list[Message]:
        """What has arrived, about MESSAGES_PER_TURN at most; never waits."""
        messages: list[Message] = []
        recv = self.socket.recv
        while len(messages) < MESSAGES_PER_TURN:
            try:
                batch = recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            good, errors = envelope.decode(batch)
            for error in errors:
                self.counters[f"drop_pipe_{error.reason}"] += 1
            messages = messages + good if messages else good
        return messages

    def close(self) -> None:
        self.socket.close(0)
        if self._lock is not None:
            self._lock.release()


class Outlet:
    """A connected PUSH socket that drops, and counts, what its reader cannot take now.

    Raises ConfigError for an endpoint that ZeroMQ does not understand.
    """

    def __init__(self, context: Context, endpoint: str, high_water: int = HIGH_WATER) -> None:
        self.endpoint = endpoint
        self.socket = context.socket(zmq.PUSH)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.SNDHWM, high_water)
        self.socket.set(zmq.IMMEDIATE, 1)
        self.socket.set(zmq.RECONNECT_IVL, _RECONNECT_MS)
        self.socket.set(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(endpoint, f"cannot be connected to: {error.strerror}") from None

    def send(self, messages: Sequence[Message]) -> bool:
        """Send one batch; False when the reader is away or full. Never waits."""
        try:
            self.socket.send(envelope.encode(messages), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def writable(self) -> bool:
        """The reader is connected and has room."""
        return bool(self.socket.get(zmq.EVENTS) & zmq.POLLOUT)

    def close(self, linger_ms: int = 0) -> None:
        self.socket.close(linger_ms)


class Pipe:
    """Both directions between a layer and one neighbour, with the Hello exchange.

    lossless: what cannot be sent now waits (the stream's credit bounds it) and goes out in order
    when the neighbour is there again; otherwise it is dropped and counted. What waited for a
    neighbour that was replaced is forgotten: the cores resynchronise after its Hello.
    """

    def __init__(
        self,
        context: zmq.Context,
        role: Role,
        neighbour: Role,
        inbox: str,
        outlet: str,
        generation: int,
        lossless: bool,
        counters: Counter[str],
    ) -> None:
        self.neighbour = neighbour
        self.inbox = Inbox(context, inbox, counters)
        self.outlet = Outlet(context, outlet, 0 if lossless else HIGH_WATER)
        self.counters = counters
        self.peer_generation: int | None = None
        self._hello = Hello(0, role, generation, 0)
        self._lossless = lossless
        self._per_batch = CHUNKS_PER_BATCH if lossless else PACKETS_PER_BATCH
        self._waiting: deque[Message] = deque([self._hello])
        self._introduction: Hello | None = None

    @property
    def waiting(self) -> int:
        """Messages that go out as soon as the neighbour can take them."""
        return len(self._waiting)

    def receive(self) -> list[Message]:
        """What has arrived; a Hello is in it only when it tells of a new neighbour.

        On a packet boundary that Hello is held back until the neighbour can be reached too: the
        core answers it with what the neighbour must know, and that may not be dropped.
        """
        messages = self.inbox.receive()
        if any(type(message) is Hello for message in messages):
            messages = [item for item in messages if type(item) is not Hello or self._met(item)]
        if self._introduction is not None and not self._waiting:
            messages.insert(0, self._introduction)
            self._introduction = None
        return messages

    def send(self, messages: Sequence[Message]) -> None:
        """Send in order; never waits."""
        if self._waiting:
            if self._lossless:
                self._waiting.extend(messages)
                self.flush()
                return
            self.flush()
        step = self._per_batch
        for start in range(0, len(messages), step):
            batch = messages[start : start + step]
            if not self.outlet.send(batch):
                self._refused(messages[start:])
                return

    def flush(self) -> None:
        """Send what waits, as far as the neighbour takes it."""
        waiting = self._waiting
        while waiting:
            batch = [waiting[index] for index in range(min(len(waiting), self._per_batch))]
            if not self.outlet.send(batch):
                return
            for _ in batch:
                waiting.popleft()

    def close(self) -> None:
        self.inbox.close()
        self.outlet.close()

    def _met(self, hello: Hello) -> bool:
        """Note who the neighbour is now; True when the core should hear of it at once."""
        fresh = hello.generation != self.peer_generation
        if fresh:
            self.peer_generation = hello.generation
            self._waiting.clear()
        if not hello.reply:
            self._waiting.append(self._hello._replace(reply=1))
            self.flush()
        if fresh and self._waiting and not self._lossless:
            self._introduction = hello
            return False
        return fresh

    def _refused(self, messages: Iterable[Message]) -> None:
        if self._lossless:
            self._waiting.extend(messages)
        else:
            self.counters[f"drop_{self.neighbour}_away_or_full"] += len(list(messages))
