"""Captures on a TCP port of this machine, for `wireshark -k -i TCP@127.0.0.1:PORT`.

Each reader has a capture of its own that begins when it connects; the layers trace while there is
one. A reader that is too slow loses packets of its own only.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable

from plywire.lab.capture.outputs import SocketOutput
from plywire.lab.capture.recording import Recording
from plywire.lab.capture.session import STALLED, Plan, Session, Sink
from plywire.lab.capture.wakeups import Wakeups
from plywire.lab.control import LabClient
from plywire.lab.rundir import LabError

ADDRESS = "127.0.0.1"
MAX_READERS = 16


def serve(client: LabClient, plan: Plan, port: int, say: Callable[[str], object]) -> None:
    """Serve until a signal, or until the lab has ended. port: 0 for any. Raises LabError."""
    try:
        listener = socket.create_server((ADDRESS, port))
    except OSError as error:
        raise LabError(
            f"port {port} of {ADDRESS} cannot be served ({os.strerror(error.errno)}):"
            " name another one, or 0 for any"
        ) from None
    with listener, Wakeups() as wakeups:
        port = listener.getsockname()[1]
        listener.setblocking(False)
        say(f"serving at {ADDRESS}:{port}: wireshark -k -i TCP@{ADDRESS}:{port}")
        _Server(client, plan, listener, wakeups, say).run()


class _Server:
    """The loop. Sessions are by the descriptor of their connection."""

    def __init__(
        self,
        client: LabClient,
        plan: Plan,
        listener: socket.socket,
        wakeups: Wakeups,
        say: Callable[[str], object],
    ) -> None:
        self._client = client
        self._plan = plan
        self._listener = listener
        self._wakeups = wakeups
        self._say = say
        self._readers: dict[int, tuple[socket.socket, str, Session]] = {}
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._poll.register(wakeups.fd, select.POLLIN)

    def run(self) -> None:
        try:
            while True:
                for fd, _ in self._poll.poll():
                    if fd == self._wakeups.fd:
                        if self._wakeups.stops():
                            return
                    elif fd == self._listener.fileno():
                        self._accept()
                    else:
                        self._hear(fd)
                self._reap()
        finally:
            self._end()

    def _accept(self) -> None:
        try:
            connection, (address, port) = self._listener.accept()
        except OSError:  # it has gone again
            return
        if len(self._readers) >= MAX_READERS:
            connection.close()
            return
        connection.setblocking(True)
        output = SocketOutput(connection)

        def sinks() -> list[Sink]:
            return [Recording(output, self._plan.points)]

        session = Session(self._client, self._plan, sinks, ended=self._wakeups.wake)
        self._readers[connection.fileno()] = connection, f"{address}:{port}", session
        self._poll.register(connection, select.POLLIN)
        session.start()

    def _hear(self, fd: int) -> None:
        """Readers have nothing to say, except that they go."""
        connection, _, session = self._readers[fd]
        try:
            gone = not connection.recv(4096)
        except OSError:
            gone = True
        if gone:
            self._poll.unregister(fd)
            with contextlib.suppress(OSError):  # a write that waits for the reader ends too
                connection.shutdown(socket.SHUT_RDWR)
            session.cancel()

    def _reap(self) -> None:
        for fd, (connection, name, session) in list(self._readers.items()):
            if not session.over:
                continue
            with contextlib.suppress(KeyError):
                self._poll.unregister(fd)
            del self._readers[fd]
            connection.close()
            self._say(f"{name}: {session.summary}")
            if session.error is not None:
                raise session.error

    def _end(self) -> None:
        """Let each reader have what was seen up to now; one that does not read is cut off."""
        self._listener.close()
        for _, _, session in self._readers.values():
            session.stop()
        for connection, name, session in self._readers.values():
            session.join(STALLED)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            session.join()
            connection.close()
            self._say(f"{name}: {session.summary}")
