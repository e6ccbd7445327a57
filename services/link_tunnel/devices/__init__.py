"""The UDP socket of a tunnel's interface: one IP packet, one datagram."""

from __future__ import annotations

import errno
import random
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from plywire.config import HostConfig, InterfaceConfig
from plywire.errors import ConfigError
from plywire.messages import MAX_PACKET, Barrier, Frame, Message
from plywire.runtime.clock import REAL_CLOCK, Clock
from plywire.runtime.pipe import Context
from plywire.tunnels import Endpoint, PeerTable, endpoint

DATAGRAMS_PER_TURN = 64
MAX_PAYLOAD = 65_507
"""What a UDP datagram holds at most, in an IPv4 packet without options."""

_BUFFER = 1 << 20  # bytes that wait in the kernel's socket, each way
_DST = slice(16, 20)


class TunnelPort:
    """A tunnel's end. What does not come from a peer of the lab file is dropped and counted.

    A packet that comes in gets a trace id of its own, so that what it causes can be followed on
    this host; its sent_at is 0, for nobody knows. Where a packet goes is told by its destination:
    a group's goes to every peer.
    """

    def __init__(self, interface: InterfaceConfig, peers: PeerTable, where: str) -> None:
        self.ifindex = interface.ifindex
        self.counters: Counter[str] = Counter()
        self._peers = peers
        self._groups = {interface.broadcast} if interface.prefix_length < 31 else set()
        self._trace = random.SystemRandom().getrandbits(48)
        self._socket = _open(endpoint(interface.listen), where)

    def pollable(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def receive(self) -> list[Message]:
        """Up to DATAGRAMS_PER_TURN packets; never waits."""
        messages: list[Message] = []
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                data, source = self._socket.recvfrom(MAX_PACKET)
            except BlockingIOError:
                break  # that was all
            except OSError as error:
                self._count(error)
                break
            if source not in self._peers.endpoints:
                self.counters["drop_tunnel_unknown_peer"] += 1
                continue
            self._trace += 1
            messages.append(Frame(self._trace, self.ifindex, 0, data))
        return messages

    def send(self, messages: Sequence[Message]) -> None:
        """A datagram for each packet; what the kernel does not take is counted as
        `drop_tunnel_<errno name>`."""
        for message in messages:
            for where in self._ends(message.frame[_DST]):
                try:
                    self._socket.sendto(message.frame, where)
                except OSError as error:
                    self._count(error)

    def answer(self, barrier: Barrier) -> None:
        """Nothing: a tunnel's peers ask for no barriers."""

    def deadline(self) -> int | None:
        """None: it has no timers."""
        return None

    def expire(self, now: int) -> list[Message]:
        """Nothing."""
        return []

    def to_state(self) -> list:
        """Nothing: a successor reads the same lab file."""
        return []

    def restore(self, state: list) -> None:
        """Nothing is missing."""

    def close(self, successor: bool = False) -> None:
        """Let go of the port; there is nobody to say goodbye to."""
        self._socket.close()

    def _ends(self, destination: bytes) -> Sequence[Endpoint]:
        if destination[0] >= 224 or destination in self._groups:
            return sorted(self._peers.endpoints)
        where = self._peers.lookup(destination)
        if where is None:  # routed by way of a neighbour that the lab file has no route for
            self.counters["drop_tunnel_no_peer"] += 1
            return ()
        return (where,)

    def _count(self, error: OSError) -> None:
        self.counters[f"drop_tunnel_{errno.errorcode.get(error.errno, 'error').lower()}"] += 1


def open_ports(
    host: HostConfig,
    context: Context,
    directory: Path | str,
    peers: Mapping[str, Sequence[str]],
    clock: Clock = REAL_CLOCK,
) -> list[TunnelPort]:
    """A port for each interface of `host`. Raises ConfigError with a remedy.

    Peers are those of the interfaces; nothing else is asked for.
    """
    ports: list[TunnelPort] = []
    try:
        for interface in host.interfaces:
            where = f"hosts.{host.name}.{interface.name}"
            if interface.device != "tunnel":
                raise ConfigError(
                    f"{where}.device",
                    f'services.link_tunnel has tunnels only: device = "tunnel", not'
                    f" {interface.device!r}",
                )
            if interface.mtu > MAX_PAYLOAD:
                raise ConfigError(f"{where}.mtu", f"a UDP datagram holds {MAX_PAYLOAD} at most")
            table = PeerTable(interface, host.routes)
            ports.append(TunnelPort(interface, table, f"{where}.listen"))
    except BaseException:
        for port in ports:
            port.close()
        raise
    return ports


def _open(where: Endpoint, name: str) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            opened.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        opened.bind(where)
    except OSError as error:
        opened.close()
        text = f"udp://{where[0]}:{where[1]}"
        raise ConfigError(name, f"cannot listen at {text}: {error.strerror}") from None
    return opened
