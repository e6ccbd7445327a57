"""What of app outlives its process, and how the next one goes on from it (docs/decisions/0010).

Each socket has a region, with what the program was told of it and with the bytes that TCP may not
have yet; bytes that came are TCP's to keep (`Credit.needed`). A table has what is not a socket's.
`commit` writes both before any message, or any answer to a program, leaves this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from plywire.calls import Call
from plywire.envelope import dump_state, load_state
from plywire.errors import DecodeError, SocketError
from plywire.messages import Close
from plywire.region import FIRST_RING, Region, Store
from plywire.regions import Regions
from services.app import names
from services.app.replies import Replies
from services.app.results import AcceptResult, ConnectResult
from services.app.sockets import (
    CONNECTED,
    ESTABLISHED,
    NOWHERE,
    PHASES,
    STATES,
    SYN_SENT,
    Leaving,
    Socket,
)
from services.app.streams import ReceiveStream, SendStream

if TYPE_CHECKING:
    from services.app.context import Context

CONTROL = 2048
"""Bytes of a socket's control block."""
MAX_REQUEST = 160
"""Characters of a request's id; the answer to one with a longer id is not kept."""
_AHEAD = 512
"""Numbers that are reserved at once, of descriptors and of handles."""

_LENGTH = 2  # bytes in front of a control block, which say how long it is


class Survival:
    """Keeps the sockets of one Context in a store, and makes them again from there.

    sessions: who owns which descriptors. say: takes a line for whoever runs the layer.
    """

    def __init__(
        self,
        context: Context,
        sessions: dict[str, set[int]],
        replies: Replies,
        store: Store,
        say: Callable[[str], object],
    ) -> None:
        self.context = context
        self.table = True  # sessions, numbers, or the tcp, have changed
        self._sessions = sessions
        self._replies = replies
        self._regions = Regions(store, CONTROL, _number, context.counters, say, (FIRST_RING, 0))
        self._reserved = [0, 0]  # descriptors and handles below are never given again

    # --- while it lives ---------------------------------------------------------------------------

    def commit(self) -> None:
        """Write what has changed. Nothing may be sent or answered before this."""
        context = self.context
        if self._reserved[0] < context.table.next or self._reserved[1] < context.next_handle:
            self._reserved = [context.table.next + _AHEAD, context.next_handle + _AHEAD]
            self.table = True
        if self.table:
            self.table = not self._regions.save_table(
                {
                    "tcp_generation": context.tcp_generation,
                    "reserved": self._reserved,
                    "sessions": list(self._sessions),
                }
            )
        touched, context.touched = context.touched, {}
        for item in touched:
            if self._alive(item):
                self._save(item)
            elif item.kept is not None:
                region, item.kept = item.kept, None
                self._regions.let_go(region)

    def _alive(self, item: Socket | Leaving) -> bool:
        context = self.context
        if isinstance(item, Leaving):
            return item.descriptor > 0 and context.closing.get(item.close.handle) is item
        return context.table.get(item.descriptor) is item

    def _save(self, item: Socket | Leaving) -> None:
        send = item.send
        sending, read = ((send.acked, send.accepted), send.read) if send else ((0, 0), _nothing)
        try:
            if item.kept is None:
                item.kept = self._regions.take(sending[0], 0)
            elif sending[1] < item.kept.snd_end:  # a stream that had begun was given up
                item.kept.begin(sending[0], 0)
            control = _control(item)
            item.kept = self._regions.save(item.kept, item.descriptor, control, sending, read)
        except (OSError, ValueError, OverflowError) as error:
            self._no_room(item, error)

    def _no_room(self, item: Socket | Leaving, error: Exception) -> None:
        """The socket works, and would not survive this process: better than to fail the call."""
        regions = self._regions
        self.context.counters["region_no_room"] += 1
        regions.say(f"descriptor {item.descriptor} would not survive this process: {error}")
        if item.kept is not None:
            region, item.kept = item.kept, None
            regions.let_go(region)

    def prepare(self) -> None:
        """Make room for the first sockets."""
        self._regions.prepare()

    def clear(self) -> None:
        """Forget all that a predecessor left."""
        self._regions.clear()

    # --- after a death ----------------------------------------------------------------------------

    def recover(self) -> bool:
        """Make the sockets again from what is in the store; whether there was anything of use."""
        regions, context = self._regions, self.context
        saved = regions.load_table()
        if saved is None:
            self.clear()
            return False
        self._reserved = saved["reserved"]
        context.table.next, context.next_handle = self._reserved
        context.tcp_generation = saved["tcp_generation"]
        self._sessions.update((session, set()) for session in saved["sessions"])
        for region, memory, item in self._found():
            if item is None:
                regions.discard(region, memory)
                continue
            item.kept = region
            if isinstance(item, Leaving):
                context.closing[item.close.handle] = item
            else:
                self._enter(item)
            context.counters["region_recovered"] += 1
        return True

    def _enter(self, socket: Socket) -> None:
        context = self.context
        context.table.put_back(socket)
        if socket.handle:
            context.handles[socket.handle] = socket
        if socket.session:  # one that is not in the table was being closed: nobody comes back to it
            self._sessions.setdefault(socket.session, set()).add(socket.descriptor)
        self.remember(socket)

    def _found(self) -> Iterator[tuple[Region, memoryview, Socket | Leaving | None]]:
        """What a predecessor left: each region, its memory, and what is in it or None."""
        for name, region, memory in self._regions.all():
            try:
                item = _item(region, memory)
            except DecodeError as error:
                self._regions.give_up(f"the socket in {name}", error)
                item = None
            yield region, memory, item

    def remember(self, socket: Socket) -> None:
        """The answers that the socket's program may ask for again."""
        for operation, key in socket.requests.items():
            answer = _ANSWERS[operation](socket)
            if answer is not None:
                self._replies.remember(key, answer)
            elif operation == "bind" and socket.binding:
                self._replies.once(key, lambda socket=socket: _asked(socket, "bind"))

    # --- after an exchange ------------------------------------------------------------------------

    def take_over(self) -> None:
        """The sockets were restored from the snapshot of a predecessor that has left: its regions,
        which say what the snapshot says, go on as this one's."""
        regions, context = self._regions, self.context
        mine = {socket.descriptor: socket for socket in context.table}
        mine |= {leaving.descriptor: leaving for leaving in context.closing.values()}
        for region, memory, found in self._found():
            item = mine.get(found.descriptor) if found is not None else None
            if item is None or not item.descriptor:
                regions.discard(region, memory)
            else:
                item.kept = region
        context.touched.update((item, None) for item in mine.values() if item.kept is None)
        self.table = True
        self.commit()


# --- a control block ------------------------------------------------------------------------------


def _control(item: Socket | Leaving) -> bytes:
    """Raises ValueError for a socket that needs more than there is room for."""
    state = dump_state(_leaving(item) if isinstance(item, Leaving) else _socket(item))
    if len(state) > CONTROL - _LENGTH:
        raise ValueError(f"its control block has {len(state)} bytes")
    return (len(state).to_bytes(_LENGTH, "little") + state).ljust(CONTROL, b"\0")


def _state(control: bytes) -> list:
    size = int.from_bytes(control[:_LENGTH], "little")
    return load_state(control[_LENGTH : _LENGTH + size])


def _number(control: bytes) -> int:
    try:
        return _state(control)[0]
    except (DecodeError, LookupError, TypeError):
        return 0


def _leaving(item: Leaving) -> list:
    return [item.descriptor, list(item.close)]


def _socket(socket: Socket) -> list:
    """A socket whose connection is over, while TCP may still be needed for its bytes, is kept as it
    was before: TCP will say again what came, and that it is over."""
    handle, state, error = socket.handle, socket.state, socket.error
    shut = socket.shut_read, socket.shut_write
    if socket.corpse:
        handle, state, error, shut = socket.corpse, ESTABLISHED, None, socket.was
    return [
        socket.descriptor,
        socket.session,
        handle,
        PHASES.index(socket.phase),
        STATES.index(state),
        _pair(socket.local),
        _pair(socket.remote),
        _pair(socket.bound),
        socket.options,
        [error.name, error.cause[:200], error.layer] if error else None,
        [*shut, socket.corked, socket.binding],
        socket.backlog,
        socket.listener,
        [[kind, list(wanted)] for kind, _, wanted in socket.expected],
        socket.trace,
        [list(key) for key in socket.requests.values() if len(key[2]) <= MAX_REQUEST],
        socket.send.to_region() if socket.send else None,
        socket.receive.to_region() if socket.receive else None,
    ]


def _item(region: Region, memory: memoryview) -> Socket | Leaving | None:
    """What a region holds, or None. Raises DecodeError for what cannot be."""
    control = region.load(memory)
    if not any(control):
        return None
    sent = region.unacknowledged()
    try:
        state = _state(control)
        if len(state) == 2:
            send = SendStream.from_region([0, 0, False], region.snd_start, sent)
            return Leaving(Close(*state[1]), state[0], send)
        return _restored(state, region.snd_start, sent)
    except (LookupError, TypeError, ValueError) as error:
        raise DecodeError("region_damaged", f"{type(error).__name__}: {error}"[:100]) from error


def _restored(state: list, acked: int, sent: bytes) -> Socket:
    (descriptor, session, handle, phase, number, local, remote, bound, given, error, flags, backlog,
     listener, expected, trace, requests, send, receive) = state  # fmt: skip
    socket = Socket(descriptor, session)
    socket.handle, socket.phase, socket.state = handle, PHASES[phase], STATES[number]
    socket.local, socket.remote = tuple(local or NOWHERE), tuple(remote or NOWHERE)
    socket.bound = tuple(bound) if bound else None
    socket.options, socket.backlog, socket.listener = given, backlog, listener
    socket.error = SocketError(*error) if error else None
    socket.shut_read, socket.shut_write, socket.corked, socket.binding = flags
    socket.expected.extend((kind, None, tuple(wanted)) for kind, wanted in expected)
    socket.requests = {key[0]: tuple(key) for key in requests}
    socket.trace = trace
    if send is not None:
        socket.send = SendStream.from_region(send, acked, sent)
    if receive is not None:
        socket.receive = ReceiveStream.from_region(receive)
        if not handle:
            _without_tcp(socket, receive)
    return socket


def _without_tcp(socket: Socket, receive: list) -> None:
    """There is no TCP any more that would say again what came."""
    needed, delivered, received, end = receive[:4]
    socket.receive.received, socket.receive.end = delivered, end
    if needed < received and socket.error is None:
        cause = "what came and was not read died with a process of this host"
        socket.error = SocketError("ECONNRESET", cause, layer="app")


def _pair(endpoint: tuple[bytes, int] | None) -> list | None:
    return list(endpoint) if endpoint and endpoint != NOWHERE else None


def _nothing(offset: int, length: int) -> bytes:
    return b""


def _asked(socket: Socket, kind: str) -> Call:
    """The call that TCP's next answer of a kind is for."""
    call = Call()
    waits = list(socket.expected)
    place = next(index for index, (each, *_) in enumerate(waits) if each == kind)
    socket.expected[place] = (kind, call, waits[place][2])
    return call


def _connected(socket: Socket) -> ConnectResult | None:
    if socket.phase != CONNECTED or socket.state == SYN_SENT:
        return None
    return ConnectResult(False, names.unpacked(socket.local), names.unpacked(socket.remote))


def _accepted(socket: Socket) -> AcceptResult:
    local, remote = names.unpacked(socket.local), names.unpacked(socket.remote)
    return AcceptResult(False, socket.descriptor, local, remote)


_ANSWERS: dict[str, Callable[[Socket], Any]] = {
    "create": lambda socket: socket.descriptor,
    "accept": _accepted,
    "bind": lambda socket: names.unpacked(socket.bound) if socket.bound else None,
    "connect": _connected,
}
