"""The role of tcp on the sockets of the operating system: handles, offsets and credit.

What the sockets do is said and heard through `calls`; the device that has them does the I/O.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from plywire import messages
from plywire.envelope import dump_state, load_state
from plywire.errors import ConfigError, DecodeError, SocketError
from plywire.layer import Output
from plywire.roles import APP, IP, TCP, WIRE, Role
from services.tcp_host import calls
from services.tcp_host.addresses import ANY, Addresses
from services.tcp_host.sockets import CLOSED, LISTEN, SYN_SENT, Connection, Held

if TYPE_CHECKING:
    from plywire.config import HostConfig
    from plywire.trace import Tracer

_FORMAT = "tcp_host 1"
_ADMITTED = 16  # connections that the device may accept before it is told to go on
_SEND_BUFFER = "SO_SNDBUF"
_NOT_KEPT = "the operating system's sockets ended with their process"


class TcpHost:
    """One host's TCP, which is the operating system's.

    state_format: no two processes have the same, since the sockets stay with the one that made
    them. So a swap says that it would end the connections before it does.
    """

    role = TCP

    def __init__(self, host: HostConfig, rng: random.Random, tracer: Tracer) -> None:
        self.state_format = f"tcp_host/{rng.getrandbits(32):08x}"
        if len(host.interfaces) != 1:
            raise ConfigError(
                f"hosts.{host.name}.interfaces",
                "with services.tcp_host a host has one interface: its addresses are the system's",
            )
        self.cfg = host.tcp
        self.counters: Counter[str] = Counter()
        self._addresses = Addresses(host.interfaces[0])
        self._address = host.interfaces[0].address
        self._tracer = tracer
        self._now = 0
        self._connections: dict[int, Connection] = {}
        self._held: dict[int, Held] = {}
        self._next_child = 1
        self._app_generation: int | None = None
        self._out: list[Output] = []

    # --- the Layer contract -----------------------------------------------------------------------

    def receive(self, message: Any, source: Role, now: int) -> None:
        """Take one message; what cannot be used is counted and dropped."""
        self._now = now
        role, handler = _HANDLERS.get(type(message), ("", None))
        if role not in (source, "any"):
            self._drop("unexpected_message", message)
        else:
            handler(self, message)

    def expire(self, now: int) -> None:
        """Nothing: the system has the timers."""

    def deadline(self) -> int | None:
        """None: the system has the timers."""
        return None

    def outputs(self) -> list[Output]:
        """What is to be sent."""
        out, self._out = self._out, []
        return out

    def snapshot(self) -> bytes:
        """What is bound and listens, and the handles of connections, which cannot be kept."""
        said = [[item.KIND, list(item)] for to, item in self._out if to == APP]
        return dump_state({
            "format": _FORMAT,
            "held": [[item.handle, item.address, item.port, item.reuse, item.listening,
                      item.backlog] for item in self._held.values()],
            "connections": [[item.handle, item.released] for item in self._connections.values()],
            "next": [self._next_child, self._app_generation],
            "counters": dict(self.counters),
            "said": said,
        })  # fmt: skip

    def restore(self, state: bytes, now: int) -> None:
        """Bind and listen again; connections have ended with the process that had them."""
        saved = load_state(state)
        if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
            raise DecodeError("bad_snapshot", f"not of {_FORMAT}")
        self._next_child, self._app_generation = saved["next"]
        self.counters.update(saved["counters"])
        for kind, fields in saved["said"]:
            self._out.append(Output(APP, messages.KINDS[kind](*fields)))
        for *place, listening, backlog in saved["held"]:
            item = self._held[place[0]] = Held(*place)
            if listening:
                self._announce(item, backlog, 0, tell=False)
            else:
                self._reserve(item, 0, tell=False)
        for handle, released in saved["connections"]:
            name = "" if released else "ECONNRESET"
            self._out.append(Output(APP, messages.Closed(0, handle, name, _NOT_KEPT)))

    def describe(self, topic: str, now: int) -> object:
        """`connections` and `listeners` (as `ss` has them), or `counters`."""
        if topic == "connections":
            return [item.row() for item in self._connections.values()]
        if topic == "listeners":
            return [
                {"handle": item.handle, **item.control(), "receive_queue": self._queued(item)}
                for item in self._held.values()
                if item.listening
            ]
        if topic == "counters":
            return dict(self.counters)
        raise KeyError(topic)

    # --- what programs ask ------------------------------------------------------------------------

    def _bind(self, message: messages.Bind) -> None:
        trace, handle, address, port, reuse = message
        if handle in self._held or handle in self._connections:
            self._refuse_bind(message, "EINVAL", "the socket has an address already")
        elif not self._addresses.is_own(address):
            self._refuse_bind(message, "EADDRNOTAVAIL", "not an address of this host")
        else:
            self._reserve(Held(handle, address, port, reuse), trace)

    def _refuse_bind(self, message: messages.Bind | messages.Listen, name: str, why: str) -> None:
        address, port = getattr(message, "address", ANY), getattr(message, "port", 0)
        self._tell(messages.Bound(message.trace, message.handle, address, port, name, why))

    def _reserve(self, item: Held, trace: int, tell: bool = True) -> None:
        self._held[item.handle] = item
        item.asked.append(tell)
        own = self._addresses.own
        self._ask(calls.Reserve(trace, item.handle, own, item.port, item.reuse))

    def _listen(self, message: messages.Listen) -> None:
        trace, handle, backlog, options = message
        if handle in self._connections:
            self._refuse_bind(message, "EINVAL", "the socket is connected")
            return
        reuse = int(bool(options.get("SO_REUSEADDR")))
        item = self._held.setdefault(handle, Held(handle, ANY, 0, reuse))
        self._announce(item, min(backlog, self.cfg.backlog_max), trace)
        for name, value in options.items():
            self._ask(calls.Set(trace, handle, name, value))

    def _announce(self, item: Held, backlog: int, trace: int, tell: bool = True) -> None:
        item.backlog = backlog
        item.asked.append(tell)
        place = (self._addresses.own, item.port, item.reuse)
        self._ask(calls.Announce(trace, item.handle, *place, backlog))

    def _connect(self, message: messages.Connect) -> None:
        trace, handle, address, port, limit, options = message
        held = self._held.get(handle)
        try:
            where = self._addresses.outward(address)
            if where is None:
                raise SocketError("ENETUNREACH", "not on this host's network", TCP)
            if len(self._connections) >= self.cfg.max_connections:
                raise SocketError("ENOBUFS", "too many connections", TCP)
            if handle in self._connections or (held is not None and held.listening):
                raise SocketError("EISCONN", "the socket is in use", TCP)
        except SocketError as error:
            self._tell(messages.Closed(trace, handle, error.name, error.cause))
            return
        send_buffer = options.get(_SEND_BUFFER, self.cfg.send_buffer)
        connection = Connection(handle, limit, send_buffer)
        connection.remote = (self._addresses.inward(where), port)
        if held is not None:
            connection.local = (self._address, held.port)
            del self._held[handle]
        self._connections[handle] = connection
        self.counters["tcp_active_opens"] += 1
        self._changed(connection, "active OPEN", trace, CLOSED)
        self._ask(calls.Dial(trace, handle, self._addresses.own, where, port, limit, options))

    def _data(self, message: messages.Data) -> None:
        connection = self._connections.get(message.handle)
        if connection is None:
            self._drop("unknown_handle", message)
            return
        offset, data = message.offset, message.payload
        end, most = connection.sent, connection.written + connection.send_buffer
        over = connection.finishing or not connection.opened
        if over or offset > end or offset + len(data) > most:
            self._drop("data_beyond_credit", message)
        elif offset + len(data) > end:
            connection.sent = offset + len(data)
            self._ask(calls.Write(message.trace, message.handle, data[end - offset :]))
            self._credit(connection, message.trace)

    def _room(self, message: messages.Credit) -> None:
        connection = self._connections.get(message.handle)
        if connection is None:
            return  # it ended meanwhile
        if message.acked > connection.received:
            self._drop("credit_beyond_stream", message)
            return
        connection.read = max(connection.read, message.acked)
        if message.limit > connection.limit:
            more = message.limit - connection.limit
            connection.limit = message.limit
            self._ask(calls.Room(message.trace, message.handle, more))

    def _end(self, message: messages.End | messages.Close) -> None:
        connection = self._connections.get(message.handle)
        if connection is None or connection.finishing:
            return
        if message.offset != connection.sent or not connection.opened:
            self._drop("end_elsewhere", message)
            return
        before = connection.state
        connection.finishing = True
        self._changed(connection, "CLOSE", message.trace, before)
        self._ask(calls.Finish(message.trace, message.handle))

    def _accepted(self, message: messages.Accepted) -> None:
        connection = self._connections.get(message.handle)
        if connection is not None:
            self._unqueue(connection, message.trace)

    def _close(self, message: messages.Close) -> None:
        trace, handle, offset, abort = message
        connection, held = self._connections.get(handle), self._held.pop(handle, None)
        if connection is not None:
            lacking = offset != connection.sent
            if abort or lacking or not connection.opened:
                self._abort(connection, trace)
                return
            before = connection.state
            connection.released = True
            self._changed(connection, "CLOSE", trace, before)
            self._unqueue(connection, trace)
            self._ask(calls.Leave(trace, handle, 0))
        elif held is not None:
            self._give_up(held, trace)
            self._tell(messages.Closed(trace, handle, "", ""))

    def _abort(self, connection: Connection, trace: int) -> None:
        self._ask(calls.Leave(trace, connection.handle, 1))
        self._over(connection, "ABORT", "", "", trace)

    def _give_up(self, held: Held, trace: int) -> None:
        """A socket without a peer goes, and with it the connections that nobody has accepted."""
        self._ask(calls.Leave(trace, held.handle, 1))
        for connection in list(self._connections.values()):
            if connection.queued and connection.listener == held.handle:
                self._abort(connection, trace)

    def _option(self, message: messages.Option) -> None:
        connection = self._connections.get(message.handle)
        if connection is not None:
            self._set(connection, message.name, message.value, message.trace)
        elif message.handle in self._held:
            self._ask(calls.Set(*message))

    def _set(self, connection: Connection, name: str, value: int | str, trace: int) -> None:
        if name == _SEND_BUFFER and isinstance(value, int):
            connection.send_buffer = value
            if connection.opened:
                self._credit(connection, trace)
        self._ask(calls.Set(trace, connection.handle, name, value))

    def _query(self, message: messages.Query) -> None:
        trace, handle, topic = message
        held = self._held.get(handle)
        if topic == "congestion" or handle in self._connections:
            self._ask(calls.Look(trace, handle, topic))
        else:
            known = held is not None and held.listening and not topic
            self._tell(messages.Info(trace, handle, held.control() if known else {}, topic))

    def _hello(self, message: messages.Hello) -> None:
        """A new app has forgotten its sockets: nobody holds them any more."""
        if message.role != APP or message.generation == self._app_generation:
            return
        before, self._app_generation = self._app_generation, message.generation
        if before is None:
            return
        for connection in list(self._connections.values()):
            self._abort(connection, message.trace)
        for held in self._held.values():
            self._give_up(held, message.trace)
        self._held.clear()
        self._out = [
            item for item in self._out if item.to != APP
        ]  # it would not know what it means

    def _nothing(self, message: messages.Paths) -> None:
        """The system has routes of its own."""

    # --- what the device says ---------------------------------------------------------------------

    def _reserved(self, message: calls.Reserved) -> None:
        trace, handle, port, listening, error, cause = message
        held = self._held.get(handle)
        if held is None or not held.asked:  # it was closed meanwhile
            return
        tell = held.asked.pop(0)
        if error and not held.bound:
            del self._held[handle]
        if not error:
            held.bound, held.port = True, port
        if tell:
            self._tell(messages.Bound(trace, handle, held.address, port, error, cause))
        elif error:  # the process before this one had it
            self._held.pop(handle, None)
            self._tell(messages.Closed(trace, handle, error, cause))
        if listening and not error:
            held.listening = True
            self._admit(held, trace)

    def _connected(self, message: calls.Connected) -> None:
        trace, handle, listener, local, local_port, remote, remote_port = message
        inward = self._addresses.inward
        connection = self._connections.get(handle)
        if listener:
            connection = self._came(message)
        if connection is None:
            self._ask(calls.Leave(trace, handle, 1))
            return
        connection.local, connection.remote = (inward(local), local_port), (
            inward(remote), remote_port)  # fmt: skip
        connection.opened = True
        self._changed(connection, "rcv SYN" if listener else "rcv SYN,ACK", trace,
                      LISTEN if listener else SYN_SENT)  # fmt: skip
        self._tell(messages.Opened(trace, handle, listener, *connection.local, *connection.remote,
                                   connection.written + connection.send_buffer))  # fmt: skip

    def _came(self, message: calls.Connected) -> Connection | None:
        """A connection was accepted; None when its listener has gone meanwhile."""
        held = self._held.get(message.listener)
        if held is None:
            return None
        held.admitted -= 1
        connection = Connection(message.handle, self.cfg.receive_buffer, self.cfg.send_buffer)
        connection.listener, connection.queued = message.listener, True
        self._connections[message.handle] = connection
        self.counters["tcp_passive_opens"] += 1
        self._admit(held, message.trace)
        return connection

    def _arrived(self, message: calls.Arrived) -> None:
        trace, handle, payload = message
        connection = self._connections.get(handle)
        if connection is None or connection.released:
            return
        self._tell(messages.Data(trace, handle, connection.received, payload))
        connection.received += len(payload)

    def _ended(self, message: calls.Ended) -> None:
        connection = self._connections.get(message.handle)
        if connection is None:
            return
        before = connection.state
        connection.heard_end = True
        self._changed(connection, "rcv FIN", message.trace, before)
        if not connection.released:
            self._tell(messages.End(message.trace, message.handle, connection.received))
            self._if_both_ended(connection, message.trace)

    def _wrote(self, message: calls.Wrote) -> None:
        connection = self._connections.get(message.handle)
        if connection is not None:
            connection.written += message.count
            if not connection.released:
                self._credit(connection, message.trace)

    def _finished(self, message: calls.Finished) -> None:
        connection = self._connections.get(message.handle)
        if connection is not None:
            connection.finished = True
            if not connection.released:
                self._if_both_ended(connection, message.trace)

    def _if_both_ended(self, connection: Connection, trace: int) -> None:
        if connection.finished and connection.heard_end:
            self._ask(calls.Leave(trace, connection.handle, 0))
            self._over(connection, "rcv ACK of FIN", "", "", trace)

    def _gone(self, message: calls.Gone) -> None:
        connection = self._connections.get(message.handle)
        if connection is not None:
            self._over(connection, "rcv ACK of FIN", "", "", message.trace)

    def _failed(self, message: calls.Failed) -> None:
        trace, handle, error, cause = message
        connection = self._connections.get(handle)
        if connection is not None:
            self._over(connection, "rcv RST", error, cause, trace)

    def _looked(self, message: calls.Looked) -> None:
        trace, handle, fields, topic = message
        connection = self._connections.get(handle)
        if not topic:
            fields = {} if connection is None else connection.control() | fields
        self._tell(messages.Info(trace, handle, fields, topic))

    # --- both -------------------------------------------------------------------------------------

    def _queued(self, held: Held) -> int:
        return sum(item.queued and item.listener == held.handle
                   for item in self._connections.values())  # fmt: skip

    def _admit(self, held: Held, trace: int) -> None:
        """Let the device accept as many as may wait here; the others wait in the system's queue."""
        free = min(held.backlog + 1 - self._queued(held), _ADMITTED)
        while held.listening and held.admitted < free:
            held.admitted += 1
            child, self._next_child = self._next_child, self._next_child + 2
            room = self.cfg.receive_buffer
            self._ask(calls.Admit(trace, held.handle, child, room))

    def _unqueue(self, connection: Connection, trace: int) -> None:
        if connection.queued:
            connection.queued = False
            held = self._held.get(connection.listener)
            if held is not None:
                self._admit(held, trace)

    def _over(self, connection: Connection, event: str, error: str, cause: str, trace: int) -> None:
        """To CLOSED; the program hears why."""
        before = connection.state
        del self._connections[connection.handle]
        self._unqueue(connection, trace)
        self._changed(connection, event, trace, before, CLOSED)
        self._tell(messages.Closed(trace, connection.handle, error, cause))

    def _credit(self, connection: Connection, trace: int) -> None:
        limit = connection.written + connection.send_buffer
        self._tell(messages.Credit(trace, connection.handle, connection.sent, limit))

    def _changed(
        self, connection: Connection, event: str, trace: int, before: str, after: str = ""
    ) -> None:
        if self._tracer.enabled:
            old = connection.shown or connection.control() | {"state": before}
            connection.shown = connection.control() | ({"state": after} if after else {})
            self._tracer.state(self._now, trace, event, old, connection.shown)

    def _tell(self, message: messages.Message) -> None:
        self._out.append(Output(APP, message))

    def _ask(self, message: Any) -> None:
        self._out.append(Output(WIRE, message))

    def _drop(self, reason: str, message: Any) -> None:
        self.counters["drop_" + reason] += 1
        if self._tracer.enabled:
            data = getattr(message, "payload", b"")
            self._tracer.drop(self._now, message.trace, "drop_" + reason, data)


def create(host: HostConfig, rng: random.Random, tracer: Tracer) -> TcpHost:
    """A host's TCP; rng tells processes apart."""
    return TcpHost(host, rng, tracer)


_HANDLERS: dict[type, tuple[Role, Callable[[TcpHost, Any], None]]] = {
    messages.Hello: ("any", TcpHost._hello),
    messages.Paths: (IP, TcpHost._nothing),
    messages.Bind: (APP, TcpHost._bind),
    messages.Listen: (APP, TcpHost._listen),
    messages.Connect: (APP, TcpHost._connect),
    messages.Data: (APP, TcpHost._data),
    messages.Credit: (APP, TcpHost._room),
    messages.End: (APP, TcpHost._end),
    messages.Accepted: (APP, TcpHost._accepted),
    messages.Close: (APP, TcpHost._close),
    messages.Option: (APP, TcpHost._option),
    messages.Query: (APP, TcpHost._query),
    calls.Reserved: (WIRE, TcpHost._reserved),
    calls.Connected: (WIRE, TcpHost._connected),
    calls.Arrived: (WIRE, TcpHost._arrived),
    calls.Ended: (WIRE, TcpHost._ended),
    calls.Wrote: (WIRE, TcpHost._wrote),
    calls.Finished: (WIRE, TcpHost._finished),
    calls.Gone: (WIRE, TcpHost._gone),
    calls.Failed: (WIRE, TcpHost._failed),
    calls.Looked: (WIRE, TcpHost._looked),
}
