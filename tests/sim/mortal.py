"""A tcp that dies where a test says: between any two things that it writes or hands out."""

from __future__ import annotations

from collections.abc import Callable

from plywire.lab.simulator import Host
from plywire.lab.simulator.memory import Memory
from plywire.lab.simulator.node import Killed
from plywire.roles import TCP


class Fate:
    """Counts the steps of every tcp that it is over; `dies(step)` says at which one it dies."""

    def __init__(self, dies: Callable[[int], bool]) -> None:
        self._dies = dies
        self.steps = 0
        self.deaths = 0

    def step(self) -> bool:
        """Whether this is the last one."""
        self.steps += 1
        dead = self._dies(self.steps)
        self.deaths += dead
        return dead

    def over(self, host: Host) -> Host:
        """Let the tcp of a host live, and die, by this."""
        make = host._make

        def mortal(role):
            layer = make(role)
            return _mortal(layer, self) if role == TCP else layer

        host._make = mortal
        host.memory[TCP] = _Memory(self)
        host.nodes[TCP].start(*_first(host))
        host._greet_neighbours(TCP)
        host.world.settle()
        return host


def _first(host: Host):
    layer = host._make(TCP)
    try:
        kept = host._keep(TCP, layer)
    except Killed:  # before it was up
        return _first(host)
    return layer, host._generation(TCP), kept


def _mortal(layer, fate: Fate):
    """Its outputs get out one by one: when it dies at one, the rest is lost."""
    outputs, receive, expire = layer.outputs, layer.receive, layer.expire
    dead = False

    def mortal_outputs():
        nonlocal dead
        ready = outputs()
        for count in range(len(ready)):
            if fate.step():
                if not count:
                    raise Killed
                dead = True
                return ready[:count]
        return ready

    def mortal_receive(*arguments):
        if dead:
            raise Killed
        receive(*arguments)

    def mortal_expire(now):
        if dead:
            raise Killed
        expire(now)

    layer.outputs, layer.receive, layer.expire = mortal_outputs, mortal_receive, mortal_expire
    return layer


class _Memory(Memory):
    """Each write is a step; a death in a write leaves half of it."""

    def __init__(self, fate: Fate) -> None:
        super().__init__()
        self._fate = fate

    def create(self, name: str, size: int):
        self._step()
        return _Piece(super().create(name, size), self._fate)

    def open(self, name: str):
        return _Piece(super().open(name), self._fate)

    def rename(self, old: str, new: str) -> None:
        self._step()
        super().rename(old, new)

    def remove(self, name: str) -> None:
        self._step()
        super().remove(name)

    def _step(self) -> None:
        if self._fate.step():
            raise Killed


class _Piece:
    def __init__(self, memory: memoryview, fate: Fate) -> None:
        self._memory = memory
        self._fate = fate

    def __len__(self) -> int:
        return len(self._memory)

    def __getitem__(self, where):
        return self._memory[where]

    def __bytes__(self) -> bytes:
        return bytes(self._memory)

    def __setitem__(self, where, data) -> None:
        if self._fate.step():
            if isinstance(where, slice):
                start = where.start or 0
                half = len(data) // 2
                self._memory[start : start + half] = data[:half]
            raise Killed
        self._memory[where] = data
