"""The connection to the API of one host: its channel, its session, and how a call is made.

A session owns this program's sockets. Its stream stays open for as long as the program lives, so
that the sockets of a program that died are closed. When the stream breaks, the API may have been
exchanged, or have died, and another process has the sockets: the session is asked for again, and
calls wait for that, and are repeated. If it is not there any more, the sockets are gone, and their
numbers may soon mean other sockets: from then on no call with one of them leaves this file.
"""

from __future__ import annotations

import errno
import threading
import time
from typing import Any

import grpc

from plywire.client.errors import ApiDown, from_rpc, is_lost, os_error
from plywire.rpc import socket_pb2 as pb
from plywire.rpc.socket_pb2_grpc import SocketServiceStub

PATIENCE = 30.0
"""Seconds that the API may take on top of the time the call itself asks for."""

_PAUSES = (0.05, 0.1, 0.2, 0.4)  # before each retry, in seconds

RESUME_WITHIN = 10.0
"""Seconds that an API which has gone may take to come back with the session."""

_LOST_PAUSE = 0.1
"""Seconds before a socket that is lost says so again, when it may block: http.server, for one,
passes over errors of accept and asks again at once, for ever."""

_CHANNEL = (
    ("grpc.use_local_subchannel_pool", 1),  # a connection of our own, not one shared by target
    ("grpc.enable_http_proxy", 0),  # http_proxy is about the web, not about this
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_receive_message_length", 4 << 20),
)


class Api:
    """A channel to one API. Threads may share it."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._channel = grpc.insecure_channel(target, options=_CHANNEL)
        self.stub = SocketServiceStub(self._channel)
        self._closed = threading.Event()

    def open_session(self) -> Session:
        """A new session. ApiDown when the API does not answer within a second."""
        for pause in (*_PAUSES, None):
            try:
                stream = self.stub.OpenSession(pb.OpenSessionRequest())
                first = next(stream)
            except grpc.RpcError as error:
                # An API that has just come back may look away until gRPC tries to connect again.
                if pause is None or not is_lost(error):
                    raise from_rpc(error, self.target) from None
            except StopIteration:
                raise ApiDown(f"the API at {self.target} refused a session") from None
            else:
                return Session(self, stream, first.session, first.host)
            self._pause(pause)
        raise AssertionError("the last pause is None")

    def resume(self, name: str) -> Any:
        """The stream of a session that has ended, from the API as it is now; None when that does
        not know it. Raises OSError when there is no API within RESUME_WITHIN seconds."""
        end = time.monotonic() + RESUME_WITHIN
        while True:
            stream = self.stub.OpenSession(pb.OpenSessionRequest(session=name))
            try:
                first = next(stream, None)
            except grpc.RpcError as error:
                if not is_lost(error) or time.monotonic() > end:
                    raise from_rpc(error, self.target) from None
            else:
                if first is not None and first.session == name:
                    return stream
                stream.cancel()
                return None
            self._pause(_PAUSES[0])

    @property
    def closed(self) -> bool:
        """The channel was closed by this program."""
        return self._closed.is_set()

    def call(
        self,
        method: Any,
        request: Any,
        *,
        wait: float | None = 0.0,
        retry: bool = True,
        session: Session | None = None,
    ) -> Any:
        """Make one call and return its response.

        method: a callable of `stub`; wait: the seconds that the API may block because it was asked
        to, None for ever; retry: whether the call may be repeated when its reply is lost, and not
        only when the API has come back as another process; session: the one whose socket the
        request names. Raises what `socket` would raise.
        """
        deadline = None if wait is None else wait + PATIENCE
        attempt = resumed = 0
        while True:
            if session is not None:
                session.wait()
                if session.resumed != resumed:
                    attempt, resumed = 0, session.resumed
            if session is not None and session.ended:
                if session.told and wait != 0:
                    self._pause(_LOST_PAUSE)
                session.told = True
                raise ApiDown(f"the API at {self.target} went away, and this socket with it")
            try:
                return method(request, timeout=deadline)
            except grpc.RpcError as error:
                if not is_lost(error) or attempt == len(_PAUSES):
                    raise from_rpc(error, self.target) from None
                lost = error
            except ValueError:  # the channel was closed
                raise self._gone() from None
            # The end of a session arrives by another thread: give it the time to be noticed.
            self._pause(_PAUSES[attempt])
            attempt += 1
            came_back = session is not None and session.wait() and session.resumed != resumed
            if not retry and not came_back:
                raise from_rpc(lost, self.target) from None

    def close(self) -> None:
        """Close the channel; calls under way fail."""
        self._closed.set()
        self._channel.close()

    def _pause(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise self._gone()

    def _gone(self) -> OSError:
        return os_error(errno.EBADF, f"the stack at {self.target} is closed")


class Session:
    """The owner of this program's sockets in the API. resumed: how often it has come back."""

    def __init__(self, api: Api, stream: Any, name: str, host: str) -> None:
        self.name = name
        self.host = host
        self.ended = False
        self.told = False
        self.resumed = 0
        self._api = api
        self._left = False
        self._known = threading.Event()  # whether it lives is known
        self._hold(stream)

    def wait(self) -> bool:
        """Whether it lives, once that is known."""
        self._known.wait(RESUME_WITHIN + 1.0)
        return not self.ended

    def close(self) -> None:
        """Leave: the API closes the sockets."""
        self._left = self.ended = True
        self._known.set()
        self._stream.cancel()

    def _hold(self, stream: Any) -> None:
        self._stream = stream
        self._known.set()
        if not stream.add_callback(self._end):
            self._end()

    def _end(self) -> None:
        ends = self._stream.code() is grpc.StatusCode.OK  # the API says so, and does not come back
        if self._left or self._api.closed or ends:
            self.ended = True
            return
        self._known.clear()
        threading.Thread(target=self._resume, name="plywire-session", daemon=True).start()

    def _resume(self) -> None:
        """Ask the API that has taken the old one's place for this session."""
        try:
            stream = self._api.resume(self.name)
        except OSError:
            stream = None
        if stream is None:
            self.ended = True
            self._known.set()
        else:
            self.resumed += 1
            self._hold(stream)
