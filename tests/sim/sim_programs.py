"""Programs for simulated hosts, and a connection between two of them."""

from __future__ import annotations

from plywire.calls import Call
from plywire.errors import SocketError
from plywire.lab.simulator import Host, World

MS = 1_000_000
SECOND = 1_000_000_000


def two_hosts(world: World, **settings) -> tuple[Host, Host]:
    """h1 10.0.0.1 and h2 10.0.0.2 on the wire `lan`."""
    return (
        world.host("h1", "10.0.0.1/24", **settings),
        world.host("h2", "10.0.0.2/24", **settings),
    )


def socket(host: Host) -> int:
    """A new socket."""
    return host.world.wait(host.create_socket())


def listener(host: Host, port: int = 80, backlog: int = 128) -> int:
    """A socket that listens."""
    descriptor = socket(host)
    host.world.wait(host.bind(descriptor, ("", port)))
    host.world.wait(host.listen(descriptor, backlog))
    return descriptor


def connected(world: World, client: Host, server: Host, to: str = "10.0.0.2") -> tuple[int, int]:
    """Both ends of a new connection."""
    listening = listener(server)
    accepted = server.accept(listening)
    descriptor = socket(client)
    world.wait(client.connect(descriptor, (to, 80)), limit=600 * SECOND)
    return descriptor, world.wait(accepted, limit=600 * SECOND).descriptor


def pair() -> tuple[World, Host, Host, int, int]:
    """Two hosts with a connection, and bytes that its programs have not read."""
    world = World()
    h1, h2 = two_hosts(world)
    client, server = connected(world, h1, h2)
    h1.send(client, b"read by nobody yet").result()
    h2.send(server, b"nor this").result()
    world.advance(SECOND)
    return world, h1, h2, client, server


class Program:
    """Writes `data`, shuts its sending side down, reads to the end of the stream, closes.

    Sending and reading run at the same time. error: the first errno that a call came back with.
    """

    def __init__(self, host: Host, descriptor: int, data: bytes, piece: int = 65_536) -> None:
        self.host = host
        self.descriptor = descriptor
        self.received = bytearray()
        self.error: SocketError | None = None
        self.finished = False
        self._left = memoryview(data)
        self._sent = 0  # offsets in the streams, as the client library keeps them
        self._piece = piece
        self._writing = self._reading = True
        self._write(None)
        self._read(None)

    def _write(self, answered: Call | None) -> None:
        while not self._failed(answered):
            if not self._left:
                self._failed(self.host.shutdown(self.descriptor, "write"))
                self._writing = False
                self._close()
                return
            piece, self._left = self._left[: self._piece], self._left[self._piece :]
            answered = self.host.send(self.descriptor, bytes(piece), offset=self._sent)
            self._sent += len(piece)
            if not answered.done:
                answered.then(self._write)
                return

    def _read(self, answered: Call | None) -> None:
        while not self._failed(answered):
            if answered is not None:
                self.received += answered.value.data
                if answered.value.end_of_stream and not answered.value.more:
                    self._reading = False
                    self._close()
                    return
            answered = self.host.recv(self.descriptor, self._piece, offset=len(self.received))
            if not answered.done:
                answered.then(self._read)
                return

    def _failed(self, answered: Call | None) -> bool:
        if answered is not None and answered.error is not None and self.error is None:
            self.error = answered.error
        return self.error is not None

    def _close(self) -> None:
        if not self._writing and not self._reading:
            self.host.close_socket(self.descriptor)
            self.finished = True


def exchange(world: World, *programs: Program, limit: int = 3600 * SECOND) -> None:
    """Run until every program is finished. Raises what one of them failed with."""

    def over() -> bool:
        return all(item.finished or item.error is not None for item in programs)

    reached = world.run(over, limit)
    for item in programs:
        if item.error is not None:
            raise item.error
    assert reached, f"stalled at {world.now / SECOND:.3f} s: {[item.finished for item in programs]}"
