"""A layer that dies where a test says: between any two things that it writes or hands out."""

from __future__ import annotations

from collections.abc import Callable

from sim_programs import MS, SECOND, Program, connected, exchange, two_hosts

from plywire.lab.simulator import Host, World
from plywire.lab.simulator.memory import Memory
from plywire.lab.simulator.node import Killed
from plywire.roles import APP, TCP, Role

UP = bytes(range(256)) * 100
DOWN = bytes(reversed(range(256))) * 60


class Fate:
    """Counts the steps of every layer that it is over; `dies(step)` says at which one it dies."""

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

    def over(self, host: Host, role: Role) -> None:
        """Let a layer of a host live, and die, by this."""
        make = host._make

        def mortal(which):
            layer = make(which)
            return _mortal(layer, self) if which == role else layer

        host._make = mortal
        host.memory[role] = _Memory(self)
        host.nodes[role].start(*_first(host, role))
        host._greet_neighbours(role)
        host.world.settle()


def _first(host: Host, role: Role):
    layer = host._make(role)
    try:
        kept = host._keep(role, layer)
    except Killed:  # before it was up
        return _first(host, role)
    return layer, host._generation(role), kept


def session(
    dies: Callable[[int], bool],
    who: str = "both",
    seed: int = 0,
    up: bytes = UP,
    down: bytes = DOWN,
    roles: tuple[Role, ...] = (TCP,),
    **wire,
) -> Fate:
    """connect, a transfer both ways, close, while layers die; how often they did, in how many
    steps. Every byte arrives once, and nothing is left."""
    world = World(seed, strict=True)
    world.wire("lan", delay=2 * MS, rate=100_000_000, **wire)
    h1, h2 = two_hosts(world)
    fate = Fate(dies)
    for host in (h1, h2):
        for role in roles:
            if who in ("both", host.name):
                fate.over(host, role)
    client, server = connected(world, h1, h2)
    programs = Program(h1, client, up, 5000), Program(h2, server, down, 5000)
    exchange(world, *programs)
    assert bytes(programs[1].received) == up
    assert bytes(programs[0].received) == down
    world.advance(300 * SECOND)
    for host in (h1, h2):
        assert host.describe("tcp", "connections") == []
        assert host.describe("app", "waiting") == 0
        assert not host.layer("app").context.closing
        for role in (TCP, APP):
            assert set(host.memory[role].names()) <= {"stack", "slab-0"}
        assert host.counter("tcp", "tcp_estab_resets") == 0
    return fate


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
