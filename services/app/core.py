"""The app layer: the socket operations of one host behind the contract of a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plywire import messages
from plywire.envelope import dump_state, load_state
from plywire.errors import DecodeError
from plywire.layer import Output
from plywire.messages import Hello, Kept, Message
from plywire.region import Store
from plywire.roles import TCP, Role
from services.app.operations import Operations
from services.app.sockets import Leaving, Socket
from services.app.streams import SendStream
from services.app.survival import Survival

STATE_VERSION = 3


class AppLayer(Operations):
    """Descriptors, blocking calls and names, in front of the tcp layer."""

    role = "app"
    state_format = "app/3"

    def receive(self, message: Message, source: Role, now: int) -> None:
        """Take one message from tcp."""
        context = self.context
        context.now = now
        context.cause = message.trace
        try:
            handler = _HANDLERS.get(type(message))
            if handler is None or source != TCP:
                raise DecodeError("unexpected_message", type(message).__name__)
            if self._recovery.concerns(message) and not self._crossed_close(message):
                handler(self, message)
        except DecodeError as error:
            self.counters[f"drop_{error.reason}"] += 1
            if self._tracer.enabled:
                self._tracer.drop(now, message.trace, f"drop_{error.reason}")
        finally:
            context.cause = 0

    def expire(self, now: int) -> None:
        """Answer the calls whose timeout has passed."""
        self.context.now = now
        self.context.expire()

    def deadline(self) -> int | None:
        """When the next timeout passes."""
        return self.context.timers.deadline()

    def outputs(self) -> list[Output]:
        """Messages for tcp. Before they, or the answers to calls, are handed out, what they promise
        is where it outlives this process."""
        context = self.context
        if context.survival is not None:
            context.survival.commit()
        else:
            context.touched.clear()
        out, context.out = context.out, []
        return out

    def keep_in(
        self, store: Store, now: int, say: Callable[[str], object], restored: bool = False
    ) -> dict[Role, int]:
        """`plywire.layer.Survivor`: from now on, everything is in `store` before it is promised."""
        context = self.context
        context.now = now
        survival = Survival(context, self._sessions, self._replies, store, say)
        if not self.host.app.survive:
            survival.clear()
            return {}
        context.survival = survival
        known = False
        if restored:
            survival.take_over()
        elif survival.recover():
            context.resuming = True
            self.lease_sessions(now)
            known = context.tcp_generation is not None
        survival.prepare()
        return {TCP: context.tcp_generation} if known else {}

    def snapshot(self) -> bytes:
        """Descriptors, buffers and offsets. The calls that wait end with this process."""
        context = self.context
        return dump_state(
            {
                "version": STATE_VERSION,
                "next": [context.table.next, context.next_handle],
                "tcp_generation": context.tcp_generation,
                "sockets": [socket.to_state() for socket in context.table],
                "sessions": {session: sorted(owned) for session, owned in self._sessions.items()},
                "closing": [
                    [list(each.close), each.descriptor, each.send.to_state() if each.send else None]
                    for each in context.closing.values()
                ],
                "held": [[held.KIND, *held] for held in context.held],
                "replies": self._replies.to_state(),
                "counters": dict(self.counters),
            }
        )

    def restore(self, state: bytes, now: int) -> None:
        """Take over from a snapshot. TCP is sent again what it may have missed."""
        context = self.context
        context.now = now
        data = load_state(state)
        if data["version"] != STATE_VERSION:
            raise DecodeError("bad_snapshot", f"version {data['version']}")
        context.table.next, context.next_handle = data["next"]
        context.tcp_generation = data["tcp_generation"]
        for row in data["sockets"]:
            socket = Socket.from_state(row)
            context.table.put_back(socket)
            for each in (socket, *socket.queue):
                if each.corpse:
                    context.corpses[each.corpse] = each
                if each.handle:
                    context.handles[each.handle] = each
                    self._streaming.repeat(each)
        self._sessions = {session: set(owned) for session, owned in data["sessions"].items()}
        self.lease_sessions(now)
        for kind, *fields in data["held"]:
            context.held.append(messages.KINDS[kind]._make(fields))
        for row, descriptor, send in data["closing"]:
            close, stream = messages.Close(*row), SendStream.from_state(send) if send else None
            context.closing[close.handle] = Leaving(close, descriptor, stream)
        self._replies.restore(data["replies"])
        self.counters.update(data["counters"])

    def describe(self, topic: str, now: int) -> object:
        """`sockets`, `sessions`, `waiting` (calls) or `counters`."""
        if topic == "sockets":
            return [
                socket.control() | {"session": socket.session, "ready": socket.poll()}
                for socket in self.context.table
            ]
        if topic == "sessions":
            return {session: sorted(owned) for session, owned in self._sessions.items()}
        if topic == "waiting":
            return len(self.context.waiters)
        if topic == "counters":
            return dict(self.counters)
        raise KeyError(topic)

    def _crossed_close(self, message: Any) -> bool:
        """TCP sent this before it heard of the Close: nobody waits for it any more. Or it is a TCP
        that has recovered, and says again what app knows of a connection that is over."""
        if getattr(message, "handle", 0) in self.context.corpses:
            return True
        closing = self.context.closing
        if type(message) is messages.Closed:
            leaving = closing.pop(message.handle, None)
            if leaving is not None:
                self.context.touched[leaving] = None
                return False
            socket = self.context.handles.get(message.handle)
            if socket is None or socket.receive is None or not socket.receive.needs_tcp:
                # Not asked for: TCP keeps what it said of it until it knows that it was heard.
                confirmed = messages.Close(message.trace, message.handle, 0, 0)
                self.context.out.append(Output(TCP, confirmed))
            return False
        leaving = closing.get(getattr(message, "handle", 0)) if closing else None
        if leaving is None:
            return False
        if type(message) is messages.Credit and leaving.send is not None:
            leaving.send.acknowledge(message.acked, message.limit)
        return True

    def _socket(self, message: Any) -> Socket:
        socket = self.context.handles.get(message.handle)
        if socket is None:
            raise DecodeError("unknown_handle", str(message.handle))
        return socket

    def _stream(self, message: Any) -> Socket:
        socket = self._socket(message)
        if socket.receive is None:
            raise DecodeError("no_stream", str(message.handle))
        return socket

    def _hello(self, message: Hello) -> None:
        """TCP is there. One with a new generation knows nothing of what the old one knew."""
        context = self.context
        before, context.tcp_generation = context.tcp_generation, message.generation
        if context.survival is not None:
            context.survival.table = True
        if context.resuming and before in (None, message.generation):
            self._recovery.resume(message.trace)
        elif before is None:
            pass  # it is told what was held for it
        elif before != message.generation:
            if self._tracer.enabled:
                self._tracer.note(context.now, message.trace, "tcp replaced")
            self._readiness.replaced()
            if context.recovered:
                self._recovery.resume(message.trace)
            else:
                context.resuming = False
                context.touched.update(dict.fromkeys(context.closing.values()))
                context.closing.clear()
                self._endpoints.replaced(message.trace)
        context.recovered = False
        held, context.held = context.held, []
        context.out.extend(Output(TCP, each) for each in held)

    def _kept(self, message: Kept) -> None:
        self.context.recovered = True


_HANDLERS: dict[type, Callable[[AppLayer, Any], None]] = {
    messages.Data: lambda layer, message: layer._streaming.on_data(message, layer._stream(message)),
    messages.Credit: lambda layer, message: layer._streaming.on_credit(
        message, layer._stream(message)
    ),
    messages.End: lambda layer, message: layer._streaming.on_end(message, layer._stream(message)),
    messages.Opened: lambda layer, message: layer._endpoints.on_opened(message),
    messages.Closed: lambda layer, message: layer._endpoints.on_closed(message),
    messages.Bound: lambda layer, message: layer._endpoints.on_bound(
        message, layer._socket(message)
    ),
    messages.Info: lambda layer, message: layer._readiness.on_info(message),
    messages.Hello: lambda layer, message: layer._hello(message),
    messages.Kept: lambda layer, message: layer._kept(message),
}
