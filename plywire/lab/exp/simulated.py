"""One run in the simulator: virtual time, and the same numbers every time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plywire.calls import Call
from plywire.config import LabConfig
from plywire.lab.exp.file import ADDRESSES, HOSTS, PORT, RECEIVER, SENDER, Experiment, Run, Swap
from plywire.lab.exp.outcome import Exchange, Outcome
from plywire.lab.exp.samples import Samples
from plywire.lab.exp.workload import ClosedEarly, Program, Progress, Send
from plywire.lab.simulator import Host, World
from plywire.profiles import SECOND
from plywire.roles import LAYERS, TCP

_CLOSE_LIMIT = 2 * SECOND
_WARM_UP_LIMIT = 10 * SECOND


def run(experiment: Experiment, run: Run, folder: Path) -> Outcome:
    """Run it; the capture goes to `capture.pcapng` in `folder`."""
    cell = run.cell
    world = World(run.seed)
    hosts = {end: _host(world, cell.variant.lab, host) for end, host in HOSTS.items()}
    _warm_up(world, hosts)
    for end, settings in cell.settings.items():
        world.wire("lan").impair(sender=HOSTS[end], **asdict(settings))
    with world.capture(folder / "capture.pcapng"):
        return _Connection(experiment, run, world, hosts).run()


def _host(world: World, lab: LabConfig, name: str) -> Host:
    config = lab.hosts[name]
    address = next(ADDRESSES[end] for end, host in HOSTS.items() if host == name)
    return world.host(
        name, f"{address}/24", implementations=config.implementations, profile=config.profile,
        **{role: asdict(getattr(config, role)) for role in LAYERS},
    )  # fmt: skip


def _warm_up(world: World, hosts: Mapping[str, Host]) -> None:
    """A connection on the wire as it is, so that ARP is no part of what is measured."""
    sender, receiver = hosts[SENDER], hosts[RECEIVER]
    listener = receiver.create_socket().result()
    receiver.bind(listener, ("", PORT + 1)).result()
    receiver.listen(listener).result()
    client = sender.create_socket().result()
    world.wait(sender.connect(client, (ADDRESSES[RECEIVER], PORT + 1)), _WARM_UP_LIMIT)
    sender.close_socket(client)
    receiver.close_socket(listener)
    world.advance(SECOND)


class _Connection:
    """The one connection of a run, and the programs at its ends."""

    def __init__(
        self, experiment: Experiment, run: Run, world: World, hosts: Mapping[str, Host]
    ) -> None:
        self._run, self._world, self._hosts = run, world, hosts
        self._limit = experiment.limit
        self._progress = Progress(experiment.workload, lambda: world.now)
        self._samples = Samples(experiment.sample)
        self._swaps = list(run.cell.variant.swaps)
        self._swapped: list[Exchange] = []
        self._error = ""
        self._local = ""
        self._row: dict[str, Any] = {}

    def run(self) -> Outcome:
        """From connect() to the last byte, or to the limit."""
        world, progress = self._world, self._progress
        sender, receiver = self._hosts[SENDER], self._hosts[RECEIVER]
        options = self._run.cell.variant.sockets
        listener = _socket(receiver, options[RECEIVER])
        receiver.bind(listener, ("", PORT)).result()
        receiver.listen(listener).result()
        receiver.accept(listener).then(self._accepted)
        self._began = began = world.now
        client = _socket(sender, options[SENDER])
        self._client = client
        sender.connect(client, (ADDRESSES[RECEIVER], PORT)).then(self._connected)
        end = began + self._limit
        next_sample = began
        while not self._over() and world.now < end:
            if world.now >= next_sample:
                self._sample()
                next_sample = world.now + self._samples.interval
            target = min(next_sample, end)
            if not world.run(self._needs_attention, target - world.now):
                world.advance_to(target)  # also when nothing was pending before
            while self._swap_is_due():
                self._exchange(self._swaps.pop(0))
        self._sample()
        outcome = Outcome.of(
            progress, began, self._error, self._row, self._samples, world.now,
            len(self._run.cell.variant.swaps), self._swapped,
        )  # fmt: skip
        sender.close_socket(client)
        world.run(limit=_CLOSE_LIMIT)
        return outcome

    def _over(self) -> bool:
        return self._progress.ended is not None or bool(self._error)

    def _needs_attention(self) -> bool:
        return self._over() or self._swap_is_due()

    def _swap_is_due(self) -> bool:
        return bool(self._swaps) and self._progress.share >= self._swaps[0].after

    def _exchange(self, swap: Swap) -> None:
        self._hosts[swap.end].replace(swap.layer, swap.spec or None, swap.numbers())
        at = (self._world.now - self._began) / 1e9
        self._swapped.append(Exchange(swap.end, swap.layer, at, None))

    def _sample(self) -> None:
        for row in self._hosts[SENDER].describe(TCP, "connections"):
            if row["remote_port"] == PORT:
                self._row = row
                self._samples.take(self._world.now - self._began, row, self._progress.delivered)

    # --- the programs: each goes on when its call is answered -------------------------------------

    def _accepted(self, call: Call) -> None:
        if call.error is None:
            _Running(self, self._hosts[RECEIVER], call.value.descriptor, self._progress.receiver())

    def _connected(self, call: Call) -> None:
        if call.error is not None:
            self.failed(str(call.error))
            return
        _Running(self, self._hosts[SENDER], self._client, self._progress.sender(self._run.seed))

    def failed(self, reason: str) -> None:
        """The first reason counts."""
        self._error = self._error or reason


class _Running:
    """A program at work on a descriptor."""

    def __init__(self, owner: _Connection, host: Host, descriptor: int, program: Program) -> None:
        self._owner, self._host, self._descriptor = owner, host, descriptor
        self._program = program
        self._next(None)

    def _next(self, answered: Call | None) -> None:
        while True:
            if answered is not None and answered.error is not None:
                self._owner.failed(str(answered.error))
                return
            try:
                wish = self._program.send(_data(answered))
            except StopIteration:
                return
            except ClosedEarly:
                self._owner.failed("the stream ended early")
                return
            if isinstance(wish, Send):
                answered = self._host.send(self._descriptor, wish.data)
            else:
                answered = self._host.recv(self._descriptor, wish.size)
            if not answered.done:
                answered.then(self._next)
                return


def _socket(host: Host, options: Mapping[str, int]) -> int:
    descriptor = host.create_socket().result()
    for name, value in options.items():
        host.set_option(descriptor, name, value).result()
    return descriptor


def _data(answered: Call | None) -> bytes | None:
    return getattr(answered.value, "data", None) if answered is not None else None
