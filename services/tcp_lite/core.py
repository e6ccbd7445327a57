"""The layer: which sockets there are, what programs ask of them, and whom a segment is for."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import blake2s
from typing import TYPE_CHECKING

from plywire import messages, seq
from plywire.envelope import dump_state, load_state
from plywire.errors import DecodeError, SocketError
from plywire.layer import Output
from plywire.roles import APP, IP, TCP, Role
from plywire.timers import Timers
from plywire.wire import icmp
from plywire.wire.ipv4 import PROTOCOL_TCP
from plywire.wire.tcp import ACK, FIN, RST, SYN, TcpHeader, decode, encode, parse_options
from services.tcp_lite import states
from services.tcp_lite.connection import Connection
from services.tcp_lite.sockets import Key, Unconnected
from services.tcp_lite.states import LISTEN

if TYPE_CHECKING:
    from plywire.config import HostConfig
    from plywire.trace import Tracer

ANY, LOOPBACK = b"\0\0\0\0", b"\x7f\0\0\1"

_FORMAT = "tcp_lite 1"
_PATHS_WAIT = 1_000_000_000  # a connect made before ip has spoken waits so long
_MAX_HELD = 1024
_ISN_TICK = 4_000  # RFC 9293 3.4.1: the clock moves every four microseconds
_UNREACHABLE = ("ENETUNREACH", "EHOSTUNREACH", "ENOPROTOOPT", "ECONNREFUSED")
_HARD = (icmp.PROTOCOL_UNREACHABLE, icmp.PORT_UNREACHABLE)
_QUOTE = struct.Struct("!HHI")


class TcpLite:
    """One host's TCP.

    sockets: what programs hold, by handle. connections: also those that nobody holds any more.
    timers: one a connection, by its key; and one for each connect that is held, by its handle.
    """

    role = "tcp"
    state_format = "tcp_lite/1"

    def __init__(self, host: HostConfig, rng: random.Random, tracer: Tracer) -> None:
        self.cfg = host.tcp
        self.tracer = tracer
        self.counters: Counter[str] = Counter()
        self.timers = Timers()
        self.trace = 0  # of the input that is being worked on
        self.sockets: dict[int, Unconnected | Connection] = {}
        self.connections: dict[Key, Connection] = {}
        self._listening: dict[tuple[bytes, int], Unconnected] = {}
        self._held: dict[int, messages.Connect] = {}  # until the first Paths
        self._paths: tuple | None = None
        self._own = {item.address for item in host.interfaces}
        self._broadcasts = {item.broadcast for item in host.interfaces if item.prefix_length < 31}
        self._rng = rng
        self._isn_key = rng.randbytes(32)
        self._next_handle = 1
        self._app_generation: int | None = None
        self._out: list[Output] = []

    # --- the Layer contract -----------------------------------------------------------------------

    def receive(self, message: messages.Message, source: Role, now: int) -> None:
        """Take one message; what cannot be used is counted and dropped."""
        self.trace = message.trace
        role, handler = _HANDLERS.get(type(message), (None, None))
        if role not in (source, "any"):
            self.drop("unexpected_message", now)
            return
        try:
            handler(self, message, now)
        except DecodeError as error:
            self.counters["tcp_in_errs"] += 1
            self.drop(error.reason, now, getattr(message, "payload", b""))

    def expire(self, now: int) -> None:
        """Run the timers that are due."""
        for key in self.timers.expire(now):
            if isinstance(key, tuple):
                self.trace = self.connections[key].trace
                self.connections[key].timeout(now)
            else:
                self._open(self._held.pop(key), now)

    def deadline(self) -> int | None:
        """When the next timer is due."""
        return self.timers.deadline()

    def outputs(self) -> list[Output]:
        """What is to be sent."""
        out, self._out = self._out, []
        return out

    def snapshot(self) -> bytes:
        """Sockets, timers, paths, counters, and what `outputs` has not given away."""
        unconnected = [item for item in self.sockets.values() if isinstance(item, Unconnected)]
        return dump_state(
            {
                "format": _FORMAT,
                "unconnected": [item.to_state() for item in unconnected],
                "connections": [item.to_state() for item in self.connections.values()],
                "held": [list(item) for item in self._held.values()],
                "timers": self.timers.items(),
                "rest": [self._paths, self._isn_key, self._next_handle, self._app_generation],
                "counters": dict(self.counters),
                "out": [[to, message.KIND, list(message)] for to, message in self._out],
            }
        )

    def restore(self, state: bytes, now: int) -> None:
        """Take over from a snapshot; times in it are of the same clock."""
        saved = load_state(state)
        if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
            raise DecodeError("bad_snapshot", f"not of {_FORMAT}")
        for row in saved["unconnected"]:
            self._enter(Unconnected.from_state(row))
        for row in saved["connections"]:
            connection = Connection(self)
            connection.take_state(row)
            self._enter(connection)
        self._held = {row[1]: messages.Connect(*row) for row in saved["held"]}
        for key, when in saved["timers"]:
            self.timers.set(tuple(key) if isinstance(key, list) else key, when)
        self._paths, self._isn_key, self._next_handle, self._app_generation = saved["rest"]
        self.counters.update(saved["counters"])
        for to, kind, fields in saved["out"]:
            self._out.append(Output(to, messages.KINDS[kind](*fields)))

    def describe(self, topic: str, now: int) -> object:
        """`connections`, `listeners` or `counters`."""
        if topic == "connections":
            return [{"handle": item.handle, **item.view()} for item in self.connections.values()]
        if topic == "listeners":
            return [{"handle": item.handle, **item.control()} for item in self._listening.values()]
        if topic == "counters":
            return dict(self.counters)
        raise KeyError(topic)

    # --- what programs ask: bind, listen, connect -------------------------------------------------

    def _bind(self, message: messages.Bind, now: int) -> None:
        trace, handle, address, port, reuse = message
        try:
            item = self._reserve(handle, address, port, bool(reuse))
        except SocketError as error:
            self.tell(messages.Bound(trace, handle, address, port, error.name, error.cause))
        else:
            self.tell(messages.Bound(trace, handle, address, item.local_port, "", ""))

    def _reserve(self, handle: int, address: bytes, port: int, reuse: bool) -> Unconnected:
        if handle in self.sockets or handle in self._held:
            raise SocketError("EINVAL", "the socket has an address already", TCP)
        if address != ANY and address not in self._own and address[0] != 127:
            raise SocketError("EADDRNOTAVAIL", "not an address of this host", TCP)
        if port == 0:
            used = {other.local_port for other in self._with_port()}
            port = self._free_port(lambda port: port not in used, "EADDRINUSE")
        for other in self._with_port():
            shared = reuse and other.reuse and other.state != LISTEN
            if not shared and _meet(other, address, port):
                raise SocketError("EADDRINUSE", f"port {port} is taken", TCP)
        item = Unconnected(handle, address, port, reuse)
        self._enter(item)
        return item

    def _listen(self, message: messages.Listen, now: int) -> None:
        trace, handle, backlog, _ = message
        try:
            item = self.sockets.get(handle) or self._reserve(handle, ANY, 0, False)
            if isinstance(item, Connection):
                raise SocketError("EINVAL", "the socket is connected", TCP)
            for other in self._listening.values():
                if other is not item and _meet(other, item.local_address, item.local_port):
                    raise SocketError("EADDRINUSE", "another socket listens on this port", TCP)
        except SocketError as error:
            self.tell(messages.Bound(trace, handle, ANY, 0, error.name, error.cause))
            return
        item.backlog = min(backlog, self.cfg.backlog_max)
        if item.state != LISTEN:
            states.transition(item, states.PASSIVE_OPEN, now, self.tracer, self.trace)
            self._enter(item)
        self.tell(messages.Bound(trace, handle, item.local_address, item.local_port, "", ""))

    def _connect(self, message: messages.Connect, now: int) -> None:
        if self._paths is not None or len(self._held) >= _MAX_HELD:
            self._open(message, now)
        else:
            self._held[message.handle] = message
            self.timers.set(message.handle, now + _PATHS_WAIT)

    def _open(self, message: messages.Connect, now: int) -> None:
        """What the program knows, an address and a port, becomes a connection, or an errno."""
        self.trace, handle, remote, port, limit, _ = message
        if remote == ANY:
            remote = LOOPBACK  # as Linux does
        try:
            path = None if self._is_group(remote) else self._path(remote)
            if path is None:
                raise SocketError("ENETUNREACH", "no route", TCP)
            if len(self.connections) >= self.cfg.max_connections:
                raise SocketError("ENOBUFS", "too many connections", TCP)
            place, source = self._local_end(handle, path[0], remote, port)
        except SocketError as error:
            self.tell(messages.Closed(self.trace, handle, error.name, error.cause))
            return
        connection = Connection(self, handle, (*place, remote, port), self.trace)
        connection.reuse = source is not None and source.reuse
        self._enter(connection)
        connection.open(path[1], limit, now)

    def _local_end(
        self, handle: int, source: bytes, remote: bytes, port: int
    ) -> tuple[tuple[bytes, int], Unconnected | None]:
        """The local address and port for a connection, and the bound socket that had them."""
        socket = self.sockets.get(handle)
        if isinstance(socket, Connection) or (socket is not None and socket.state == LISTEN):
            raise SocketError("EISCONN", "the socket is in use", TCP)
        if socket is not None:
            if socket.local_address != ANY:
                source = socket.local_address
            if (source, socket.local_port, remote, port) in self.connections:
                raise SocketError("EADDRNOTAVAIL", "this pair of sockets is in use", TCP)
            return (source, socket.local_port), socket
        bound = {item.local_port for item in self.sockets.values() if type(item) is Unconnected}

        def free(local: int) -> bool:
            return local not in bound and (source, local, remote, port) not in self.connections

        return (source, self._free_port(free, "EADDRNOTAVAIL")), None

    # --- what programs ask of a connection --------------------------------------------------------

    def _of_connection(self, message: messages.Message, now: int) -> None:
        connection = self.sockets.get(message.handle)
        if isinstance(connection, Connection):
            _CALLS[type(message)](connection, message, now)
        elif isinstance(message, messages.Data):  # the others may cross a Closed
            self.drop("unknown_handle", now)

    def _close(self, message: messages.Close, now: int) -> None:
        handle = message.handle
        item = self.sockets.get(handle)
        if isinstance(item, Connection):
            item.close(message, now)
            return
        if item is not None:
            self._give_up(item, now)
        elif self._held.pop(handle, None) is not None:
            self.timers.cancel(handle)
        else:
            return
        self.tell(messages.Closed(message.trace, handle, "", ""))

    def _give_up(self, item: Unconnected, now: int) -> None:
        """A port is free again; connections on it that nobody has accepted are reset."""
        del self.sockets[item.handle]
        if item.state == LISTEN:
            del self._listening[item.local_address, item.local_port]
            states.transition(item, states.CLOSE, now, self.tracer, self.trace)
        for key in sorted(item.waiting):
            self.connections[key].abort(now)

    def _option(self, message: messages.Option, now: int) -> None:
        """No option changes what this TCP does; app keeps what programs read back."""

    def _query(self, message: messages.Query, now: int) -> None:
        item = self.sockets.get(message.handle)
        known = item is not None and item.state != states.CLOSED
        fields = item.control() if known else {}
        self.tell(messages.Info(message.trace, message.handle, fields))

    def _hello(self, message: messages.Hello, now: int) -> None:
        """A new app has forgotten its sockets: nobody holds them any more."""
        if message.role != APP or message.generation == self._app_generation:
            return
        before, self._app_generation = self._app_generation, message.generation
        if before is None:
            return
        for connection in list(self.connections.values()):
            self.release(connection)
            if connection.state != states.TIME_WAIT:
                connection.abort(now)
        for item in list(self.sockets.values()):
            self._give_up(item, now)
        for handle in self._held:
            self.timers.cancel(handle)
        self._held.clear()

    # --- whom a segment is for --------------------------------------------------------------------

    def _segment(self, message: messages.Segment, now: int) -> None:
        if message.protocol != PROTOCOL_TCP:
            self.drop("not_tcp", now)
            return
        self.counters["tcp_in_segs"] += 1
        src, dst = message.src, message.dst
        header, data = decode(message.payload, src, dst)
        port = header.dst_port
        connection = self.connections.get((dst, port, src, header.src_port))
        listener = self._listening.get((dst, port)) or self._listening.get((ANY, port))
        if message.flags & messages.FLAG_BROADCAST or self._is_group(dst) or self._is_group(src):
            self.drop("broadcast", now)  # MUST-57, MUST-63
        elif connection is not None:
            connection.segment(header, data, now)
        elif header.flags & RST:
            self.drop("rst_for_nobody", now)
        elif listener is None or header.flags & ACK:
            self.reset(header, len(data), src, dst)
        elif header.flags & SYN:
            self._incoming(listener, header, (dst, port, src, header.src_port), now)
        else:
            self.drop("no_flags_in_listen", now)

    def _incoming(self, listener: Unconnected, header: TcpHeader, key: Key, now: int) -> None:
        """A SYN for a listener: a socket of its own, with the client's address written into it."""
        if len(listener.waiting) > listener.backlog:
            self.counters["listen_overflows"] += 1
            self.drop("backlog_full", now)
        elif len(self.connections) >= self.cfg.max_connections:
            self.drop("too_many_connections", now)
        else:
            theirs = parse_options(header.options)  # may raise, before there is anything to undo
            path = self._path(key[2])
            connection = Connection(self, self._next_handle, key, self.trace)
            self._next_handle += 2
            connection.listener, connection.reuse = listener.handle, listener.reuse
            listener.waiting.add(key)
            self._enter(connection)
            connection.answer(header, theirs, path[1] if path else 0, now)

    def reset(self, header: TcpHeader, length: int, src: bytes, dst: bytes) -> None:
        """Answer a segment that no connection wants (3.5.2); src: who sent it."""
        if header.flags & ACK:
            number, ack, flags = header.ack, 0, RST
        else:
            length += bool(header.flags & SYN) + (header.flags & FIN)
            number, ack, flags = 0, seq.add(header.seq, length), RST | ACK
        self.counters["tcp_out_rsts"] += 1
        answer = TcpHeader(header.dst_port, header.src_port, number, ack, flags, 0)
        self.send(answer, b"", dst, src, 0)

    def _packet_error(self, message: messages.PacketError, now: int) -> None:
        """Only what quotes the segment in flight is believed (RFC 5927 4.1). Segments may be
        fragmented on their way, so there is no path MTU to be learnt."""
        if message.protocol != PROTOCOL_TCP or len(message.quote) < _QUOTE.size:
            self.drop("icmp_bad_quote", now)
            return
        src_port, dst_port, number = _QUOTE.unpack_from(message.quote)
        connection = self.connections.get((message.src, src_port, message.dst, dst_port))
        if connection is None or not connection.snd_una == number != connection.snd_nxt:
            self.drop("icmp_not_in_flight", now)
        elif message.type != icmp.UNREACHABLE or message.code >= len(_UNREACHABLE):
            self.drop("icmp_ignored", now)
        else:
            who = "this host" if message.local else ".".join(map(str, message.reporter))
            cause = f"ICMP unreachable, code {message.code}, from {who}"
            hard = bool(message.local) or message.code in _HARD
            connection.unreachable(_UNREACHABLE[message.code], cause, hard, now)

    def _new_paths(self, message: messages.Paths, now: int) -> None:
        self._paths = message.rows
        held, self._held = self._held, {}
        for handle, connect in held.items():
            self.timers.cancel(handle)
            self._open(connect, now)

    # --- what connections need of the host --------------------------------------------------------

    def send(self, header: TcpHeader, data: bytes, src: bytes, dst: bytes, trace: int) -> None:
        """A segment to ip, with the trace id of what caused it, or else `trace`."""
        payload = encode(header, data, src, dst)
        segment = messages.Segment(self.trace or trace, PROTOCOL_TCP, src, dst, 0, 0, 0, payload)
        self._out.append(Output(IP, segment))
        self.counters["tcp_out_segs"] += 1

    def tell(self, message: messages.Message) -> None:
        """A message to the app."""
        self._out.append(Output(APP, message))

    def release(self, connection: Connection) -> None:
        """No program holds it any more."""
        self.sockets.pop(connection.handle, None)
        connection.handle = 0

    def forget(self, connection: Connection) -> None:
        """There is no such connection any more."""
        self.timers.cancel(connection.key)
        self.accepted(connection)
        del self.connections[connection.key]

    def accepted(self, connection: Connection) -> None:
        """It waits for no program any more."""
        listener = self.sockets.get(connection.listener)
        if isinstance(listener, Unconnected):
            listener.waiting.discard(connection.key)

    def initial_sequence_number(self, key: Key, now: int) -> int:
        """A clock and a keyed hash of both endpoints: nobody can guess it (3.4.1)."""
        spread = blake2s(b"%b%d:%b%d" % key, key=self._isn_key, digest_size=4).digest()
        return (now // _ISN_TICK + int.from_bytes(spread, "big")) % seq.MOD

    def drop(self, reason: str, now: int, packet: bytes = b"") -> None:
        """Count what goes nowhere."""
        self.counters["drop_" + reason] += 1
        if self.tracer.enabled:
            self.tracer.drop(now, self.trace, "drop_" + reason, packet)

    # --- tables -----------------------------------------------------------------------------------

    def _enter(self, item: Unconnected | Connection) -> None:
        if item.handle:
            self.sockets[item.handle] = item
        if isinstance(item, Connection):
            self.connections[item.key] = item
        elif item.state == LISTEN:
            self._listening[item.local_address, item.local_port] = item

    def _with_port(self) -> Iterator[Unconnected | Connection]:
        """Everything that stands on a port."""
        yield from (item for item in self.sockets.values() if isinstance(item, Unconnected))
        yield from self.connections.values()

    def _free_port(self, free: Callable[[int], bool], error: str) -> int:
        """An ephemeral port, from a random one on (RFC 6056 algorithm 1)."""
        low, count = self.cfg.port_low, self.cfg.port_high - self.cfg.port_low + 1
        first = self._rng.randrange(count)
        for step in range(count):
            port = low + (first + step) % count
            if free(port):
                return port
        raise SocketError(error, "no local port is free", TCP)

    def _path(self, destination: bytes) -> tuple[bytes, int] | None:
        """(source address, MTU) of the longest prefix that matches."""
        value = int.from_bytes(destination, "big")
        matches = [
            (length, source, mtu)
            for prefix, length, source, mtu in self._paths or ()
            if (value ^ int.from_bytes(prefix, "big")) >> (32 - length) == 0
        ]
        return max(matches)[1:] if matches else None

    def _is_group(self, address: bytes) -> bool:
        """No connection has such an end."""
        return address[0] >= 224 or address[0] == 0 or address in self._broadcasts


def _meet(other: Unconnected | Connection, address: bytes, port: int) -> bool:
    """Is the other socket's local end this one, or may it be?"""
    mine = other.local_address
    return other.local_port == port and (ANY in (mine, address) or mine == address)


_CALLS: dict[type, Callable] = {
    messages.Data: Connection.write,
    messages.Credit: Connection.read,
    messages.End: Connection.shut,
    messages.Accepted: Connection.accepted,
}
_HANDLERS: dict[type, tuple[Role, Callable]] = {
    messages.Hello: ("any", TcpLite._hello),
    messages.Segment: (IP, TcpLite._segment),
    messages.PacketError: (IP, TcpLite._packet_error),
    messages.Paths: (IP, TcpLite._new_paths),
    messages.Bind: (APP, TcpLite._bind),
    messages.Listen: (APP, TcpLite._listen),
    messages.Connect: (APP, TcpLite._connect),
    messages.Close: (APP, TcpLite._close),
    messages.Option: (APP, TcpLite._option),
    messages.Query: (APP, TcpLite._query),
    **dict.fromkeys(_CALLS, (APP, TcpLite._of_connection)),
}
