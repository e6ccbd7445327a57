"""Going on after TCP, or app itself, was killed and has recovered what it had (docs/decisions/0007
and 0010).

What was on its way between the two is lost, so each says again what the other may have missed. All
of it is harmless to hear twice: bytes have offsets, credit only grows, the rest is known already.
Then TCP is asked which sockets it knows. A connection that it does not know is over, and what is
bound or listens is introduced to it; a socket that it is not asked for is one that app has lost.
"""

from __future__ import annotations

from typing import Any

from plywire.layer import Output
from plywire.messages import AGAIN, Accepted, Closed, Hello, Info, Kept, Option, Query
from plywire.roles import TCP
from services.app.context import Context
from services.app.endpoints import Endpoints
from services.app.sockets import ESTABLISHED, LISTEN, SYN_SENT, Socket
from services.app.streaming import Streaming

_LOST = "a process of this host died, and what was kept of this connection could not be used"


class Recovery:
    """App's part of it."""

    def __init__(self, context: Context, endpoints: Endpoints, streaming: Streaming) -> None:
        self.context = context
        self._endpoints = endpoints
        self._streaming = streaming

    def resume(self, trace: int) -> None:
        """Say everything again that TCP may not have heard."""
        context = self.context
        context.checking.clear()
        if context.resuming:
            context.tell(Query(trace, 0, AGAIN))
        for leaving in list(context.closing.values()):
            close = leaving.close
            if leaving.send is not None:
                self._streaming.send_again(leaving.send, close.handle, close.trace)
            context.out.append(Output(TCP, close))
            self._check(close.handle, trace)
        for socket in list(context.handles.values()):
            self._resume(socket, trace)
        self.context.tell(Query(trace, 0))  # that was all

    def concerns(self, message: Any) -> bool:
        """Whether this is for the others: not an answer to what `resume` asked, and not what was
        said to the process that died. Of that a part may be lost, and the rest still come: without
        the bytes that came before it, a Closed would end a stream too early."""
        context = self.context
        info = message if type(message) is Info else None
        if context.resuming and type(message) not in (Hello, Kept):
            if info is not None and info.topic == AGAIN:
                context.resuming = False
            else:
                context.counters["drop_for_predecessor"] += 1
            return False
        if info is None or info.topic or info.handle not in context.checking:
            return True
        self._answered(info)
        return False

    def _answered(self, message: Info) -> None:
        context = self.context
        context.checking.discard(message.handle)
        if message.fields:
            return
        leaving = context.closing.pop(message.handle, None)
        socket = context.handles.get(message.handle)
        if leaving is not None:
            context.touched[leaving] = None
            self._endpoints.on_closed(Closed(message.trace, message.handle, "", ""))
        elif socket is not None and socket.state in (SYN_SENT, ESTABLISHED):
            self._endpoints.end(socket, "ECONNRESET", _LOST, message.trace)
        elif socket is not None:
            self._endpoints.introduce(socket, message.trace)

    def _resume(self, socket: Socket, trace: int) -> None:
        self._endpoints.ask_again(socket, trace)
        if socket.state == SYN_SENT:
            self._endpoints.connect_again(socket, trace)
        elif socket.state in (LISTEN, ESTABLISHED):
            self._set_options(socket, trace)
        if socket.state == ESTABLISHED:
            if socket.listener and socket.descriptor:
                self.context.tell(Accepted(trace, socket.handle))
            self._streaming.repeat(socket)
        self._check(socket.handle, trace)

    def _set_options(self, socket: Socket, trace: int) -> None:
        settings = socket.tcp_options()
        if socket.corked:
            settings["TCP_CORK"] = 1
        for name, value in settings.items():
            if isinstance(value, str) or value >= 0:
                self.context.tell(Option(trace, socket.handle, name, value))

    def _check(self, handle: int, trace: int) -> None:
        self.context.checking.add(handle)
        self.context.tell(Query(trace, handle))
