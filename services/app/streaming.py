"""The bytes: send, recv and shutdown, and TCP's Data, Credit and End.

Errors and their order follow Linux (tcp_sendmsg, tcp_recvmsg, inet_shutdown), but for one: sending
on a socket that was never connected is ENOTCONN, as POSIX has it, where Linux says EPIPE.
"""

from __future__ import annotations

from plywire.calls import Call
from plywire.errors import SocketError
from plywire.messages import Credit, Data, End, Option
from services.app.context import Context, Waiter
from services.app.endpoints import Endpoints
from services.app.results import RecvResult, SendResult
from services.app.sockets import (
    CLOSED,
    CONNECTED,
    CONNECTING,
    ESTABLISHED,
    LISTEN,
    SYN_SENT,
    UNCONNECTED,
    Socket,
)
from services.app.streams import PIECE, SendStream

MAX_TRANSFER = 1 << 20
"""Bytes of one send or recv."""


class Streaming:
    """The operations on open connections."""

    def __init__(self, context: Context, endpoints: Endpoints) -> None:
        self.context = context
        self.endpoints = endpoints

    # --- the program's calls ---

    def send(
        self,
        socket: Socket,
        data: bytes,
        offset: int | None,
        timeout: int | None,
        more: bool,
        trace: int,
    ) -> Call:
        """Hand bytes to TCP; what lies before what was accepted already is skipped."""
        if len(data) > MAX_TRANSFER:
            raise SocketError("EINVAL", f"{len(data)} bytes at once, {MAX_TRANSFER} at most")
        waiter = _Sending(trace, socket, self.context, data, offset, more)
        return self.context.run(waiter, timeout)

    def recv(
        self,
        socket: Socket,
        max_bytes: int,
        offset: int | None,
        timeout: int | None,
        peek: bool,
        acknowledged: int | None,
        trace: int,
    ) -> Call:
        """Give the program bytes; from an offset below where it stands, those it had already."""
        if max_bytes < 0:
            raise SocketError("EINVAL", f"{max_bytes} bytes")
        waiter = _Receiving(trace, socket, self.context, min(max_bytes, MAX_TRANSFER), offset, peek)
        stream = socket.receive
        if stream is not None:
            if offset is None:
                stream.forget(stream.delivered)
            else:
                stream.forget(min(offset if acknowledged is None else acknowledged, offset))
                if offset < min(stream.delivered, stream.received):
                    return Call().resolve(waiter.attempt())  # does not wait, nor stand in line
            if socket.corpse and not stream.needs_tcp:
                self.context.confirm(socket)
        return self.context.run(waiter, timeout)

    def shutdown(self, socket: Socket, how: str, trace: int) -> None:
        """Close one or both directions. Raises ENOTCONN when there is no connection."""
        if how not in ("read", "write", "both"):
            raise SocketError("EINVAL", f"{how[:20]!r} is not read, write or both")
        read, write = how != "write", how != "read"
        if socket.phase == CONNECTING:
            socket.phase = CONNECTED if socket.state == ESTABLISHED else UNCONNECTED
        if socket.state == SYN_SENT or (socket.state == LISTEN and read):
            self.endpoints.stop(socket, trace)
            return
        if socket.state == LISTEN:
            return
        ends = write and not socket.shut_write and socket.state == ESTABLISHED
        before = socket.control() if self.context.tracer.enabled else {}
        socket.shut_read |= read
        socket.shut_write |= write
        if ends and socket.handle:
            self.context.tell(End(trace, socket.handle, socket.send.accepted))
            if self.context.tracer.enabled:
                self.context.changed(trace, "Shutdown", before, socket)
        self.context.advance(socket)
        if socket.state == CLOSED:
            raise SocketError("ENOTCONN", "there is no connection")

    def grow_credit(self, socket: Socket, trace: int) -> None:
        """After SO_RCVBUF was set: tell TCP if there is room that it does not know of."""
        stream = socket.receive
        if stream is not None and socket.handle and stream.credit():
            tell_credit(self.context, socket, trace)

    def repeat(self, socket: Socket) -> None:
        """After a restore: say again what TCP may not have got."""
        if socket.send is None or socket.state != ESTABLISHED:
            return
        self.send_again(socket.send, socket.handle, socket.trace)
        tell_credit(self.context, socket, socket.trace)
        if socket.shut_write:
            self.context.tell(End(socket.trace, socket.handle, socket.send.accepted))

    def send_again(self, stream: SendStream, handle: int, trace: int) -> None:
        """The bytes that TCP has not acknowledged."""
        for offset, chunk in stream.retained():
            for start in range(0, len(chunk), PIECE):
                piece = chunk[start : start + PIECE]
                self.context.tell(Data(trace, handle, offset + start, piece))

    # --- what TCP says; each may raise DecodeError ---

    def on_data(self, message: Data, socket: Socket) -> None:
        """Bytes of the stream."""
        socket.receive.push(message.offset, message.payload)
        self.context.counters["bytes_received"] += len(message.payload)
        self.context.advance(socket)

    def on_credit(self, message: Credit, socket: Socket) -> None:
        """TCP has bytes for good, and takes more."""
        socket.send.acknowledge(message.acked, message.limit)
        if socket.sends or socket.pollers:
            self.context.advance(socket)

    def on_end(self, message: End, socket: Socket) -> None:
        """The peer sends no more."""
        if socket.receive.end is not None:
            return
        before = socket.control() if self.context.tracer.enabled else {}
        socket.receive.finish(message.offset)
        if self.context.tracer.enabled:
            self.context.changed(message.trace, "End", before, socket)
        self.context.advance(socket)


def tell_credit(context: Context, socket: Socket, trace: int) -> None:
    """How far the program has read, how much may come, and what may be asked for again."""
    stream = socket.receive
    context.touched[socket] = None  # what TCP lets go of must not be missed by a successor
    context.tell(Credit(trace, socket.handle, stream.delivered, stream.limit, stream.needed))


class _Sending(Waiter):
    """send(): until all of the data is accepted."""

    __slots__ = ("context", "data", "end", "more", "offset", "start", "taken")
    socket: Socket

    def __init__(
        self,
        trace: int,
        socket: Socket,
        context: Context,
        data: bytes,
        offset: int | None,
        more: bool,
    ) -> None:
        super().__init__(trace, socket, socket.sends, len(data))
        self.context = context
        self.data = data
        self.offset = offset
        self.more = more
        self.start = -1  # offset of the first byte in the stream, known when its turn comes
        self.end = -1
        self.taken = 0  # bytes of it that TCP has been given

    def attempt(self) -> SendResult | None:
        socket, stream = self.socket, self.socket.send
        first = self.start < 0
        if first and stream is not None:
            self._begin(stream.accepted)
            if self.data and stream.accepted >= self.end:
                return SendResult(self.end, False)  # repeated after a lost reply
        if socket.state != ESTABLISHED or socket.shut_write:
            return self._refuse()
        if self.data:
            self._push()
        if stream.accepted < self.end:
            return None
        return SendResult(self.end, False)

    def give_up(self) -> SendResult:
        stream = self.socket.send
        if stream is None:
            return SendResult(0, True)
        if self.start < 0:  # it stood in line all the time
            reached = stream.accepted
            start = reached if self.offset is None else self.offset
            return SendResult(max(start, min(reached, start + len(self.data))), True)
        return SendResult(min(stream.accepted, self.end), True)

    def _begin(self, accepted: int) -> None:
        start = accepted if self.offset is None else self.offset
        if start > accepted:
            raise SocketError("EINVAL", f"offset {start}, the stream is accepted up to {accepted}")
        self.start, self.end = start, start + len(self.data)

    def _refuse(self) -> SendResult | None:
        """What a send does on a socket that takes no data, or none yet. When part of it was
        accepted that is the answer, and the next send reports the error."""
        socket = self.socket
        if socket.state == SYN_SENT:
            if socket.error is not None:
                raise socket.take_error()
            return None
        if self.taken:
            return SendResult(min(socket.send.accepted, self.end), False)
        error = socket.take_error()
        if error is not None:
            raise error
        if socket.state == CLOSED and socket.phase == UNCONNECTED and not socket.shut_write:
            raise SocketError("ENOTCONN", "the socket was never connected")
        raise SocketError("EPIPE", "the connection takes no more data")

    def _push(self) -> None:
        """Give TCP what its credit allows, in pieces."""
        socket, stream, context = self.socket, self.socket.send, self.context
        position = stream.accepted
        take = min(stream.space, self.end - position)
        if take <= 0:
            return
        trace = context.trace_of(self.trace)
        if self.more and not socket.corked:
            socket.corked = True
            context.tell(Option(trace, socket.handle, "TCP_CORK", 1))
        self.taken += take
        context.touched[socket] = None
        index = position - self.start
        data = self.data
        whole = take == len(data) and take <= PIECE
        while take > 0:
            size = min(PIECE, take)
            piece = data if whole else bytes(data[index : index + size])
            context.tell(Data(trace, socket.handle, stream.push(piece), piece))
            index += size
            take -= size
        context.counters["bytes_sent"] += stream.accepted - position
        if socket.corked and not self.more and stream.accepted == self.end:
            socket.corked = False
            user = socket.option("TCP_CORK", 0)
            context.tell(Option(trace, socket.handle, "TCP_CORK", user))


class _Receiving(Waiter):
    """recv(): until there is a byte, the end, or an error."""

    __slots__ = ("context", "count", "offset", "peek")
    socket: Socket

    def __init__(
        self,
        trace: int,
        socket: Socket,
        context: Context,
        count: int,
        offset: int | None,
        peek: bool,
    ) -> None:
        super().__init__(trace, socket, socket.receives)
        self.context = context
        self.count = count
        self.offset = offset
        self.peek = peek

    def attempt(self) -> RecvResult | None:
        socket, stream = self.socket, self.socket.receive
        if socket.state == LISTEN:
            raise SocketError("ENOTCONN", "a listening socket has no stream")
        if stream is None:
            return self._without_stream()
        position = stream.delivered
        if self.offset is not None and self.offset != position:
            return self._replay()
        if stream.received < position:
            return None  # TCP has not said all again yet
        if stream.waiting and self.count:
            return self._take()
        if not self.count:
            return RecvResult(position, b"", more=stream.waiting > 0)
        if stream.ended:
            return RecvResult(position, b"", end_of_stream=True)
        if socket.error is not None:
            raise socket.take_error()
        if socket.shut_read:
            return RecvResult(position, b"", end_of_stream=True)
        return None

    def give_up(self) -> RecvResult:
        stream = self.socket.receive
        return RecvResult(stream.delivered if stream is not None else 0, b"", would_block=True)

    def _take(self) -> RecvResult:
        socket, stream = self.socket, self.socket.receive
        position = stream.delivered
        if self.peek:
            return RecvResult(position, stream.peek(self.count), more=True)
        data = stream.read(self.count, keep=self.offset is not None)
        if socket.handle and stream.credit(socket.send.accepted):
            tell_credit(self.context, socket, self.context.trace_of(self.trace))
        more = stream.waiting > 0 or stream.end is not None or socket.shut_read
        return RecvResult(position, data, stream.ended, False, more or socket.error is not None)

    def _replay(self) -> RecvResult | None:
        """Bytes from an offset that is not where the stream stands."""
        socket, stream = self.socket, self.socket.receive
        offset, position = self.offset, stream.delivered
        if offset > position:
            raise SocketError("EINVAL", f"offset {offset}, the stream was read up to {position}")
        if offset >= stream.received:
            return None  # likewise
        data = stream.replay(offset, self.count)
        if data is None:
            raise SocketError("EINVAL", f"what was read at offset {offset} is not kept any more")
        last = offset + len(data) == position
        more = not last or stream.waiting > 0 or stream.end is not None or socket.shut_read
        return RecvResult(offset, data, last and stream.ended, more=more)

    def _without_stream(self) -> RecvResult:
        socket = self.socket
        if not self.count:
            return RecvResult(0, b"")
        if socket.error is not None:
            raise socket.take_error()
        if socket.shut_read:
            return RecvResult(0, b"", end_of_stream=True)
        raise SocketError("ENOTCONN", "the socket was never connected")
