"""A socket as the program sees it, and the table of descriptors.

Two things are kept apart, as Linux keeps them: `state` is what the connection is (sk_state), and
`phase` is how far the program has come with connect() (sock->state). A non-blocking connect that
has failed leaves the connection CLOSED but the phase CONNECTING, until connect() is called again
to hear of it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from plywire.errors import SocketError
from plywire.messages import Close
from plywire.region import Region
from services.app import names, options
from services.app.replies import Key
from services.app.results import SocketInfo
from services.app.streams import ReceiveStream, SendStream

CLOSED, LISTEN, SYN_SENT, ESTABLISHED = "CLOSED", "LISTEN", "SYN-SENT", "ESTABLISHED"
STATES = (CLOSED, LISTEN, SYN_SENT, ESTABLISHED)
UNCONNECTED, CONNECTING, CONNECTED = PHASES = ("unconnected", "connecting", "connected")

POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP, POLLNVAL = 1, 2, 4, 8, 16, 32
POLLRDNORM, POLLWRNORM, POLLRDHUP = 0x40, 0x100, 0x2000
POLL_ALWAYS = POLLERR | POLLHUP | POLLNVAL

Endpoint = tuple[bytes, int]
NOWHERE: Endpoint = (names.ANY, 0)

FIRST_DESCRIPTOR = 3


class Socket:
    """One socket. descriptor 0: a connection that nobody has accepted yet.

    handle: its name on the boundary to TCP, 0 when TCP does not know it. bound: what the program
    asked bind() for, once granted. error: what SO_ERROR will report. expected: what the next Bound
    answers, in order. queue: on a listener, the connections to accept. The lists hold the calls
    that wait, first come first served.

    corpse: the handle of a connection that TCP has said is over, as long as the program may need
    bytes of it that only TCP has; was: the socket's (shut_read, shut_write) before. requests: the
    calls whose answers must outlive this process, by operation. kept: where the socket does.
    """

    __slots__ = (
        "accepts", "backlog", "binding", "bound", "connects", "corked", "corpse", "descriptor",
        "error", "expected", "handle", "kept", "listener", "local", "options", "phase", "pollers",
        "queue", "receive", "receives", "remote", "requests", "send", "sends", "session",
        "shut_read", "shut_write", "state", "trace", "was",
    )  # fmt: skip

    def __init__(self, descriptor: int, session: str) -> None:
        self.descriptor = descriptor
        self.session = session
        self.handle = 0
        self.phase = UNCONNECTED
        self.state = CLOSED
        self.local: Endpoint = NOWHERE
        self.remote: Endpoint = NOWHERE
        self.bound: Endpoint | None = None
        self.binding = False
        self.options: dict[str, Any] = {}  # numbers, TCP_CONGESTION a word
        self.error: SocketError | None = None
        self.shut_read = False
        self.shut_write = False
        self.corked = False
        self.send: SendStream | None = None
        self.receive: ReceiveStream | None = None
        self.backlog = 0
        self.listener = 0
        self.queue: deque[Socket] = deque()
        self.expected: deque[tuple[str, Any, Any]] = deque()
        self.accepts: list[Any] = []
        self.connects: list[Any] = []
        self.receives: list[Any] = []
        self.sends: list[Any] = []
        self.pollers: dict[Any, None] = {}
        self.corpse = 0
        self.was = (False, False)
        self.requests: dict[str, Key] = {}
        self.kept: Region | None = None
        self.trace = 0

    def take_error(self) -> SocketError | None:
        """The pending error, which is then reported and gone (SO_ERROR)."""
        error, self.error = self.error, None
        return error

    def disconnect(self) -> None:
        """After a failed attempt the socket is as good as new, except for what was bound."""
        self.phase = UNCONNECTED
        self.shut_read = self.shut_write = self.corked = False
        self.send = self.receive = None
        self.local, self.remote = self.bound or NOWHERE, NOWHERE

    def state_name(self) -> str:
        """The state by the RFC's name, as well as it can be known without asking TCP."""
        if self.state != ESTABLISHED:
            return self.state
        peer_ended = self.receive is not None and self.receive.end is not None
        if self.shut_write:
            return "LAST-ACK" if peer_ended else "FIN-WAIT-1"
        return "CLOSE-WAIT" if peer_ended else ESTABLISHED

    def control(self) -> dict[str, int | str]:
        """The control information for a trace: little at first, filled in by connect()."""
        fields: dict[str, int | str] = {"descriptor": self.descriptor, "state": self.state_name()}
        if self.local != NOWHERE:
            fields["local"] = names.text(self.local)
        if self.remote != NOWHERE:
            fields["remote"] = names.text(self.remote)
        if self.state == LISTEN:
            fields |= {"backlog": self.backlog, "queue": len(self.queue)}
        if self.send is not None and self.receive is not None:
            fields |= {
                "send_offset": self.send.accepted,
                "send_limit": self.send.limit,
                "receive_offset": self.receive.delivered,
                "receive_limit": self.receive.limit,
            }
        if self.error is not None:
            fields["error"] = self.error.name
        return fields

    def info(self, tcp: dict[str, int | str] | None = None) -> SocketInfo:
        """The control information for the API, with TCP's control block where it is known."""
        send, receive = self.send, self.receive
        control = dict(tcp or {})
        state = control.pop("state", "") or self.state_name()
        congestion = control.pop("congestion", "")
        unacknowledged = send.used if send and self.handle else 0
        if send and "bytes_acked" in control:  # TCP's word is newer than the credit it saves up
            unacknowledged = max(send.accepted - int(control["bytes_acked"]), 0)
        return SocketInfo(
            descriptor=self.descriptor,
            session=self.session,
            state=str(state),
            local=names.unpacked(self.local),
            remote=names.unpacked(self.remote),
            send_offset=send.accepted if send else 0,
            receive_offset=receive.delivered if receive else 0,
            receive_queue=receive.waiting if receive else len(self.queue),
            send_queue=unacknowledged,
            control={key: value for key, value in control.items() if isinstance(value, int)},
            congestion=str(congestion),
        )

    def poll(self) -> int:
        """What poll() would report, as Linux's tcp_poll says it."""
        if self.state == LISTEN:
            return POLLIN | POLLRDNORM if self.queue else 0
        mask = 0
        receive = self.receive
        ended = self.shut_read or (receive is not None and receive.end is not None)
        if self.state == CLOSED or (ended and self.shut_write):
            mask |= POLLHUP
        if ended:
            mask |= POLLIN | POLLRDNORM | POLLRDHUP
        if self.state != SYN_SENT:
            if receive is not None and receive.waiting:
                mask |= POLLIN | POLLRDNORM
            if self.state == CLOSED or self.shut_write or self.send.writable:
                mask |= POLLOUT | POLLWRNORM
        if self.error is not None:
            mask |= POLLERR
        return mask

    def to_state(self) -> dict[str, Any]:
        """For a snapshot. The calls that wait are not in it: they end with this process."""
        return {
            "descriptor": self.descriptor,
            "session": self.session,
            "handle": self.handle,
            "phase": self.phase,
            "state": self.state,
            "local": list(self.local),
            "remote": list(self.remote),
            "bound": list(self.bound) if self.bound else None,
            "options": self.options,
            "error": [self.error.name, self.error.cause, self.error.layer] if self.error else None,
            "flags": [self.shut_read, self.shut_write, self.corked, self.binding],
            "send": self.send.to_state() if self.send else None,
            "receive": self.receive.to_state() if self.receive else None,
            "backlog": self.backlog,
            "listener": self.listener,
            "queue": [child.to_state() for child in self.queue],
            "expected": [[kind, list(wanted)] for kind, _, wanted in self.expected],
            "trace": self.trace,
            "corpse": [self.corpse, *self.was],
            "requests": [list(key) for key in self.requests.values()],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Socket:
        """From `to_state`."""
        socket = cls(state["descriptor"], state["session"])
        for name in ("handle", "phase", "state", "options", "backlog", "listener", "trace"):
            setattr(socket, name, state[name])
        socket.local, socket.remote = tuple(state["local"]), tuple(state["remote"])
        socket.bound = tuple(state["bound"]) if state["bound"] else None
        socket.error = SocketError(*state["error"]) if state["error"] else None
        socket.shut_read, socket.shut_write, socket.corked, socket.binding = state["flags"]
        socket.send = SendStream.from_state(state["send"]) if state["send"] else None
        socket.receive = ReceiveStream.from_state(state["receive"]) if state["receive"] else None
        socket.queue.extend(map(cls.from_state, state["queue"]))
        socket.expected.extend((kind, None, tuple(wanted)) for kind, wanted in state["expected"])
        socket.corpse, *was = state["corpse"]
        socket.was = tuple(was)
        socket.requests = {key[0]: tuple(key) for key in state["requests"]}
        return socket

    def option(self, name: str, default: int) -> int:
        """The kept value of an option."""
        return self.options.get(name, default)

    def tcp_options(self) -> dict[str, int | str]:
        """The options to hand to TCP with Connect and Listen: those that were changed."""
        return options.for_tcp(self.options)


class Leaving:
    """What is left of a socket that was closed: until TCP has answered Close, it may have to be
    told again what it may not have heard. descriptor: 0 if it is not kept beyond this process."""

    __slots__ = ("close", "descriptor", "kept", "send")

    def __init__(self, close: Close, descriptor: int = 0, send: SendStream | None = None) -> None:
        self.close = close
        self.descriptor = descriptor
        self.send = send
        self.kept: Region | None = None


class Descriptors:
    """The table: a number for each socket. Numbers are not used again, so that a call of a program
    that died, or is late, cannot reach somebody else's socket."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.next = FIRST_DESCRIPTOR
        self._sockets: dict[int, Socket] = {}

    def __len__(self) -> int:
        return len(self._sockets)

    def __iter__(self) -> Any:
        return iter(list(self._sockets.values()))

    def get(self, descriptor: int) -> Socket | None:
        """The socket of a descriptor, or None."""
        return self._sockets.get(descriptor)

    def find(self, descriptor: int) -> Socket:
        """The socket of a descriptor. Raises EBADF."""
        socket = self._sockets.get(descriptor)
        if socket is None:
            raise SocketError("EBADF", f"there is no descriptor {descriptor}")
        return socket

    def check_room(self) -> None:
        """Raises EMFILE when the table is full."""
        if len(self._sockets) >= self.limit:
            raise SocketError("EMFILE", f"all {self.limit} descriptors are in use")

    def add(self, socket: Socket) -> int:
        """Give a socket its descriptor. Raises EMFILE."""
        self.check_room()
        socket.descriptor = self.next
        self.next += 1
        self._sockets[socket.descriptor] = socket
        return socket.descriptor

    def put_back(self, socket: Socket) -> None:
        """Enter a restored socket under the descriptor that it has."""
        self._sockets[socket.descriptor] = socket

    def remove(self, socket: Socket) -> None:
        """Its descriptor means nothing from now on."""
        del self._sockets[socket.descriptor]
