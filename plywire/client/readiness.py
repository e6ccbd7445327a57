"""A descriptor that select, poll and epoll understand, for sockets that live behind an API.

Each watched socket has a socketpair. The end that the program gets is made readable by a byte in
it and unwritable by filling it up, so any way of waiting for descriptors works, level-triggered as
for a kernel socket. One thread per stack keeps them true by a long poll over the sockets whose
state it does not know to be ready: a socket that is ready stays so until the program's own next
call says otherwise. With nothing unknown, and nothing happening, the thread sleeps.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any

import grpc

from plywire.client.errors import is_lost
from plywire.rpc import socket_pb2 as pb

_BOTH = select.POLLIN | select.POLLOUT
_FILL = bytes(2048)


class Readiness:
    """The descriptor of one socket, and what it says. Changed only under its poller's lock.

    epoch counts the calls after which an older answer about this socket means nothing.
    """

    __slots__ = ("_inner", "_outer", "descriptor", "epoch", "failed", "readable", "writable")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.epoch = 0
        self.readable = False
        self.writable = True
        self.failed = False  # the API is gone: ready for ever, so that the program finds out
        self._outer, self._inner = socket.socketpair()
        for end in (self._outer, self._inner):
            end.setblocking(False)
        self._outer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least there is

    def fileno(self) -> int:
        """The end that the program waits on."""
        return self._outer.fileno()

    def set(self, readable: bool, writable: bool) -> None:
        """Make the descriptor say so."""
        if readable is not self.readable:
            self.readable = readable
            if readable:
                self._inner.send(b"\0")
            else:
                _drain(self._outer)
        if writable is not self.writable:
            self.writable = writable
            if writable:
                _drain(self._inner)
            else:
                _fill(self._outer)

    def close(self) -> None:
        """Give both ends back."""
        self._outer.close()
        self._inner.close()


class Poller:
    """The thread that keeps the descriptors of one stack true, and closes what nobody closed.

    ask: starts a Poll call and returns its grpc future; close: closes a descriptor of the API;
    lives: waits until it is known whether an API that has gone came back with the sockets.
    """

    def __init__(
        self,
        ask: Callable[[pb.PollRequest], grpc.Future],
        close: Callable[[Any, int], None],
        lives: Callable[[], bool],
    ) -> None:
        self._ask = ask
        self._close = close
        self._lives = lives
        self._lock = threading.Lock()
        self._watched: dict[int, Readiness] = {}
        # What wakes the thread: a callable to run, or None to look again. SimpleQueue may be put
        # to from a finalizer, in the middle of anything.
        self._events: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="plywire-poller", daemon=True)
        self._thread.start()

    def watch(self, descriptor: int) -> Readiness:
        """A readiness for a descriptor; it says nothing true before the first `refresh`."""
        item = Readiness(descriptor)
        with self._lock:
            self._watched[descriptor] = item
        return item

    def forget(self, item: Readiness) -> None:
        """The socket is closed."""
        with self._lock:
            if self._watched.get(item.descriptor) is item:
                del self._watched[item.descriptor]
            item.close()
        self._events.put(None)

    def abandon(self, session: Any, descriptor: int, item: Readiness | None) -> None:
        """The program lost a socket without closing it. Called from a finalizer: only queues."""

        def clean() -> None:
            if item is not None:
                self.forget(item)
            self._close(session, descriptor)

        self._events.put(clean)

    def update(
        self, item: Readiness, *, readable: bool | None = None, writable: bool | None = None
    ) -> None:
        """A call has shown what the socket is now (None: it has not shown it)."""
        with self._lock:
            if item.fileno() < 0 or item.failed:
                return
            item.epoch += 1
            item.set(
                item.readable if readable is None else readable,
                item.writable if writable is None else writable,
            )
            armed = not (item.readable and item.writable)
        if armed:
            self._events.put(None)

    def refresh(self, item: Readiness, poll: Callable[[int], int]) -> None:
        """Ask what the socket is now. poll: takes poll's events and returns those that hold."""
        epoch = item.epoch
        try:
            revents = poll(_BOTH)
        except OSError:
            revents = select.POLLERR
        if item.epoch == epoch:
            self.update(item, readable=_readable(revents), writable=_writable(revents))
        else:  # another thread was quicker: let the long poll find out
            self.update(item, readable=False, writable=False)

    def stop(self) -> None:
        """End the thread, and make every descriptor ready so that nobody waits for ever."""
        self._stopped = True
        self._events.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        call: Any = None
        asked: dict[int, tuple[int, int]] = {}
        while not self._stopped:
            event = self._events.get()
            if event is not None:
                event()
            if not self._events.empty() and not self._stopped:
                continue
            if call is not None and call.done():
                self._answer(call, asked)
                call = None
            wanted = self._wanted()
            if call is not None and not wanted.items() <= asked.items():
                call.cancel()
                call = None
            if call is None and wanted:
                asked = wanted
                call = self._start(asked)
        if call is not None:
            call.cancel()
        with self._lock:
            for item in self._watched.values():
                _fail(item)

    def _wanted(self) -> dict[int, tuple[int, int]]:
        """What is not known to be ready: descriptor -> (events, epoch)."""
        with self._lock:
            return {
                descriptor: (
                    (0 if item.readable else select.POLLIN)
                    | (0 if item.writable else select.POLLOUT),
                    item.epoch,
                )
                for descriptor, item in self._watched.items()
                if not (item.readable and item.writable)
            }

    def _start(self, asked: dict[int, tuple[int, int]]) -> Any:
        request = pb.PollRequest(items=_items(asked))
        try:
            call = self._ask(request)
        except ValueError:  # the channel was closed
            self._fail(asked)
            return None
        call.add_done_callback(lambda _: self._events.put(None))
        return call

    def _answer(self, call: Any, asked: dict[int, tuple[int, int]]) -> None:
        try:
            response = call.result()
        except grpc.FutureCancelledError:
            self._fail(asked)
            return
        except grpc.RpcError as error:
            if is_lost(error) and not self._stopped and self._lives():
                self._events.put(None)  # ask again
            else:
                self._fail(asked)
            return
        with self._lock:
            for ready in response.ready:
                item = self._watched.get(ready.descriptor)
                # An answer from before the program's last call on the socket may be about what
                # that call has consumed.
                if item is None or asked.get(ready.descriptor, (0, -1))[1] != item.epoch:
                    continue
                item.set(
                    item.readable or _readable(ready.events),
                    item.writable or _writable(ready.events),
                )

    def _fail(self, asked: dict[int, tuple[int, int]]) -> None:
        with self._lock:
            for descriptor in asked:
                if (item := self._watched.get(descriptor)) is not None:
                    _fail(item)


def _items(asked: dict[int, tuple[int, int]]) -> Iterable[pb.PollItem]:
    return (pb.PollItem(descriptor=key, events=events) for key, (events, _) in asked.items())


# An error or hang-up is for the program to find, by reading or by writing. Whatever else the API
# may answer counts as readable, so that no answer leaves the state as it was and is asked again.


def _readable(revents: int) -> bool:
    return bool(revents & ~select.POLLOUT)


def _writable(revents: int) -> bool:
    return bool(revents & (select.POLLOUT | select.POLLERR | select.POLLHUP | select.POLLNVAL))


def _fail(item: Readiness) -> None:
    item.failed = True
    item.set(True, True)


def _fill(end: socket.socket) -> None:
    try:
        while True:
            end.send(_FILL)
    except BlockingIOError:
        pass


def _drain(end: socket.socket) -> None:
    try:
        while end.recv(65536):
            pass
    except BlockingIOError:
        pass
