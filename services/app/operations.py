"""The socket operations of one host, as programs call them.

Each has the name and the fields of its RPC, takes the time, and returns a Call. What a program did
wrong, and what a peer did to its connection, is a SocketError in the Call.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from plywire.calls import Call
from plywire.config import SECOND, HostConfig
from plywire.errors import SocketError
from plywire.messages import Option
from plywire.trace import Tracer
from services.app import names, options
from services.app.context import Context, Waiter, nanoseconds
from services.app.endpoints import Endpoints
from services.app.readiness import Readiness
from services.app.recovery import Recovery
from services.app.replies import Key, Replies
from services.app.results import Address
from services.app.sockets import CLOSED, ESTABLISHED, LISTEN, Socket
from services.app.streaming import Streaming

RESUME_WITHIN = 10 * SECOND
"""Nanoseconds that programs have to come back to their sessions when this layer was exchanged."""


class Lease(Waiter):
    """A session of a predecessor that its program has not come back to: closed in time."""

    def __init__(self, close: Callable[[], None]) -> None:
        super().__init__(0)
        self._close = close

    def give_up(self) -> bool:
        self._close()
        return True


class Operations:
    """What a program may ask of a host."""

    def __init__(self, host: HostConfig, rng: random.Random, tracer: Tracer) -> None:
        self.host = host
        self.context = Context(host, rng, tracer)
        self.counters: Counter[str] = self.context.counters
        self._tracer = tracer
        self._endpoints = Endpoints(self.context)
        self._streaming = Streaming(self.context, self._endpoints)
        self._readiness = Readiness(self.context)
        self._recovery = Recovery(self.context, self._endpoints, self._streaming)
        self._replies = Replies(self.context.cancel)
        self._sessions: dict[str, set[int]] = {}
        self._leases: dict[str, Lease] = {}

    # --- sessions and sockets ---

    def open_session(self, now: int, resume: str = "") -> str:
        """A new owner of sockets, or the one that a predecessor of this layer had (resume), if it
        is there and has not been resumed. Raises EMFILE when there are as many as descriptors."""
        self.context.now = now
        lease = self._leases.pop(resume, None)
        if lease is not None:
            self.context.timers.cancel(lease)
            return resume
        if len(self._sessions) >= self.host.app.max_descriptors:
            raise SocketError("EMFILE", f"{len(self._sessions)} sessions are open")
        session = f"{self.context.rng.getrandbits(128):032x}"
        self._sessions[session] = set()
        self._sessions_changed()
        return session

    def close_session(self, session: str, now: int) -> None:
        """Close what a session owns, as the kernel does when a process ends."""
        self.context.now = now
        self._leases.pop(session, None)
        self._sessions_changed()
        for descriptor in sorted(self._sessions.pop(session, ())):
            if self.context.table.get(descriptor) is not None:
                self.close_socket(descriptor, now=now)

    def lease_sessions(self, now: int) -> None:
        """Sessions that came with a snapshot last until their programs come back, or for a time."""
        for session in self._sessions:
            lease = Lease(lambda session=session: self.close_session(session, self.context.now))
            self._leases[session] = lease
            self.context.timers.set(lease, now + RESUME_WITHIN)

    def create_socket(self, *, session: str = "", request_id: str = "", now: int) -> Call:
        """A new TCP socket; answered with its descriptor."""

        def start(trace: int) -> Call:
            self._check_session(session)
            key = ("create", 0, request_id and f"{session}/{request_id}")
            return self._replies.once(
                key, lambda: Call().resolve(self._create(session, key, trace))
            )

        return self._call("CreateSocket", now, start)

    def bind(self, descriptor: int, address: Address, *, request_id: str = "", now: int) -> Call:
        """Name the local end; port 0 is any. Answered with the address (host, port)."""

        def start(trace: int) -> Call:
            socket = self.context.table.find(descriptor)
            local = names.packed(address)
            key = ("bind", descriptor, request_id)

            def work() -> Call:
                call = self._endpoints.bind(socket, local, trace)
                self._requested(socket, key)
                return call

            return self._replies.once(key, work)

        return self._call("Bind", now, start, descriptor, address=_text(address))

    def listen(self, descriptor: int, backlog: int, *, now: int) -> Call:
        """Accept connections from now on. Answered with the local address (host, port)."""

        def start(trace: int) -> Call:
            socket = self.context.table.find(descriptor)
            return self._endpoints.listen(socket, max(0, backlog), trace)

        return self._call("Listen", now, start, descriptor, backlog=backlog)

    def connect(
        self,
        descriptor: int,
        address: Address,
        *,
        timeout: float | None = None,
        request_id: str = "",
        now: int,
    ) -> Call:
        """Open a connection; answered with a ConnectResult."""

        def start(trace: int) -> Call:
            socket = self.context.table.find(descriptor)
            peer, wait = names.packed(address), nanoseconds(timeout)
            key = ("connect", descriptor, request_id)

            def work() -> Call:
                again = socket.requests.get("connect") == key
                self._requested(socket, key)
                return self._endpoints.connect(socket, peer, wait, trace, again)

            return self._replies.once(key, work)

        return self._call("Connect", now, start, descriptor, address=_text(address))

    def accept(
        self,
        descriptor: int,
        *,
        timeout: float | None = None,
        request_id: str = "",
        session: str = "",
        now: int,
    ) -> Call:
        """Take a connection; answered with an AcceptResult. session: whose it is, "" for the
        listener's."""

        def start(trace: int) -> Call:
            socket = self.context.table.find(descriptor)
            self._check_session(session)
            wait, owner = nanoseconds(timeout), session or socket.session
            key = ("accept", descriptor, request_id)
            return self._replies.once(key, lambda: self._accept(socket, owner, wait, trace, key))

        return self._call("Accept", now, start, descriptor)

    def close_socket(self, descriptor: int, *, now: int) -> Call:
        """Release a descriptor. Answered at once, or with SO_LINGER when the connection ended."""

        def start(trace: int) -> Call:
            socket = self.context.table.find(descriptor)
            self._sessions.get(socket.session, set()).discard(descriptor)
            return self._endpoints.close(socket, trace)

        return self._call("CloseSocket", now, start, descriptor)

    # --- bytes ---

    def send(
        self,
        descriptor: int,
        data: bytes,
        *,
        offset: int | None = None,
        timeout: float | None = None,
        more: bool = False,
        now: int,
    ) -> Call:
        """Send all of data, 1 MiB at most; answered with a SendResult.

        offset: of data's first byte in the stream; what was accepted already is skipped.
        """

        def start(trace: int) -> Call:
            socket = self.context.table.find(descriptor)
            wait = nanoseconds(timeout)
            return self._streaming.send(socket, data, offset, wait, more, trace)

        return self._call("Send", now, start, descriptor, bytes=len(data))

    def recv(
        self,
        descriptor: int,
        max_bytes: int,
        *,
        offset: int | None = None,
        timeout: float | None = None,
        peek: bool = False,
        acknowledged: int | None = None,
        now: int,
    ) -> Call:
        """Up to max_bytes bytes, 1 MiB at most; answered with a RecvResult.

        offset: of the first byte wanted; bytes that were answered before are answered again, as
        long as they are kept: all before `acknowledged` (absent: before offset) are let go.
        Without an offset nothing is kept.
        """

        def start(trace: int) -> Call:
            socket = self.context.table.find(descriptor)
            wait = nanoseconds(timeout)
            return self._streaming.recv(socket, max_bytes, offset, wait, peek, acknowledged, trace)

        return self._call("Recv", now, start, descriptor, max_bytes=max_bytes)

    def readable(self, descriptor: int) -> int:
        """Bytes that recv would give at once (FIONREAD); 0 for an unknown descriptor."""
        socket = self.context.table.get(descriptor)
        return socket.receive.waiting if socket is not None and socket.receive is not None else 0

    def shutdown(self, descriptor: int, how: str, *, now: int) -> Call:
        """End one direction or both; how: read, write, both."""

        def start(trace: int) -> Call:
            self._streaming.shutdown(self.context.table.find(descriptor), how, trace)
            return Call().resolve(None)

        return self._call("Shutdown", now, start, descriptor, how=how)

    # --- options, views, names ---

    def set_option(self, descriptor: int, name: str, value: int | str, *, now: int) -> Call:
        """Set an option by Linux's name: to a number, TCP_CONGESTION to a word."""

        def start(trace: int) -> Call:
            socket = self.context.table.find(descriptor)
            if name == "TCP_CONGESTION":
                return self._set_congestion(socket, value, trace)
            socket.options[name] = options.checked(name, value, self.host)
            known = socket.handle and (socket.state != CLOSED)
            told = options.for_tcp({name: socket.options[name]})
            if known and told:
                self.context.tell(Option(trace, socket.handle, name, told[name]))
            if name == "SO_RCVBUF" and socket.receive is not None:
                socket.receive.buffer = socket.options[name]
                self._streaming.grow_credit(socket, trace)
            elif name == "SO_SNDBUF" and socket.send is not None:
                socket.send.size, socket.send.fixed = socket.options[name], True
            elif name == "TCP_CORK":
                socket.corked = False  # the program's own word counts from here
            return Call().resolve(None)

        return self._call("SetOption", now, start, descriptor, name=name, value=value)

    def get_option(self, descriptor: int, name: str, *, now: int) -> Call:
        """The value of an option: a number, TCP_CONGESTION a word, TCP_INFO a map of numbers.
        SO_ERROR is cleared by it."""

        def start(trace: int) -> Call:
            socket = self.context.table.find(descriptor)
            if name == "TCP_INFO":
                return self._tcp_info(socket, trace)
            if name == "TCP_CONGESTION":
                return self._congestion(socket, trace)
            if name == "TCP_MAXSEG" and socket.state == ESTABLISHED:  # TCP knows what it became
                return self._asked(socket, name, "snd_mss", trace)
            if name == "SO_SNDBUF" and socket.state == ESTABLISHED and name not in socket.options:
                return self._asked(socket, name, "send_buffer", trace)
            if name == "SO_RCVBUF" and socket.state == ESTABLISHED and name not in socket.options:
                return self._asked(socket, name, "receive_buffer", trace)
            return Call().resolve(self._option(socket, name))

        return self._call("GetOption", now, start, descriptor, name=name)

    def get_socket(self, descriptor: int, *, now: int) -> Call:
        """The control information of a socket, a SocketInfo."""

        def start(trace: int) -> Call:
            call = Call()
            listing = self._readiness.inspect([self.context.table.find(descriptor)], trace)
            listing.then(lambda done: call.resolve(done.value[0]))
            return call

        return self._call("GetSocket", now, start, descriptor)

    def list_sockets(self, *, now: int) -> Call:
        """The control information of every socket."""
        return self._call(
            "ListSockets",
            now,
            lambda trace: self._readiness.inspect(list(self.context.table), trace),
        )

    def resolve(self, name: str, *, now: int) -> Call:
        """The addresses of a name, dotted."""

        def start(trace: int) -> Call:
            found = names.resolve(name, self.host.names)
            if self._tracer.enabled:
                self._tracer.note(now, trace, "name resolved", name=name, address=found[0])
            return Call().resolve(found)

        return self._call("Resolve", now, start, name=name)

    def poll(
        self, items: Sequence[tuple[int, int]], *, timeout: float | None = None, now: int
    ) -> Call:
        """Wait until a (descriptor, events) is ready; answered with [(descriptor, revents)]."""

        def start(trace: int) -> Call:
            if len(items) > self.host.app.max_descriptors:
                raise SocketError("EINVAL", f"{len(items)} items are more than there can be")
            return self._readiness.poll(items, nanoseconds(timeout), trace)

        return self._call("Poll", now, start, items=len(items))

    def cancel(self, call: Call) -> None:
        """Nobody wants a pending answer any more: the call takes nothing and is never answered."""
        self._replies.cancel(call)

    # --- parts ---

    def _call(
        self,
        name: str,
        now: int,
        start: Callable[[int], Call],
        descriptor: int = 0,
        /,
        **fields: int | str,
    ) -> Call:
        """Begin an operation under a trace id of its own, and trace that it was called and what
        it returned: under the id of the message that made it return, if one did."""
        context, tracer = self.context, self._tracer
        context.now = now
        cause, context.cause = context.cause, 0
        trace = context.new_trace()
        if tracer.enabled:
            tracer.note(now, trace, name, **({"descriptor": descriptor} if descriptor else {}),
                        **fields)  # fmt: skip
        socket = context.table.get(descriptor) if name in _CHANGING else None
        if socket is not None:
            context.touched[socket] = None
        try:
            call = start(trace)
        except SocketError as error:
            call = Call().fail(error)
        if tracer.enabled:
            call.then(lambda done: self._returned(name, trace, descriptor, done))
        context.cause = cause
        return call

    def _returned(self, name: str, trace: int, descriptor: int, call: Call) -> None:
        context = self.context
        fields: dict[str, int | str] = {"descriptor": descriptor} if descriptor else {}
        if call.error is not None:
            fields |= {"error": call.error.name, "cause": call.error.cause}
        elif hasattr(call.value, "_asdict"):
            fields |= {key: _shown(value) for key, value in call.value._asdict().items()}
        elif call.value is not None:
            fields["result"] = _shown(call.value)
        self._tracer.note(context.now, context.trace_of(trace), f"{name} returned", **fields)

    def _sessions_changed(self) -> None:
        if self.context.survival is not None:
            self.context.survival.table = True

    def _check_session(self, session: str) -> None:
        if session and session not in self._sessions:
            raise SocketError("EINVAL", "there is no such session; it may have been closed")

    def _create(self, session: str, key: Key, trace: int) -> int:
        socket = Socket(0, session)
        self._requested(socket, key)
        descriptor = self.context.table.add(socket)
        if session:
            self._sessions[session].add(descriptor)
        self.context.touched[socket] = None
        self.counters["sockets_created"] += 1
        if self._tracer.enabled:
            self.context.changed(trace, "CreateSocket", {}, socket)
        return descriptor

    def _requested(self, socket: Socket, key: Key) -> None:
        """A request whose answer outlives this process with its socket."""
        if key[2]:
            socket.requests[key[0]] = key

    def _accept(self, socket: Socket, owner: str, wait: int | None, trace: int, key: Key) -> Call:
        call = self._endpoints.accept(socket, owner, wait, trace, key)
        call.then(lambda done: self._own(owner, done))
        return call

    def _own(self, session: str, call: Call) -> None:
        """An accepted socket belongs to a session from the moment it has a descriptor."""
        if not session or call.error is not None or call.value.would_block:
            return
        if session in self._sessions:
            self._sessions[session].add(call.value.descriptor)
        else:  # it was closed while its program waited
            self.close_socket(call.value.descriptor, now=self.context.now)

    def _option(self, socket: Socket, name: str) -> int:
        if name in options.FIXED:
            return options.FIXED[name]
        if name == "SO_ERROR":
            error = socket.take_error()
            return error.number if error is not None else 0
        if name == "SO_ACCEPTCONN":
            return int(socket.state == LISTEN)
        if name not in options.SETTABLE:
            raise SocketError("ENOPROTOOPT", f"{name[:64]} is unknown")
        return options.shown(name, socket.option(name, options.defaults(self.host)[name]))

    def _asked(self, socket: Socket, name: str, field: str, trace: int) -> Call:
        """An option that TCP adapts, by the field of its control block."""
        call, usual = Call(), self._option(socket, name)

        def answer(done: Call) -> None:
            value = done.value[0].control.get(field)
            call.resolve(usual if value is None else options.shown(name, value))

        self._readiness.inspect([socket], trace).then(answer)
        return call

    def _tcp_info(self, socket: Socket, trace: int) -> Call:
        call = Call()
        state = socket.state_name()
        asking = self._readiness.ask(socket.handle, "tcp_info", trace)
        asking.then(lambda done: call.resolve(options.tcp_info(done.value or {"state": state})))
        return call

    def _congestion(self, socket: Socket, trace: int) -> Call:
        """The word that was set, or else what TCP has chosen."""
        call = Call()
        usual = self.host.tcp.congestion
        if "TCP_CONGESTION" in socket.options:
            return call.resolve(socket.options["TCP_CONGESTION"])
        listing = self._readiness.inspect([socket], trace)
        listing.then(lambda done: call.resolve(done.value[0].congestion or usual))
        return call

    def _set_congestion(self, socket: Socket, value: int | str, trace: int) -> Call:
        """Only TCP knows which there are: it is asked first. ENOENT for another, as in Linux."""
        if not isinstance(value, str):
            raise SocketError("EINVAL", "TCP_CONGESTION is a word")
        call = Call()

        def answer(done: Call) -> None:
            if value not in done.value:
                known = ", ".join(sorted(done.value)) or "none"
                cause = f"no congestion control {value[:32]!r}; there are {known}"
                call.fail(SocketError("ENOENT", cause, layer="tcp"))
                return
            socket.options["TCP_CONGESTION"] = value
            if socket.handle and socket.state != CLOSED:
                self.context.tell(Option(trace, socket.handle, "TCP_CONGESTION", value))
            call.resolve(None)

        self._readiness.ask(0, "congestion", trace).then(answer)
        return call


_CHANGING = frozenset({"Bind", "Listen", "Connect", "Accept", "Shutdown", "SetOption"})
"""Operations that change a socket by being called; others do when they are answered."""


def _text(address: Address) -> str:
    return f"{address[0] or '0.0.0.0'}:{address[1]}"


def _shown(value: Any) -> int | str:
    """A result as a trace shows it: data by its length."""
    if isinstance(value, int | str):
        return value
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, tuple) and len(value) == 2:
        return f"{value[0]}:{value[1]}"
    return str(value)[:200]
