"""Pipes: batches of messages over ZeroMQ.

Each reader binds an inbox (PULL) and each writer connects an outlet (PUSH) to it, so either side
may start, stop or be replaced in any order. An outlet holds messages for a neighbour only while
that neighbour is connected (ZMQ_IMMEDIATE): a packet boundary whose reader is away or full drops
and counts, as a NIC ring does.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

import zmq

from plywire import envelope
from plywire.errors import ConfigError
from plywire.messages import Fence, Hello, Kept, Message
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

HELD_MAX = HIGH_WATER * PACKETS_PER_BATCH
"""Packets that wait for a neighbour that is being exchanged; more are dropped and counted."""
HOLD_LIMIT = 2_000_000_000
"""Nanoseconds that one waits for a successor before one goes on as if nothing had been said."""

FENCE_ASKED, FENCE_ANSWERED, FENCE_LIFTED = 0, 1, 2

_RECONNECT_MS = 10
_RECONNECT_MAX_MS = 200
_EARLY_MAX = 4096
"""Messages of a stream neighbour that are kept until it is known who it is."""
_ASK_AGAIN = 50_000_000
_ASK_AGAIN_MAX = 1_000_000_000
"""Nanoseconds until a Hello without an answer is sent again."""


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

    def readable(self) -> bool:
        """A batch is there."""
        return bool(self.socket.get(zmq.EVENTS) & zmq.POLLIN)

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

    A neighbour that is being exchanged asks for a fence first: what is to be sent to it then waits
    for its successor, on a packet boundary too. known: what `to_state` of the predecessor's pipe
    said, when this process takes over from one. kept: the generation of the neighbour, when this
    process has recovered what a predecessor that died had with it; predecessors: the generations of
    those, which the neighbour may take this one for.
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
        known: Sequence[int | None] = (None, None),
        kept: int | None = None,
        predecessors: Collection[int] = (),
    ) -> None:
        self.neighbour = neighbour
        self.inbox = Inbox(context, inbox, counters)
        self._new_outlet = partial(Outlet, context, outlet, 0 if lossless else HIGH_WATER)
        self.outlet = self._new_outlet()
        self.renewed: Callable[[Socket, Socket], object] = lambda old, new: None
        """Called when another socket takes the outlet's place, before the old one is closed."""
        self.counters = counters
        self.peer_generation, self._heard = known
        """Who the neighbour is, once it is known that both hear each other; who spoke last."""
        self.fenced: int | None = None
        """The token of the neighbour's last answer to a fence of this side's."""
        self._held_until: int | None = None
        self._keep = False  # a packet boundary that keeps its order: from a fence on
        self._hello = Hello(0, role, generation, 0)
        self._kept = [] if kept is None else [Kept(0, generation, kept)]
        self._line = {generation, *predecessors}
        self._recovered: Kept | None = None  # as the neighbour said it
        self._ask_again_at: int | None = None
        self._pause = _ASK_AGAIN
        self._lossless = lossless
        self._per_batch = CHUNKS_PER_BATCH if lossless else PACKETS_PER_BATCH
        self._waiting: deque[Message] = deque()
        self._early: list[Message] = []
        self._ask()

    @property
    def waiting(self) -> int:
        """Messages that go out as soon as the neighbour can take them."""
        return len(self._waiting)

    def receive(self) -> list[Message]:
        """What has arrived; a Hello is in it only when it introduces a new neighbour.

        That is the answer to a Hello of this side's: the core will say what the neighbour must
        know, and may be sure that it is heard by it, and not by the one before. On a stream
        boundary what the new one says earlier than that comes behind its Hello.
        """
        messages = self.inbox.receive()
        if self._known and not any(type(message) in _OWN for message in messages):
            return messages
        arrived: list[Message] = []
        for message in messages:
            if type(message) is Hello:
                if self._met(message):
                    kept = self._recovered
                    if (
                        kept is not None and kept.generation == message.generation
                        and kept.neighbour in self._line
                    ):  # fmt: skip
                        arrived.append(kept)
                    arrived += [message, *self._early]
                    self._early.clear()
            elif type(message) is Fence:
                self._on_fence(message)
            elif type(message) is Kept:
                self._recovered = message
            elif self._known or not self._lossless:
                arrived.append(message)
            elif len(self._early) < _EARLY_MAX:
                self._early.append(message)
            else:
                self.counters["drop_pipe_before_hello"] += 1
        return arrived

    @property
    def _known(self) -> bool:
        return self.peer_generation is not None and self.peer_generation == self._heard

    def send(self, messages: Sequence[Message]) -> None:
        """Send in order; never waits."""
        if self._waiting or self._keep:
            if self._lossless or self._keep:
                self._wait(messages)
                self.flush()
                return
            self.flush()
        step = self._per_batch
        for start in range(0, len(messages), step):
            batch = messages[start : start + step]
            if not self.outlet.send(batch):
                self._refused(messages[start:])
                return

    def queue(self, messages: Sequence[Message]) -> None:
        """Send in order as soon as the neighbour can take it, on a packet boundary too."""
        self._keep = True
        self.send(messages)

    def flush(self) -> None:
        """Send what waits, as far as the neighbour takes it."""
        waiting = self._waiting
        while waiting and self._held_until is None:
            batch = []
            for message in waiting:
                batch.append(message)
                if type(message) is Fence or len(batch) == self._per_batch:
                    break
            if not self.outlet.send(batch):
                return
            for _ in batch:
                waiting.popleft()
            if type(batch[-1]) is Fence and batch[-1].stage == FENCE_ANSWERED:
                self._held_until = time.monotonic_ns() + HOLD_LIMIT
        if not waiting and self._held_until is None:
            self._keep = False

    @property
    def held(self) -> bool:
        """The neighbour is being exchanged: nothing is sent to it."""
        return self._held_until is not None

    @property
    def blocked(self) -> bool:
        """Something waits, and goes out as soon as the neighbour's inbox takes it."""
        return bool(self._waiting) and not self.held

    def fence(self, token: int) -> bool:
        """Ask the neighbour to hold what it has to send; nothing else is sent after this. False
        when there is no neighbour to ask."""
        if not self._known or not self.outlet.writable():
            return False
        self._waiting.append(Fence(0, FENCE_ASKED, token))
        self.flush()
        return True

    def lift(self, token: int) -> None:
        """This layer stays: the neighbour may go on."""
        self._waiting.append(Fence(0, FENCE_LIFTED, token))
        self.flush()

    def to_state(self) -> list[int | None]:
        """Who the neighbour is: for the pipe of a successor."""
        return [self.peer_generation, self._heard]

    def deadline(self) -> int | None:
        """When `expire` is needed, or None: only while a Hello has no answer, or a successor is
        awaited."""
        if self._held_until is not None:
            return self._held_until
        return None if self._waiting else self._ask_again_at

    def expire(self, now: int) -> None:
        """Ask again: the neighbour was replaced while question or answer was under way. Or give up
        waiting for a successor."""
        if self._held_until is not None and self._held_until <= now:
            self.counters["pipe_no_successor"] += 1
            self._held_until = None
            self.flush()
        if self._ask_again_at is not None and self._ask_again_at <= now:
            self._pause = min(2 * self._pause, _ASK_AGAIN_MAX)
            self._ask()
            self.flush()

    def close(self) -> None:
        self.inbox.close()
        self.outlet.close()

    def _ask(self) -> None:
        self._waiting += [*self._kept, self._hello]
        self._ask_again_at = time.monotonic_ns() + self._pause

    def _on_fence(self, fence: Fence) -> None:
        if fence.stage == FENCE_ASKED:
            self._keep = True
            self._waiting.append(fence._replace(stage=FENCE_ANSWERED))
            self.flush()
        elif fence.stage == FENCE_ANSWERED:
            self.fenced = fence.token
        else:
            self._held_until = None
            self.flush()

    def _wait(self, messages: Sequence[Message]) -> None:
        room = len(messages) if self._lossless else HELD_MAX - len(self._waiting)
        if room < len(messages):
            self.counters[f"drop_{self.neighbour}_away_or_full"] += len(messages) - max(room, 0)
            messages = messages[: max(room, 0)]
        self._waiting.extend(messages)

    def _met(self, hello: Hello) -> bool:
        """Note who the neighbour is; True when that is now sure, and news to the core."""
        if self._held_until is not None:  # the successor is there
            self._held_until = None
            # The old socket may not have noticed yet that its reader has gone.
            old, self.outlet = self.outlet, self._new_outlet()
            self.renewed(old.socket, self.outlet.socket)
            old.close()
        if hello.generation != self._heard:
            if self._heard is not None:
                self._waiting.clear()  # it was for the one before
            self._heard = hello.generation
            self._pause = _ASK_AGAIN
            if not hello.reply:
                self._ask()
        if not hello.reply:
            self._waiting += [*self._kept, self._hello._replace(reply=1)]
            self.flush()
            return False
        self._ask_again_at = None
        fresh = hello.generation != self.peer_generation
        self.peer_generation = hello.generation
        return fresh

    def _refused(self, messages: Iterable[Message]) -> None:
        if self._lossless:
            self._waiting.extend(messages)
        else:
            self.counters[f"drop_{self.neighbour}_away_or_full"] += len(list(messages))


_OWN = frozenset({Hello, Fence, Kept})
"""Messages between pipes: cores see a Hello that is news, with the Kept in front of it if it is
true, and nothing else of them."""
