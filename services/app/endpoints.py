"""Where connections begin and end: bind, listen, connect, accept, close, and what TCP says of it.

What happens in which order, and which errno it is, follows Linux (inet_stream_connect,
inet_listen, inet_csk_accept, tcp_close).
"""

from __future__ import annotations

from typing import Any

from plywire.calls import Call
from plywire.config import SECOND
from plywire.errors import SocketError
from plywire.messages import Bind, Bound, Close, Closed, Connect, Credit, Listen, Opened
from services.app import names, options
from services.app.context import Context
from services.app.options import NO_LINGER
from services.app.replies import Key
from services.app.sockets import (
    CLOSED,
    CONNECTED,
    CONNECTING,
    ESTABLISHED,
    LISTEN,
    NOWHERE,
    SYN_SENT,
    UNCONNECTED,
    Endpoint,
    Socket,
)
from services.app.streams import ReceiveStream, SendStream
from services.app.waiters import Accepting, Closing, Connecting

MAX_EXPECTED = 16
"""Answers to Bind and Listen that one socket may wait for."""

_BIND, _LISTEN, _BIND_AGAIN, _LISTEN_AGAIN = "bind", "listen", "bind again", "listen again"


class Endpoints:
    """The operations that make and end connections."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._lingering: dict[int, Closing] = {}

    # --- the program's calls ---

    def bind(self, socket: Socket, address: Endpoint, trace: int) -> Call:
        """Reserve a local address; answered with the one that TCP gave."""
        if socket.bound or socket.binding or socket.phase != UNCONNECTED or socket.state != CLOSED:
            raise SocketError("EINVAL", "the socket has an address already")
        socket.binding = True
        return self._ask(socket, _BIND, address, trace)

    def listen(self, socket: Socket, backlog: int, trace: int) -> Call:
        """Accept connections from now on; a second time it changes the backlog."""
        if socket.phase != UNCONNECTED or socket.state not in (CLOSED, LISTEN):
            raise SocketError("EINVAL", "the socket is, or was, connected")
        backlog = min(backlog, self.context.host.tcp.backlog_max)
        self._name(socket, trace)
        return self._ask(socket, _LISTEN, (backlog,), trace)

    def connect(
        self, socket: Socket, address: Endpoint, timeout: int | None, trace: int, again: bool
    ) -> Call:
        """Open a connection. A second call while it is being opened waits for the same one; again:
        it is the first one, of a program whose API died."""
        if socket.phase == CONNECTED or (socket.phase == UNCONNECTED and socket.state != CLOSED):
            raise SocketError("EISCONN", "the socket is connected, or listens")
        first = socket.phase == UNCONNECTED
        if first:
            self._open(socket, address, trace)
        first = first or again
        return self.context.run(Connecting(trace, socket, first), timeout)

    def accept(
        self, socket: Socket, session: str, timeout: int | None, trace: int, key: Key
    ) -> Call:
        """Take the connection that came first. key: of the request."""
        if socket.state != LISTEN:
            raise SocketError("EINVAL", "the socket does not listen")
        self.context.table.check_room()
        return self.context.run(Accepting(trace, socket, self.context, session, key), timeout)

    def close(self, socket: Socket, trace: int) -> Call:
        """Release the descriptor; with SO_LINGER the answer waits for the connection's end."""
        context = self.context
        before = socket.control() if context.tracer.enabled else {}
        context.table.remove(socket)
        handle = socket.handle
        linger = socket.option("SO_LINGER", NO_LINGER)
        unread = socket.receive is not None and socket.receive.waiting > 0
        abort = socket.state == ESTABLISHED and (unread or linger == 0)
        waits = linger > 0 and socket.state == ESTABLISHED and not abort
        asked = self._forget(socket)
        if handle:
            offset = socket.send.accepted if socket.send is not None else 0
            close = Close(trace, handle, offset, int(abort))
            leaving = context.leave(close, socket.descriptor, socket.send)
            if leaving is not None:
                leaving.kept, socket.kept = socket.kept, None
        elif socket.corpse:
            context.confirm(socket)
        context.touched[socket] = None
        self._drop_queue(socket)
        socket.state = CLOSED
        if context.tracer.enabled:
            context.changed(trace, "CloseSocket", before, None)
        self._release(socket, asked)
        if waits:
            waiter = Closing(trace, self._lingering, handle)
            return context.run(waiter, linger * SECOND)
        return Call().resolve(None)

    def stop(self, socket: Socket, trace: int) -> None:
        """shutdown() of a listener or of a connection being opened: back to the beginning."""
        before = socket.control() if self.context.tracer.enabled else {}
        handle = socket.handle
        asked = self._forget(socket)
        self.context.tell(Close(trace, handle, 0, 0))
        self._drop_queue(socket)
        socket.state, socket.phase = CLOSED, UNCONNECTED
        socket.send = socket.receive = None
        socket.local, socket.remote = socket.bound or NOWHERE, NOWHERE
        if self.context.tracer.enabled:
            self.context.changed(trace, "Shutdown", before, socket)
        _fail(asked, SocketError("EINVAL", "the socket was shut down"))
        self.context.advance(socket)

    # --- what TCP says ---

    def on_bound(self, message: Bound, socket: Socket) -> None:
        """The answer to the oldest Bind or Listen of a socket."""
        if not socket.expected:
            self.context.counters["drop_bound_unasked"] += 1
            return
        kind, call, wanted = socket.expected.popleft()
        self.context.touched[socket] = None
        if message.error:
            self._refused(socket, kind, call, message)
            return
        before = socket.control() if self.context.tracer.enabled else {}
        socket.local = (message.address, message.port)
        if kind == _BIND:
            socket.binding = False
            socket.bound = socket.local
        elif kind == _LISTEN:
            socket.state, socket.backlog = LISTEN, wanted[0]
        if self.context.tracer.enabled:
            self.context.changed(message.trace, kind.capitalize(), before, socket)
        if call is not None:
            call.resolve(names.unpacked(socket.local))

    def on_opened(self, message: Opened) -> None:
        """A connection is ESTABLISHED: one that a program asked for, or one that came in."""
        local = (message.local_address, message.local_port)
        remote = (message.remote_address, message.remote_port)
        context = self.context
        if message.listener:
            if message.handle in context.handles:
                return  # a TCP that has recovered says all that may not have been heard
            listener = context.handles.get(message.listener)
            if listener is None or listener.state != LISTEN:
                context.counters["drop_opened_unasked"] += 1
                context.tell(Close(message.trace, message.handle, 0, 1))
                return
            socket = self._child(listener, message)
        else:
            socket = context.handles.get(message.handle)
            if socket is not None and socket.state == ESTABLISHED:
                return  # said again, likewise
            if socket is None or socket.state != SYN_SENT:
                context.counters["drop_unknown_handle"] += 1
                return
        before = socket.control() if context.tracer.enabled and not message.listener else {}
        socket.local, socket.remote, socket.state = local, remote, ESTABLISHED
        context.touched[socket] = None
        socket.send.limit = message.limit
        if not socket.send.fixed:
            socket.send.size = message.limit
        context.counters["connections_opened"] += 1
        if context.tracer.enabled:
            context.changed(message.trace, "Opened", before, socket)
        context.advance(socket)
        if message.listener:
            self._enqueue(listener, socket)
            context.advance(listener)

    def on_closed(self, message: Closed) -> None:
        """A connection, or the attempt, is over."""
        waiter = self._lingering.get(message.handle)
        if waiter is not None:
            waiter.over = True
            self.context.settle(waiter)
        socket = self.context.handles.get(message.handle)
        if socket is not None:
            if socket.receive is not None and socket.receive.needs_tcp:
                self.context.corpses[socket.handle] = socket
                socket.corpse, socket.was = socket.handle, (socket.shut_read, socket.shut_write)
            self.end(socket, message.error, message.cause, message.trace)

    def end(self, socket: Socket, name: str, cause: str, trace: int) -> None:
        """TCP has no such connection any more; `name` is the errno, "" after an orderly end."""
        context = self.context
        context.touched[socket] = None
        before = socket.control() if context.tracer.enabled else {}
        asked = self._forget(socket)
        if socket.state == SYN_SENT:
            name = name or "ECONNABORTED"
        elif (
            name == "ECONNRESET" and socket.receive and socket.receive.end is not None
            and not socket.shut_write
        ):  # fmt: skip
            name = "EPIPE"  # in CLOSE-WAIT the peer had said that it reads no more (tcp_reset)
        if name:
            socket.error = SocketError(name, cause, layer="tcp")
        socket.state = CLOSED
        socket.shut_read = socket.shut_write = True
        if socket.send is not None:
            socket.send.clear()
        if context.tracer.enabled:
            context.changed(trace, "Closed", before, socket)
        _fail(asked, SocketError(name or "ECONNABORTED", cause, layer="tcp"))
        context.advance(socket)

    def replaced(self, trace: int) -> None:
        """A new TCP has taken the place of the old one: it knows none of the connections, and is
        told again what is to be bound and who listens."""
        context = self.context
        for waiter in list(self._lingering.values()):
            waiter.over = True
            context.settle(waiter)
        for socket in list(context.handles.values()):
            if context.handles.get(socket.handle) is not socket:
                continue  # gone with the listener it came in on
            if socket.state in (SYN_SENT, ESTABLISHED):
                if socket.descriptor:
                    self.end(socket, "ECONNRESET", "the TCP process was replaced", trace)
            else:
                self.introduce(socket, trace)

    # --- parts ---

    def _name(self, socket: Socket, trace: int) -> int:
        """The handle of a socket; one that TCP has forgotten gets a new one and is bound again."""
        if not socket.handle:
            self.context.new_handle(socket)
            if socket.bound:
                self._send(socket, _BIND_AGAIN, None, socket.bound, trace)
        return socket.handle

    def _ask(self, socket: Socket, kind: str, wanted: tuple, trace: int) -> Call:
        if len(socket.expected) >= MAX_EXPECTED:
            raise SocketError("ENOBUFS", "too many calls wait for TCP")
        self._name(socket, trace)
        call = Call()
        self._send(socket, kind, call, wanted, trace)
        return call

    def _send(self, socket: Socket, kind: str, call: Any, wanted: tuple, trace: int) -> None:
        socket.expected.append((kind, call, wanted))
        if kind in (_BIND, _BIND_AGAIN):
            reuse = socket.option("SO_REUSEADDR", 0)
            self.context.tell(Bind(trace, socket.handle, wanted[0], wanted[1], reuse))
        else:
            self.context.tell(Listen(trace, socket.handle, wanted[0], socket.tcp_options()))

    def _open(self, socket: Socket, address: Endpoint, trace: int) -> None:
        context = self.context
        if address[0] == names.ANY:  # Linux: "any" as a destination is this host
            local = socket.local[0]
            address = (names.LOOPBACK if local == names.ANY else local, address[1])
        before = socket.control() if context.tracer.enabled else {}
        self._name(socket, trace)
        buffer = socket.option("SO_RCVBUF", context.host.app.receive_buffer)
        send_size, receive_size = options.first_sizes(context.host)
        socket.send = _send_stream(socket, send_size)
        socket.receive = ReceiveStream(buffer, buffer, receive_size // 4)
        socket.phase, socket.state, socket.remote = CONNECTING, SYN_SENT, address
        socket.error, socket.trace = None, trace
        context.tell(
            Connect(trace, socket.handle, address[0], address[1], buffer, socket.tcp_options())
        )
        if context.tracer.enabled:
            context.changed(trace, "Connect", before, socket)

    def _child(self, listener: Socket, message: Opened) -> Socket:
        """The socket of a connection that came in, with its buffers and the listener's options."""
        context = self.context
        child = Socket(0, listener.session)
        child.handle, child.listener, child.trace = message.handle, listener.handle, message.trace
        child.options = dict(listener.options)
        child.phase = CONNECTED
        context.handles[child.handle] = child
        given = context.host.tcp.receive_buffer  # the credit that TCP starts a connection with
        buffer = child.option("SO_RCVBUF", context.host.app.receive_buffer)
        child.send = _send_stream(child, message.limit)
        child.receive = ReceiveStream(buffer, given, options.first_sizes(context.host)[1] // 4)
        if buffer > given:
            child.receive.limit = buffer
            context.tell(Credit(message.trace, child.handle, 0, buffer))
        return child

    def _enqueue(self, listener: Socket, child: Socket) -> None:
        """Let a connection wait for accept(). TCP keeps the backlog, but does not count those that
        were reset meanwhile: of these the oldest makes room."""
        if len(listener.queue) > listener.backlog:
            dead = next((other for other in listener.queue if not other.handle), None)
            if dead is not None:
                listener.queue.remove(dead)
                self.context.counters["drop_reset_before_accept"] += 1
        listener.queue.append(child)

    def _refused(self, socket: Socket, kind: str, call: Any, message: Bound) -> None:
        """TCP did not grant a Bind or Listen."""
        error = SocketError(message.error, message.cause, layer="tcp")
        if kind == _BIND:
            socket.binding = False
        elif kind in (_BIND_AGAIN, _LISTEN_AGAIN):
            self.context.tell(Close(message.trace, socket.handle, 0, 1))
            self._drop_queue(socket)
            self.end(socket, error.name, error.cause, message.trace)
        if call is not None:
            call.fail(error)

    def connect_again(self, socket: Socket, trace: int) -> None:
        """TCP may have heard of this connect, and may have said how it went."""
        address, port = socket.remote
        buffer, options = socket.receive.limit, socket.tcp_options()
        self.context.tell(Connect(trace, socket.handle, address, port, buffer, options))

    def ask_again(self, socket: Socket, trace: int) -> None:
        """Repeat each Bind and Listen that has no answer yet."""
        pending = list(socket.expected)
        socket.expected.clear()
        for kind, call, wanted in pending:
            self._send(socket, kind, call, wanted, trace)

    def introduce(self, socket: Socket, trace: int) -> None:
        """Tell a new TCP of a socket that is bound, listens, or wanted to."""
        pending = list(socket.expected)
        socket.expected.clear()
        self._drop_queue(socket)
        if socket.state == LISTEN or socket.bound:
            self._send(socket, _BIND_AGAIN, None, socket.local, trace)
        if socket.state == LISTEN:
            self._send(socket, _LISTEN_AGAIN, None, (socket.backlog,), trace)
        for kind, call, wanted in pending:
            if kind in (_BIND, _LISTEN):
                self._send(socket, kind, call, wanted, trace)

    def _drop_queue(self, listener: Socket) -> None:
        """Connections that nobody accepted: TCP resets them when their listener goes."""
        for child in listener.queue:
            self.context.handles.pop(child.handle, None)
        listener.queue.clear()

    def _forget(self, socket: Socket) -> list[Call]:
        """TCP and app do not speak of this socket any more; returns what will not be answered."""
        self.context.handles.pop(socket.handle, None)
        socket.handle = 0
        socket.binding = False
        asked = [call for _, call, _ in socket.expected if call is not None]
        socket.expected.clear()
        return asked

    def _release(self, socket: Socket, asked: list[Call]) -> None:
        """Answer everybody who still waits for a socket that was closed."""
        context = self.context
        error = SocketError("EBADF", "the descriptor was closed")
        _fail(asked, error)
        for line in (socket.connects, socket.accepts, socket.sends, socket.receives):
            context.fail_all(line, error)
        context.advance(socket)  # pollers see POLLNVAL


def _send_stream(socket: Socket, size: int) -> SendStream:
    """Of the size that the program has set, which stays, or of `size`, which may grow."""
    stream = SendStream(socket.option("SO_SNDBUF", size))
    stream.fixed = "SO_SNDBUF" in socket.options
    return stream


def _fail(calls: list[Call], error: SocketError) -> None:
    for call in calls:
        call.fail(error)
