"""The layer: which sockets there are, what programs ask of them, and whom a segment is for."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from plywire import messages, seq
from plywire.envelope import dump_state, load_state
from plywire.errors import DecodeError
from plywire.isn import InitialSequenceNumbers
from plywire.layer import Output
from plywire.paths import ANY, PathTable
from plywire.ports import Ports, Reservation
from plywire.roles import APP, IP, Role
from plywire.timers import Timers
from plywire.wire import icmp
from plywire.wire.ipv4 import PROTOCOL_TCP
from plywire.wire.tcp import ACK, FIN, RST, SYN, TcpHeader, decode, encode
from services.tcp_lite import states
from services.tcp_lite.app_calls import AppCalls
from services.tcp_lite.block import Key, Listener
from services.tcp_lite.connection import Connection

if TYPE_CHECKING:
    from plywire.config import HostConfig
    from plywire.trace import Tracer

_FORMAT = "tcp_lite 2"
_UNREACHABLE = ("ENETUNREACH", "EHOSTUNREACH", "ENOPROTOOPT", "ECONNREFUSED")
_HARD = (icmp.PROTOCOL_UNREACHABLE, icmp.PORT_UNREACHABLE)
_QUOTE = struct.Struct("!HHI")


class TcpLite:
    """One host's TCP.

    reservations, waiting, listeners, by_handle: what programs hold. connections: also those that
    nobody holds any more. timers: one a connection, by its key; and those of `plywire.app_calls`.
    """

    role = "tcp"
    state_format = "tcp_lite/2"

    def __init__(self, host: HostConfig, rng: random.Random, tracer: Tracer) -> None:
        self.cfg = host.tcp
        self.tracer = tracer
        self.counters: Counter[str] = Counter()
        self.timers = Timers()
        self.trace = 0  # of the input that is being worked on
        self.reservations: dict[int, Reservation] = {}
        self.listeners: dict[int, Listener] = {}
        self.by_handle: dict[int, Connection] = {}
        self.connections: dict[Key, Connection] = {}
        self.paths = PathTable(host)
        self.isn = InitialSequenceNumbers(rng.randbytes(32))
        self.ports = Ports(self.cfg.port_low, self.cfg.port_high, rng.randbytes(32))
        self.waiting: dict[int, messages.Connect] = {}
        self._next_handle = 1
        self._app = AppCalls(self, rng.getrandbits(16))
        self._handlers: dict[type, tuple[Role, Callable]] = {
            messages.Hello: ("any", self._hello),
            messages.Segment: (IP, self._segment),
            messages.PacketError: (IP, self._packet_error),
            messages.Paths: (IP, self._new_paths),
            **{kind: (APP, handler) for kind, handler in self._app.handlers.items()},
        }
        self._app_generation: int | None = None
        self._out: list[Output] = []

    # --- the Layer contract -----------------------------------------------------------------------

    def receive(self, message: messages.Message, source: Role, now: int) -> None:
        """Take one message; what cannot be used is counted and dropped."""
        self.trace = message.trace
        role, handler = self._handlers.get(type(message), (None, None))
        if role not in (source, "any"):
            self.drop("unexpected_message", now)
            return
        try:
            handler(message, now)
        except DecodeError as error:
            self.counters["tcp_in_errs"] += 1
            self.drop(error.reason, now, getattr(message, "payload", b""))

    def expire(self, now: int) -> None:
        """Run the timers that are due."""
        for key in self.timers.expire(now):
            if key in self.connections:
                self.trace = self.connections[key].trace
                self.connections[key].timeout(now)
            else:
                self._app.connect_now(self.waiting.pop(key[0]), now)

    def deadline(self) -> int | None:
        """When the next timer is due."""
        return self.timers.deadline()

    def outputs(self) -> list[Output]:
        """What is to be sent."""
        out, self._out = self._out, []
        return out

    def snapshot(self) -> bytes:
        """Sockets, timers, paths, counters, and what `outputs` has not given away."""
        return dump_state({
            "format": _FORMAT,
            "bound": [item.to_state() for item in self.reservations.values()],
            "listeners": [item.to_state() for item in self.listeners.values()],
            "connections": [item.to_state() for item in self.connections.values()],
            "held": [list(item) for item in self.waiting.values()],
            "timers": self.timers.items(),
            "host": [self.paths.to_state(), self.ports.to_state(), self.isn.key],
            "next": [self._next_handle, self._app.bind_seed, self._app_generation],
            "counters": dict(self.counters),
            "out": [[to, message.KIND, list(message)] for to, message in self._out],
        })  # fmt: skip

    def restore(self, state: bytes, now: int) -> None:
        """Take over from a snapshot; times in it are of the same clock."""
        saved = load_state(state)
        if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
            raise DecodeError("bad_snapshot", f"not of {_FORMAT}")
        paths, ports, self.isn.key = saved["host"]
        self.paths.restore(paths)
        self.ports.restore(ports)
        self.reservations = {row[0]: Reservation(*row) for row in saved["bound"]}
        for row, *rest in saved["listeners"]:
            self.listeners[row[0]] = Listener(Reservation(*row), *rest)
        listening = [item.reservation for item in self.listeners.values()]
        for held in (*self.reservations.values(), *listening):
            self.ports.adopt(held)
        for fields in saved["connections"]:
            self.enter(Connection(self, **fields))
        self.waiting = {row[1]: messages.Connect(*row) for row in saved["held"]}
        for key, when in saved["timers"]:
            self.timers.set(tuple(key), when)
        self._next_handle, self._app.bind_seed, self._app_generation = saved["next"]
        self.counters.update(saved["counters"])
        for to, kind, fields in saved["out"]:
            self._out.append(Output(to, messages.KINDS[kind](*fields)))

    def describe(self, topic: str, now: int) -> object:
        """`connections` and `listeners` (as `ss` has them), or `counters`."""
        if topic == "connections":
            return [_row(item) for item in self.connections.values()]
        if topic == "listeners":
            return [
                {"handle": handle, **item.control(), "receive_queue": self._waiting(handle)}
                for handle, item in self.listeners.items()
            ]
        if topic == "counters":
            return dict(self.counters)
        raise KeyError(topic)

    # --- what programs hold -----------------------------------------------------------------------

    def new(self, handle: int, key: Key, reuse: bool, **more: object) -> Connection:
        """A block for these endpoints."""
        names = ("local_address", "local_port", "remote_address", "remote_port")
        ends = dict(zip(names, key, strict=True))
        return Connection(self, handle=handle, trace=self.trace, reuse=reuse, **ends, **more)

    def enter(self, connection: Connection) -> None:
        """Make it findable."""
        key = connection.key
        self.connections[key] = connection
        self.ports.connect(key, key[0], key[1], connection.reuse)
        if connection.handle:
            self.by_handle[connection.handle] = connection

    def close_listener(self, item: Listener, now: int) -> None:
        """A listener goes, and with it the connections that nobody has accepted."""
        handle = item.reservation.handle
        del self.listeners[handle]
        self.ports.release(item.reservation)
        self.change(item, states.CLOSE, now)
        for connection in list(self.connections.values()):
            if connection.queued and connection.listener == handle:
                connection.abort(now)

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
        for item in list(self.listeners.values()):
            self.close_listener(item, now)
        self._app.forget_all()

    # --- whom a segment is for --------------------------------------------------------------------

    def _segment(self, message: messages.Segment, now: int) -> None:
        if message.protocol != PROTOCOL_TCP:
            self.drop("not_tcp", now)
            return
        self.counters["tcp_in_segs"] += 1
        src, dst, is_group = message.src, message.dst, self.paths.is_group
        header, data = decode(message.payload, src, dst)
        key = (dst, header.dst_port, src, header.src_port)
        if message.flags & messages.FLAG_BROADCAST or is_group(dst) or is_group(src) or not src[0]:
            self.drop("broadcast", now)  # MUST-57, MUST-63
        elif key in self.connections:
            self.connections[key].segment(header, data, now)
        elif header.flags & RST:
            self.drop("rst_for_nobody", now)
        elif (handle := self._listener_at(dst, key[1])) is None or header.flags & ACK:
            self.reset(header, len(data), src, dst)
        elif header.flags & SYN:
            self._incoming(handle, header, key, now)
        else:
            self.drop("no_flags_in_listen", now)

    def _listener_at(self, address: bytes, port: int) -> int | None:
        for handle, item in self.listeners.items():
            held = item.reservation
            if held.port == port and held.address in (address, ANY):
                return handle
        return None

    def _waiting(self, handle: int) -> int:
        """Connections that came in at a listener and that no program has accepted."""
        return sum(item.queued and item.listener == handle for item in self.connections.values())

    def _incoming(self, handle: int, header: TcpHeader, key: Key, now: int) -> None:
        """A SYN for a listener: a socket of its own, with the client's address written into it."""
        listener = self.listeners[handle]
        if self._waiting(handle) > listener.backlog:
            self.counters["listen_overflows"] += 1
            self.drop("backlog_full", now)
        elif len(self.connections) >= self.cfg.max_connections:
            self.drop("too_many_connections", now)
        else:
            reuse, path = listener.reservation.reuse, self.paths.lookup(key[2], now)
            connection = self.new(self._next_handle, key, reuse, listener=handle, queued=True)
            connection.open(path.mtu if path else 0, self.cfg.receive_buffer, now, header)
            self._next_handle += 2
            self.enter(connection)

    def reset(self, header: TcpHeader, length: int, src: bytes, dst: bytes) -> None:
        """Answer a segment that no connection wants (3.5.2); src: who sent it."""
        length += bool(header.flags & SYN) + (header.flags & FIN)
        number, ack, flags = 0, seq.add(header.seq, length), RST | ACK
        if header.flags & ACK:
            number, ack, flags = header.ack, 0, RST
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
        self.paths.replace(message.rows)
        self._app.paths_came(now)

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

    def change(self, item: Connection | Listener, event: str, now: int, trace: int = 0) -> None:
        """To the state that follows; the tracer sees the socket before and after."""
        before = item.shown or {"state": item.state}
        item.state = states.following(item.state, event)
        if self.tracer.enabled:
            item.shown = item.control()
            self.tracer.state(now, self.trace or trace, event, before, item.shown)

    def release(self, connection: Connection) -> None:
        """No program holds it any more."""
        self.by_handle.pop(connection.handle, None)
        connection.handle = 0

    def forget(self, connection: Connection) -> None:
        """There is no such connection any more."""
        key = connection.key
        self.timers.cancel(key)
        self.ports.disconnect(key, key[1])
        del self.connections[key]

    def drop(self, reason: str, now: int, packet: bytes = b"") -> None:
        """Count what goes nowhere."""
        self.counters["drop_" + reason] += 1
        if self.tracer.enabled:
            self.tracer.drop(now, self.trace, "drop_" + reason, packet)


def _row(connection: Connection) -> dict[str, object]:
    """A connection as a row of `ss`."""
    control = connection.control()
    return control | {
        "handle": connection.handle,
        "local": f"{control['local_address']}:{connection.local_port}",
        "peer": f"{control['remote_address']}:{connection.remote_port}",
        "recv_q": control["receive_queue"],
        "send_q": control["send_queue"],
    }
