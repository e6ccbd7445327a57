"""The stream half of a socket: sending, receiving, and files on top of them."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from plywire.client.errors import os_error
from plywire.rpc import socket_pb2 as pb

if TYPE_CHECKING:
    from plywire.client.api import Session
    from plywire.client.readiness import Readiness
    from plywire.client.stack import Stack

MAX_RECV = 1 << 20
PIECE = 256 << 10
"""The most that one Send carries."""
FILE_BUFFER = 64 << 10
"""The default buffer of makefile: larger than io's, because each fill is a call to the API."""

_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_MORE | socket.MSG_NOSIGNAL
_RECV_FLAGS = socket.MSG_DONTWAIT | socket.MSG_PEEK | socket.MSG_WAITALL | socket.MSG_NOSIGNAL


class Stream:
    """What a socket needs to carry bytes. `Socket` is the whole of it."""

    stack: Stack  # set by Stack on the subclass that it offers as `stack.socket`
    _closed = True  # these three until __init__ is through, for __del__
    _released = True
    _descriptor = -1

    def _adopt(self, session: Session, descriptor: int) -> None:
        self._session = session
        self._descriptor = descriptor
        self._timeout = socket.getdefaulttimeout()
        self._sent: int | None = 0  # offset in the stream; None: how a Send ended is not known
        self._received = 0
        self._send_lock = threading.Lock()
        self._recv_lock = threading.Lock()
        self._readiness: Readiness | None = None
        self._io_refs = 0
        self._closed = False
        self._released = False

    def send(self, data: Any, flags: int = 0) -> int:
        """Send bytes; returns how many were taken: all when the socket blocks, else at least 1."""
        timeout = self._wait_for(flags, _SEND_FLAGS)
        more = bool(flags & socket.MSG_MORE)
        view = memoryview(data).cast("B")
        if timeout is None:
            return self._send_whole(view, more)
        deadline = time.monotonic() + timeout
        while True:
            taken = self._send_piece(view[:MAX_RECV], 0.0, more)
            if taken or not view.nbytes:
                return taken
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._blocked(timeout)
            self._poll(select.POLLOUT, left)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of it, within the timeout."""
        timeout = self._wait_for(flags, _SEND_FLAGS)
        more = bool(flags & socket.MSG_MORE)
        view = memoryview(data).cast("B")
        deadline = None if timeout is None else time.monotonic() + timeout
        done = 0
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            taken = self._send_piece(view[done : done + PIECE], left, more)
            done += taken
            if done == view.nbytes:
                return
            if not taken:  # when only a part was taken, the next call says why
                raise self._blocked(timeout)

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Any = (), flags: int = 0, address: Any = None
    ) -> int:
        """Send several buffers as one. There is no ancillary data."""
        if list(ancdata):
            raise os_error(errno.EINVAL, "no ancillary data on a plywire socket")
        if address is not None:
            raise os_error(errno.EISCONN)
        return self.send(b"".join(buffers), flags)

    def sendfile(self, file: BinaryIO, offset: int = 0, count: int | None = None) -> int:
        """Send a file from offset on, by reading it; returns the number of bytes sent."""
        if self._timeout == 0:
            raise ValueError("non-blocking sockets are not supported")
        if count is not None and count <= 0:
            raise ValueError(f"count must be a positive integer (got {count!r})")
        file.seek(offset)
        total = 0
        while count is None or total < count:
            data = file.read(PIECE if count is None else min(PIECE, count - total))
            if not data:
                break
            self.sendall(data)
            total += len(data)
        return total

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Up to bufsize bytes, b"" at the end of the stream. At most 1 MiB at once."""
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        timeout = self._wait_for(flags, _RECV_FLAGS)
        peek = bool(flags & socket.MSG_PEEK)
        if flags & socket.MSG_WAITALL and timeout is None and not peek:
            return self._recv_all(bufsize)
        return self._recv(bufsize, timeout, peek) if bufsize else b""

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As recv, into a buffer; returns the number of bytes."""
        view = memoryview(buffer).cast("B")
        if nbytes < 0:
            raise ValueError("negative buffersize in recv_into")
        if nbytes > view.nbytes:
            raise ValueError("buffer too small for requested bytes")
        data = self.recv(nbytes or view.nbytes, flags)
        view[: len(data)] = data
        return len(data)

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, None]:
        """As recv; TCP names no sender for each read."""
        return self.recv(bufsize, flags), None

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, None]:
        """As recv_into; TCP names no sender for each read."""
        return self.recv_into(buffer, nbytes, flags), None

    def makefile(
        self,
        mode: str = "r",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """A file on the socket, which stays open until both are closed."""
        if not set(mode) <= {"r", "w", "b"}:
            raise ValueError(f"invalid mode {mode!r} (only r, w, b allowed)")
        writing = "w" in mode
        reading = "r" in mode or not writing
        raw = socket.SocketIO(self, "r" * reading + "w" * writing)
        self._io_refs += 1
        if buffering is None or buffering < 0:
            buffering = FILE_BUFFER
        if buffering == 0:
            if "b" not in mode:
                raise ValueError("unbuffered streams must be binary")
            return raw
        if reading and writing:
            buffer: Any = io.BufferedRWPair(raw, raw, buffering)
        elif reading:
            buffer = io.BufferedReader(raw, buffering)
        else:
            buffer = io.BufferedWriter(raw, buffering)
        if "b" in mode:
            return buffer
        text = io.TextIOWrapper(buffer, io.text_encoding(encoding), errors, newline)
        text.mode = mode
        return text

    def _send_whole(self, view: memoryview, more: bool) -> int:
        """send() of a socket that blocks: all, or what was taken before an error, as the kernel;
        the next call reports that."""
        done = 0
        while True:
            piece = view[done : done + PIECE]
            try:
                taken = self._send_piece(piece, None, more)
            except OSError:
                if done:
                    return done
                raise
            done += taken
            if taken < piece.nbytes or done == view.nbytes:
                return done

    def _send_piece(self, piece: memoryview, timeout: float | None, more: bool) -> int:
        with _hold(self._send_lock, timeout) as held:
            if not held:
                return 0
            descriptor = self._open()
            start = self._sent
            if start is None:
                # What an interrupted Send got through is known to the API only.
                request = pb.GetSocketRequest(descriptor=descriptor)
                start = self._call("GetSocket", request).socket.send_offset
            self._sent = None
            try:
                response = self._call(
                    "Send",
                    pb.SendRequest(
                        descriptor=descriptor,
                        offset=start,
                        data=bytes(piece),
                        timeout=timeout,
                        more=more,
                    ),
                    wait=timeout,
                )
            except OSError:
                self._refresh()
                raise
            self._sent = response.offset
        if response.would_block and self._readiness is not None:
            self.stack.poller.update(self._readiness, writable=False)
        return response.offset - start

    def _recv_all(self, size: int) -> bytes:
        parts = []
        while size > 0:
            try:
                data = self._recv(size, None, False)
            except OSError:
                if parts:
                    break
                raise
            if not data:
                break
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def _recv(self, size: int, timeout: float | None, peek: bool) -> bytes:
        with _hold(self._recv_lock, timeout) as held:
            if not held:
                raise self._blocked(timeout)
            request = pb.RecvRequest(
                descriptor=self._open(),
                offset=self._received,
                max_bytes=min(size, MAX_RECV),
                timeout=timeout,
                peek=peek,
            )
            try:
                response = self._call("Recv", request, wait=timeout)
            except OSError:
                self._refresh()
                raise
            if not peek:
                self._received = response.offset + len(response.data)
        item = self._readiness
        if response.would_block:
            if item is not None and item.readable:
                self._refresh()
            raise self._blocked(timeout)
        if item is not None and not peek:
            self.stack.poller.update(item, readable=response.more or response.end_of_stream)
        return response.data

    def _open(self) -> int:
        """The descriptor, unless it is closed."""
        if self._released:
            raise os_error(errno.EBADF)
        return self._descriptor

    def _call(self, name: str, request: Any, **how: Any) -> Any:
        api = self.stack.api
        return api.call(getattr(api.stub, name), request, session=self._session, **how)

    def _info(self) -> pb.Socket:
        return self._call("GetSocket", pb.GetSocketRequest(descriptor=self._open())).socket

    def _poll(self, events: int, timeout: float = 0.0) -> int:
        item = pb.PollItem(descriptor=self._open(), events=events)
        response = self._call("Poll", pb.PollRequest(items=[item], timeout=timeout), wait=timeout)
        return response.ready[0].events if response.ready else 0

    def _refresh(self) -> None:
        if self._readiness is not None and not self._released:
            self.stack.poller.refresh(self._readiness, self._poll)

    def _wait_for(self, flags: int, known: int) -> float | None:
        if flags & ~known:
            raise os_error(errno.EOPNOTSUPP, f"flags {flags & ~known:#x} are not supported")
        return 0.0 if flags & socket.MSG_DONTWAIT else self._timeout

    def _blocked(self, timeout: float | None) -> OSError:
        if timeout:
            return TimeoutError("timed out")
        return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@contextlib.contextmanager
def _hold(lock: threading.Lock, timeout: float | None) -> Iterator[bool]:
    """Whether the lock was had within the timeout of a call."""
    held = lock.acquire() if timeout is None else lock.acquire(timeout > 0, timeout or -1)
    try:
        yield held
    finally:
        if held:
            lock.release()
