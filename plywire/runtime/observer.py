"""How a layer is watched from outside: a publisher of trace events and a socket for questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Self

import zmq

from plywire import envelope
from plywire.calls import Call
from plywire.errors import ConfigError, DecodeError, SocketError
from plywire.trace import Event, Tracer

EVENTS_PER_MESSAGE = 256
_HIGH_WATER = 1000


class Publisher:
    """Trace events for whoever subscribes, and for nobody else.

    A message is `dump_state([lost, [event, ...]])`: how many events were lost before it, and
    events as arrays. One without events answers each subscription: from then on all is seen, and
    all that was traced before has been sent.
    """

    def __init__(self, context: zmq.Context, endpoint: str) -> None:
        self.counters: Counter[str] = Counter()
        self.socket = context.socket(zmq.XPUB)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.SNDHWM, _HIGH_WATER)
        self.socket.set(zmq.XPUB_VERBOSER, 1)
        self.socket.set(zmq.XPUB_NODROP, 1)
        self.socket.bind(endpoint)
        self._subscribers = 0
        self._events: list[Event] = []
        self._lost = 0

    def attend(self, tracer: Tracer) -> None:
        """Switch tracing on with the first subscriber and off with the last."""
        while True:
            try:
                word = self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            if word[:1] == b"\x01":
                self._subscribers += 1
                tracer.sink = self._events.append
                tracer.enabled = True
                self.flush()
                self._publish([])
            elif word[:1] == b"\x00" and self._subscribers:
                self._subscribers -= 1
                if not self._subscribers:
                    tracer.enabled = False
                    tracer.sink = None
                    self._events.clear()

    def flush(self) -> None:
        """Send the events gathered since the last time."""
        events = self._events
        if not events:
            return
        for start in range(0, len(events), EVENTS_PER_MESSAGE):
            self._publish(events[start : start + EVENTS_PER_MESSAGE])
        events.clear()

    def close(self) -> None:
        self.socket.close(0)

    def _publish(self, events: list[Event]) -> None:
        try:
            self.socket.send(envelope.dump_state([self._lost, events]), zmq.NOBLOCK)
            self._lost = 0
        except zmq.Again:
            self._lost += len(events)
            self.counters["trace_events_lost"] += len(events)


class Control:
    """Questions about a layer: `[verb, ...]`, answered `["ok", answer]` or `["error", why]`.

    A verb that returns a Call is answered when the call is. longest: bytes of a question.
    """

    def __init__(
        self,
        context: zmq.Context,
        endpoint: str,
        verbs: dict[str, Callable[..., object]],
        longest: int = 1 << 20,
    ) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.MAXMSGSIZE, longest)
        self.socket.bind(endpoint)
        self.verbs = verbs

    def attend(self, now: int) -> None:
        """Answer what has been asked. Each verb is called with `now` and its arguments."""
        while True:
            try:
                sender, *rest = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            answer = self._answer(rest[-1] if rest else b"", now)
            if isinstance(answer, Call):
                answer.then(partial(self._late, [sender, *rest[:-1]]))
            else:
                self._send([sender, *rest[:-1]], answer)

    def close(self, linger_ms: int = 0) -> None:
        self.socket.close(linger_ms)

    def _answer(self, request: bytes, now: int) -> list | Call:
        try:
            verb, *arguments = envelope.load_state(request)
            answer = self.verbs[verb](now, *arguments)
        except (SocketError, ConfigError) as error:
            return ["error", str(error)]
        except (DecodeError, KeyError, TypeError, ValueError) as error:
            return ["error", f"{type(error).__name__}: {error}"]
        return answer if isinstance(answer, Call) else ["ok", answer]

    def _late(self, way_back: list[bytes], call: Call) -> None:
        error = call.error
        self._send(way_back, ["ok", call.value] if error is None else ["error", str(error)])

    def _send(self, way_back: list[bytes], answer: list) -> None:
        try:
            self.socket.send_multipart([*way_back, envelope.dump_state(answer)], zmq.NOBLOCK)
        except zmq.ZMQError:
            return  # who asked has gone


class Asker:
    """Puts questions to control sockets. A context manager."""

    def __init__(self) -> None:
        self._context = zmq.Context()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything."""
        self._context.destroy(0)

    def ask(self, endpoint: str, *request: object, timeout: float = 2.0) -> object:
        """Put one question and wait for the answer.

        Raises TimeoutError when there is none in `timeout` seconds, ValueError when the layer
        refuses.
        """
        with self._context.socket(zmq.REQ) as socket:
            socket.set(zmq.LINGER, 0)
            socket.connect(endpoint)
            socket.send(envelope.dump_state(list(request)))
            if not socket.poll(timeout * 1000):
                raise TimeoutError(f"{endpoint} did not answer within {timeout:g} s")
            status, answer = envelope.load_state(socket.recv())
        if status != "ok":
            raise ValueError(str(answer))
        return answer


def ask(endpoint: str, *request: str, timeout: float = 2.0) -> object:
    """One question, as Asker.ask puts it."""
    with Asker() as asker:
        return asker.ask(endpoint, *request, timeout=timeout)
