"""The contract of a layer: a state machine without I/O, clock, threads or ambient randomness.

Equal inputs give equal outputs. Time is an integer of nanoseconds and is always an argument;
randomness and the tracer are given to the factory. The same core runs in a process under
`plywire.runtime.shell` and as an object in the simulator.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from plywire.calls import Call
from plywire.messages import Message
from plywire.roles import Role

if TYPE_CHECKING:
    from plywire.config import HostConfig
    from plywire.trace import Tracer


class Output(NamedTuple):
    """A message on its way out of a layer."""

    to: Role
    message: Message


class Layer(Protocol):
    """What every layer offers to whoever runs it."""

    role: Role
    """Which place in a host it can take."""

    state_format: str
    """What its snapshots are: a successor with the same word can read them, and no other. It
    changes with what a snapshot holds."""

    counters: Counter[str]
    """Totals since the start, named as `nstat` would (`tcp_retrans_segs`, `drop_bad_checksum`)."""

    def receive(self, message: Message, source: Role, now: int) -> None:
        """Take one message from a neighbour. Bad packets are counted and dropped, never raised."""

    def expire(self, now: int) -> None:
        """Run the timers that are due."""

    def deadline(self) -> int | None:
        """When `expire` is next needed, or None."""

    def outputs(self) -> list[Output]:
        """What is to be sent, in order; the list is handed over, and the next one starts empty."""

    def snapshot(self) -> bytes:
        """Everything that a successor needs to go on where this layer stands."""

    def restore(self, state: bytes, now: int) -> None:
        """Take over from a snapshot, in a layer that has received nothing yet."""

    def describe(self, topic: str, now: int) -> object:
        """A view for people (`connections`, `neighbours`, `routes`, ...): dicts, lists, str, int.

        Raises KeyError for a topic that the layer does not have.
        """


class Askable(Protocol):
    """A layer may also do something on request and answer later (ip: `ping`)."""

    def ask(self, verb: str, arguments: list, now: int) -> Call:
        """Begin; the call is answered in time. Raises KeyError for an unknown verb, ValueError
        for arguments that cannot be."""


class Survivor(Protocol):
    """A layer may also keep what it has promised where its own death does not reach."""

    def keep_in(
        self, store: Any, now: int, say: Callable[[str], object], restored: bool = False
    ) -> dict[Role, int]:
        """Keep it in `store` (`plywire.region.Store`) from now on, always before `outputs`
        hands out what depends on it; called before anything is received.

        What a predecessor has left there is taken up, unless this layer was `restored` from its
        snapshot: then it is its own already. say: a line for the log. Returns the neighbours, with
        their generation, that may go on with this layer as with the one before.
        """


Factory = Callable[["HostConfig", random.Random, "Tracer"], Layer]
"""How an implementation is made: `factory(host, rng, tracer)`."""


class Program(NamedTuple):
    """An implementation that is a program of its own, in any language: it speaks the pipes.

    role: the place in a host that it can take. command: what to run, looked up in PATH. It is
    given one more argument, its settings (`proto/pipes.md`, "Starting a program").
    """

    role: Role
    command: tuple[str, ...]
