"""A program in a layer's place, for the suites that drive layers by hand.

The program runs on endpoints in a directory of its own, and this side is both its neighbours. What
is given to `receive` goes to it over the pipe, with a Barrier behind it (proto/pipes.md); when that
has been all the way through, `outputs` has everything that the program made of the message.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections import Counter, deque
from pathlib import Path

import zmq

from plywire.config import HostConfig
from plywire.layer import Output, Program
from plywire.messages import Barrier, Hello, Message
from plywire.roles import Role, neighbours
from plywire.runtime import config as places
from plywire.runtime import program
from plywire.runtime.observer import ask
from plywire.runtime.pipe import Inbox, Outlet

DEADLINE = 20.0
"""Seconds that a program may take to be ready, to greet and to answer a barrier."""
_ROOM = 4096


class ForeignLayer:
    """A program as a `plywire.layer.Layer`, as far as the pipes and the control socket go.

    A Hello given to `receive` makes the neighbour a new one of that generation. `now` is ignored: a
    program lives by a clock of its own. `close` ends the process.
    """

    def __init__(self, role: Role, spec: str, found: Program, host: HostConfig) -> None:
        self.role = role
        self._host = host.name
        self._directory = Path(tempfile.mkdtemp(prefix="plywire-"))
        self._context = zmq.Context()
        self._generations = dict.fromkeys(neighbours(role), 1 << 40)
        self._found: list[Output] = []
        self._tokens = 0
        self._arrived: dict[Role, deque[Message]] = {other: deque() for other in neighbours(role)}
        self.lost: Counter[str] = Counter()
        """What came from the program and could not be read."""
        where = self._directory
        self.inboxes = {
            other: Inbox(self._context, places.inbox(where, host.name, other, role), self.lost)
            for other in neighbours(role)
        }
        self.outlets = {
            other: Outlet(self._context, places.inbox(where, host.name, role, other), _ROOM)
            for other in neighbours(role)
        }
        told = program.settings(role, host, where, spec, True)
        self.process = subprocess.Popen(
            program.command(found, told), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert self.process.stdout.readline() == b"ready\n", f"{spec} ended instead"
            for other in neighbours(role):
                self._greet(other)
            self.settle(neighbours(role)[0])  # not before both are there: it goes to both
        except BaseException:
            self._release()
            raise
        self.outputs()

    def receive(self, message: Message, source: Role, now: int) -> None:
        """Give the program a message, and wait until it has worked it through."""
        if isinstance(message, Hello):
            if message.generation != self._generations[source]:
                self._generations[source] = message.generation
                self._greet(source)
                self.settle(source)
            return
        self.send(source, [message])
        self.settle(source)

    def outputs(self) -> list[Output]:
        """What came out since the last time: for each neighbour in order."""
        found, self._found = self._found, []
        return found

    def expire(self, now: int) -> None:
        """Its timers are its own."""

    def deadline(self) -> None:
        """Nobody outside can know."""

    def describe(self, topic: str, now: int = 0) -> object:
        """Raises KeyError for what the program does not describe."""
        try:
            return ask(self._control, "describe", topic, timeout=DEADLINE)
        except ValueError as error:
            raise KeyError(topic) from error

    @property
    def counters(self) -> Counter[str]:
        return Counter(self.describe("counters"))

    def send(self, source: Role, messages: list[Message]) -> None:
        """Put a batch on the pipe as `source` would; it gets there."""
        outlet = self.outlets[source]
        assert outlet.socket.poll(DEADLINE * 1e3, zmq.POLLOUT), f"{self.role} does not listen"
        assert outlet.send(messages)

    def send_raw(self, source: Role, batch: bytes) -> None:
        """Put any bytes on the pipe."""
        outlet = self.outlets[source]
        assert outlet.socket.poll(DEADLINE * 1e3, zmq.POLLOUT), f"{self.role} does not listen"
        outlet.socket.send(batch)

    def settle(self, source: Role) -> None:
        """Wait until all that was sent as `source`, and what came of it, has been through.

        A barrier goes through the program to the other neighbour, behind what was made for that
        one, and back through it, behind what was made for `source`.
        """
        first, second = source, next(other for other in self.inboxes if other != source)
        for begin, end in ((first, second), (second, first)):
            self._tokens += 1
            barrier = Barrier(0, 1, "suite", self._tokens)
            self.send(begin, [barrier])
            while (message := self.next_for(end)) != barrier:
                if not isinstance(message, Hello):
                    assert not isinstance(message, Barrier), message
                    self._found.append(Output(end, message))

    def close(self) -> None:
        """End the process by the end of its standard input, as a supervisor that dies does."""
        code = self._release()
        assert code == 0, f"ended with {code}"
        assert not self.lost, self.lost

    @property
    def _control(self) -> str:
        return places.control_endpoint(self._directory, self._host, self.role)

    def _greet(self, source: Role) -> None:
        """Say Hello as a new `source`, until both know each other."""
        self.send(source, [Hello(0, source, self._generations[source], 0)])
        heard = asked = False
        while not (heard and asked):
            message = self.next_for(source)
            if isinstance(message, Hello):
                heard |= message.reply == 1
                asked |= message.reply == 0
            else:
                self._found.append(Output(source, message))

    def next_for(self, source: Role) -> Message:
        """The next message for `source`; a Hello is answered."""
        waiting = self._arrived[source]
        if not waiting:
            assert self.inboxes[source].socket.poll(DEADLINE * 1e3), (
                f"nothing more for {source} within {DEADLINE:g} s"
            )
            waiting.extend(self.inboxes[source].receive())
            assert waiting, self.lost
        message = waiting.popleft()
        if isinstance(message, Hello) and not message.reply:
            self.send(source, [Hello(0, source, self._generations[source], 1)])
        return message

    def _release(self) -> int:
        self.process.stdin.close()
        try:
            code = self.process.wait(DEADLINE)
        finally:
            self.process.kill()
            self.process.stdout.close()
            for end in (*self.inboxes.values(), *self.outlets.values()):
                end.close()
            self._context.term()
            shutil.rmtree(self._directory)
        return code
