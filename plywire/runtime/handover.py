"""How a layer is exchanged while its neighbours go on: both processes' side of it.

Fence: the neighbours are asked to hold what they have to send. Drain: what was on its way is worked
through. Snapshot: the core's state, with what it still had to send. Then the successor, which has
been started before and waits, restores it, the old process lets go of its endpoints, and the new
one takes them. Whoever runs the lab leads (plywire.lab.swap), by questions at each process's own
endpoint, as plywire.runtime.observer.Control takes them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import zmq

from plywire import envelope
from plywire.calls import Call
from plywire.errors import ConfigError, DecodeError
from plywire.layer import Layer
from plywire.messages import SCHEMA, Message
from plywire.roles import Role
from plywire.runtime.clock import Clock
from plywire.runtime.observer import Control
from plywire.runtime.pipe import CHUNKS_PER_BATCH

if TYPE_CHECKING:
    from plywire.runtime.shell import Shell

MS = 1_000_000
DRAIN_LIMIT = 500 * MS
"""Nanoseconds that the neighbours get to answer the fence; one that does not is not waited for."""
STATE_MAX = 1 << 30
"""Bytes of a snapshot that a successor takes."""


def state_format(layer: Layer, spec: str) -> str:
    """What this layer's snapshots are: only a layer with the same word can read them."""
    return getattr(layer, "state_format", spec)


class Handover:
    """The running process's side. `fence`, then `lift` (it stays) or `leave` (it goes).

    generation: this process's, which a successor that takes the state over takes over too.
    """

    def __init__(self, control: Control, shell: Shell, spec: str, generation: int) -> None:
        self._shell = shell
        self._spec = spec
        self._generation = generation
        self._asked: set[Role] = set()
        self._token = 0
        self._due: int | None = None
        self._call: Call | None = None  # of who waits for the fence
        self._going: Call | None = None  # of who waits until all is released
        control.verbs = {"fence": self._fence, "lift": self._lift, "leave": self._leave}
        self._control = control
        self.socket = control.socket
        self.on_leave: Callable[[], object] = lambda: None
        """What else must be ended when this process leaves; called in its loop."""

    def attend(self, now: int) -> None:
        """Answer what has been asked."""
        self._control.attend(now)

    def deadline(self) -> int | None:
        """When `expire` is next needed, in monotonic time: only while a fence is awaited."""
        return self._due

    def expire(self, now: int) -> None:
        """Wait no longer for neighbours that do not answer."""
        if self._due is not None and self._due <= now:
            self._drained()

    def look(self) -> None:
        """The shell has finished a turn: has every neighbour answered?"""
        if self._call is not None and all(
            self._shell.pipes[role].fenced == self._token for role in self._asked
        ):
            self._drained()

    def left(self) -> None:
        """Everything is released: say so to whoever leads."""
        if self._going is not None:
            self._going.resolve(True)

    def _fence(self, now: int) -> Call:
        """Begin. Answered with what the successor must know."""
        shell = self._shell
        if shell.held is not None:
            raise ValueError("an exchange of this layer is under way")
        shell.flush()
        self._token = random.SystemRandom().getrandbits(63)
        self._call = call = Call()
        shell.held = {}
        self._asked = {role for role, pipe in shell.pipes.items() if pipe.fence(self._token)}
        self._due = time.monotonic_ns() + DRAIN_LIMIT
        self.look()
        return call

    def _drained(self) -> None:
        """All that was on its way is worked through, or nobody answers: take the state."""
        shell = self._shell
        self._due = None
        call, self._call = self._call, None
        if call is None:
            return
        shell.flush()  # into `held`, but what is for a device goes there: it is this process's
        shell.frozen = True
        silent = sorted(r for r in self._asked if shell.pipes[r].fenced != self._token)
        call.resolve(
            {
                "schema": SCHEMA,
                "format": state_format(shell.layer, self._spec),
                "generation": self._generation,
                "state": shell.layer.snapshot(),
                "pipes": {role: pipe.to_state() for role, pipe in shell.pipes.items()},
                "held": {role: _batches(rest) for role, rest in shell.held.items()},
                "ports": {index: port.to_state() for index, port in shell.ports.items()},
                "silent": silent,
            }
        )

    def _lift(self, now: int) -> bool:
        """It was for nothing: go on where the fence was. Nothing is lost."""
        shell = self._shell
        if shell.held is None:
            return False
        self._due = self._call = None
        held, shell.held, shell.frozen = shell.held, None, False
        for pipe in shell.pipes.values():
            pipe.lift(self._token)
        for role, messages in held.items():
            shell.pipes[role].queue(messages)
        shell.thaw()
        return True

    def _leave(self, now: int) -> Call:
        """Let go of everything; answered when that is done."""
        if not self._shell.frozen:
            raise ValueError("fence first")
        self._going = Call()
        self._shell.leaving = True
        self.on_leave()
        return self._going


class Successor:
    """A process that waits to take over: it has its core, and nothing that its predecessor holds.

    Questions: `take` (a fenced layer's answer; restores and proves the state), `go` (take over).
    """

    def __init__(self, control: Control, layer: Layer, spec: str, clock: Clock) -> None:
        self._layer = layer
        self._spec = spec
        self._clock = clock
        self.taken: dict[str, Any] | None = None
        """What the predecessor handed over; None when this one begins anew."""
        self._go: Call | None = None
        control.verbs = {"take": self._take, "go": self._started, "format": self._format}
        self._control = control

    def wait(self, wakeups: Sequence[int]) -> bool:
        """Answer until it is time to go; False when one of the descriptors says to stop."""
        poller = zmq.Poller()
        poller.register(self._control.socket, zmq.POLLIN)
        for wakeup in wakeups:
            poller.register(wakeup, zmq.POLLIN)
        while self._go is None:
            ready = dict(poller.poll())
            if any(wakeup in ready for wakeup in wakeups):
                return False
            self._control.attend(self._clock.now())
        return True

    def done(self) -> None:
        """It has taken over."""
        self._go.resolve(True)

    def held(self) -> dict[Role, list[Message]]:
        """What the predecessor still had to send, by neighbour."""
        rows = self.taken["held"] if self.taken else {}
        return {
            role: [message for batch in batches for message in envelope.decode(batch)[0]]
            for role, batches in rows.items()
        }

    def _format(self, now: int) -> str:
        return state_format(self._layer, self._spec)

    def _take(self, now: int, taken: dict[str, Any]) -> int:
        """Restore, and prove that what is there can be read, shown and handed on again. Returns
        the size of the state. Raises ConfigError with the reason why not."""
        if taken["schema"] != SCHEMA:
            raise ConfigError("snapshot", f"schema {taken['schema']}, this layer's is {SCHEMA}")
        if taken["format"] != self._format(now):
            reason = f"{taken['format']}, {self._spec} reads {self._format(now)}"
            raise ConfigError("snapshot", reason)
        layer = self._layer
        try:
            layer.restore(taken["state"], now)
            layer.deadline()
            again = layer.snapshot()
        except (DecodeError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            reason = f"{self._spec} cannot read it: {type(error).__name__}: {error}"
            raise ConfigError("snapshot", reason) from error
        if len(again) < len(taken["state"]) // 2:
            raise ConfigError("snapshot", f"{self._spec} lost most of it: {len(again)} bytes")
        self.taken = taken
        return len(taken["state"])

    def _started(self, now: int) -> Call:
        self._go = Call()
        return self._go


def _batches(messages: list[Message]) -> list[bytes]:
    step = CHUNKS_PER_BATCH
    return [envelope.encode(messages[at : at + step]) for at in range(0, len(messages), step)]
