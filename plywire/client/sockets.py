"""A socket of a plywire host that looks like `socket.socket`.

What differs from a kernel socket is in docs/client.md. The descriptor of `fileno()` is for waiting
only; sockets cannot be duplicated, inherited or handed to another process.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import uuid
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

from plywire.client import options
from plywire.client.errors import ApiDown, os_error
from plywire.client.streams import Stream
from plywire.rpc import socket_pb2 as pb

if TYPE_CHECKING:
    from plywire.client.api import Session

Address = tuple[str, int]

_TYPE_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_NO_PEER = ("CLOSED", "SYN-SENT")
_HOWS = {
    socket.SHUT_RD: pb.HOW_READ,
    socket.SHUT_WR: pb.HOW_WRITE,
    socket.SHUT_RDWR: pb.HOW_BOTH,
}


class Socket(Stream):
    """A TCP socket. Made by `Stack.socket`, which binds this class to a stack.

    The methods are those of `socket.socket`, with its arguments, results and errors. Different
    threads may use one socket at the same time, as there.
    """

    family = socket.AF_INET
    type = socket.SOCK_STREAM

    def __init__(
        self, family: int = -1, type: int = -1, proto: int = -1, fileno: None = None
    ) -> None:
        if fileno is not None:
            raise os_error(errno.EBADF, "a plywire socket cannot be made from a descriptor")
        kind = socket.SOCK_STREAM if type == -1 else type & ~_TYPE_FLAGS
        if family not in (-1, socket.AF_INET):
            raise os_error(errno.EAFNOSUPPORT, "plywire speaks IPv4")
        if kind != socket.SOCK_STREAM:
            raise os_error(errno.ESOCKTNOSUPPORT, "plywire's API has TCP sockets only")
        if proto not in (-1, 0, socket.IPPROTO_TCP):
            raise os_error(errno.EPROTONOSUPPORT, "plywire's API has TCP sockets only")
        session = self.stack.session()
        request = pb.CreateSocketRequest(session=session.name, request_id=_request_id())
        response = self.stack.api.call(self.stack.api.stub.CreateSocket, request, session=session)
        self._adopt(session, response.descriptor, max(proto, 0))
        if type != -1 and type & socket.SOCK_NONBLOCK:
            self._timeout = 0.0

    def _adopt(self, session: Session, descriptor: int, proto: int) -> None:
        super()._adopt(session, descriptor)
        self.proto = proto
        self._linger = 0.0
        self._watch_lock = threading.Lock()
        self._unfinished_accepts: list[str] = []

    # --- opening ----------------------------------------------------------------------------------

    def bind(self, address: Address) -> None:
        """Take a local address; "" is any of the host's, port 0 any free one."""
        host, port = self._resolve(address)
        local = pb.Address(host=host, port=port)
        request_id = _request_id()
        request = pb.BindRequest(descriptor=self._open(), address=local, request_id=request_id)
        self._call("Bind", request)

    def listen(self, backlog: int | None = None) -> None:
        """Accept connections, at most `backlog` of them waiting."""
        backlog = min(socket.SOMAXCONN, 128) if backlog is None else max(backlog, 0)
        self._call("Listen", pb.ListenRequest(descriptor=self._open(), backlog=backlog))
        self._refresh()

    def accept(self) -> tuple[Socket, Address]:
        """The next connection and its peer's address."""
        descriptor = self._open()
        # An accept that was interrupted may have taken a connection: the same id gets it again.
        try:
            request_id = self._unfinished_accepts.pop()
        except IndexError:
            request_id = _request_id()
        request = pb.AcceptRequest(
            descriptor=descriptor,
            timeout=self._timeout,
            request_id=request_id,
            session=self._session.name,
        )
        try:
            response = self._call("Accept", request, wait=self._timeout)
        except BaseException as error:
            if not isinstance(error, OSError) or isinstance(error, ApiDown):
                self._unfinished_accepts.append(request_id)
            raise
        if response.would_block:
            if self._readiness is not None and self._readiness.readable:
                self._refresh()
            raise self._blocked(self._timeout)
        other = self.__class__.__new__(self.__class__)
        other._adopt(self._session, response.descriptor, self.proto)
        other._linger = self._linger
        self._refresh()
        return other, (response.remote.host, response.remote.port)

    def connect(self, address: Address) -> None:
        """Open a connection. Names are resolved by the stack."""
        number = self._connect(address)
        if number == errno.EAGAIN:
            raise TimeoutError("timed out")
        if number:
            raise os_error(number)

    def connect_ex(self, address: Address) -> int:
        """As connect, but the errno is the result. Resolution still raises gaierror."""
        try:
            return self._connect(address)
        except socket.gaierror:
            raise
        except OSError as error:
            return error.errno or errno.EIO

    def _connect(self, address: Address) -> int:
        host, port = self._resolve(address)
        timeout = self._timeout
        request = pb.ConnectRequest(
            descriptor=self._open(),
            address=pb.Address(host=host, port=port),
            timeout=timeout,
            request_id=_request_id(),
        )
        try:
            response = self._call("Connect", request, wait=timeout)
        finally:
            self._refresh()
        if not response.in_progress:
            return 0
        return errno.EAGAIN if timeout else errno.EINPROGRESS

    def shutdown(self, how: int) -> None:
        """Close one direction of the connection, or both."""
        if how not in _HOWS:
            raise os_error(errno.EINVAL)
        self._call("Shutdown", pb.ShutdownRequest(descriptor=self._open(), how=_HOWS[how]))
        self._refresh()

    # --- what it is -------------------------------------------------------------------------------

    def getsockname(self) -> Address:
        """The local address; ("0.0.0.0", 0) before there is one."""
        local = self._info().local
        return local.host or "0.0.0.0", local.port

    def getpeername(self) -> Address:
        """The peer's address. ENOTCONN without one."""
        info = self._info()
        if not info.remote.port or info.state in _NO_PEER:
            raise os_error(errno.ENOTCONN)
        return info.remote.host, info.remote.port

    def getsockopt(self, level: int, optname: int, buflen: int = 0) -> int | bytes:
        """An option: an int, or bytes of at most buflen."""
        name = options.name_of(level, optname)
        request = pb.GetOptionRequest(descriptor=self._open(), name=name)
        # SO_ERROR is cleared by being read, so a lost reply is not asked for again, unless from
        # another process of the API: there it is as it was before.
        response = self._call("GetOption", request, retry=name != "SO_ERROR")
        if name == "SO_ERROR":
            self._refresh()
        if name == "TCP_INFO":
            return options.decode(name, response.info, buflen)
        value = response.text if response.HasField("text") else response.value
        return options.decode(name, value, buflen)

    def tcp_info(self) -> dict[str, int]:
        """TCP_INFO by the names of Linux's struct tcp_info, without `tcpi_`; what the host has."""
        request = pb.GetOptionRequest(descriptor=self._open(), name="TCP_INFO")
        return dict(self._call("GetOption", request).info)

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None) -> None:
        """Set an option to an int, or to the bytes of its C struct."""
        name = options.name_of(level, optname)
        if value is None:
            raise os_error(errno.EINVAL, "no option of plywire's takes a length alone")
        plain = value if isinstance(value, int) else bytes(value)
        coded = options.encode(name, plain)
        request = pb.SetOptionRequest(descriptor=self._open(), name=name)
        if isinstance(coded, str):
            request.text = coded
        else:
            request.value = coded
        self._call("SetOption", request)
        if name == "SO_LINGER":
            self._linger = float(max(coded, 0))

    def settimeout(self, value: float | None) -> None:
        """Seconds that a call may block: None for ever, 0 not at all."""
        if value is not None:
            value = value + 0.0  # TypeError for what is not a number
            if value < 0:
                raise ValueError("Timeout value out of range")
        self._timeout = value

    def gettimeout(self) -> float | None:
        """What settimeout set."""
        return self._timeout

    timeout = property(gettimeout)

    def setblocking(self, flag: bool) -> None:
        """True: settimeout(None); False: settimeout(0)."""
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        """Whether calls may block at all."""
        return self._timeout != 0

    def fileno(self) -> int:
        """A descriptor to wait on with select, poll or epoll; -1 when closed.

        It is readable and writable when the socket is. It must not be read, written or kept
        beyond close.
        """
        if self._released:
            return -1
        with self._watch_lock:
            if self._readiness is None:
                self._readiness = self.stack.poller.watch(self._descriptor)
                self._refresh()
            return self._readiness.fileno()

    def get_inheritable(self) -> bool:
        """False: a plywire socket belongs to its process."""
        return False

    def set_inheritable(self, inheritable: bool) -> None:
        """Only False is possible."""
        if inheritable:
            self.dup()

    def dup(self) -> NoReturn:
        """Not possible: EOPNOTSUPP."""
        raise os_error(errno.EOPNOTSUPP, "a plywire socket lives in the API; it has no duplicate")

    def detach(self) -> NoReturn:
        """Not possible: EOPNOTSUPP."""
        self.dup()

    # --- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the socket, once the files made by makefile are closed too."""
        self._closed = True
        if self._io_refs <= 0:
            self._release()

    def _decref_socketios(self) -> None:
        # socket.SocketIO calls this when it is closed.
        if self._io_refs > 0:
            self._io_refs -= 1
        if self._closed:
            self.close()

    def _release(self) -> None:
        if self._released:
            return
        with self._watch_lock:
            self._released = True
            if self._readiness is not None:
                self.stack.poller.forget(self._readiness)
        # An error of the connection is not one of close(), and with the API gone the socket is
        # closed already.
        with contextlib.suppress(OSError):
            request = pb.CloseSocketRequest(descriptor=self._descriptor)
            self._call("CloseSocket", request, wait=self._linger)

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *args: object) -> None:
        if not self._closed:
            self.close()

    def __del__(self) -> None:
        if self._released:
            return
        if not self._closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        self._released = True
        self.stack.poller.abandon(self._session, self._descriptor, self._readiness)

    def __repr__(self) -> str:
        # No address: that would be a call to the API.
        state = "[closed] " if self._closed else ""
        return f"<plywire.client.Socket {state}{self.stack.host} descriptor={self._descriptor}>"

    def __getstate__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {self.__class__.__name__!r} object")

    # --- inside ---

    def _resolve(self, address: Address) -> Address:
        if not isinstance(address, tuple) or len(address) != 2:
            raise TypeError(f"AF_INET address must be a tuple (host, port), not {address!r}")
        host, port = address
        if not 0 <= port <= 65535:
            raise OverflowError("port must be 0-65535.")
        return self.stack.gethostbyname(host), port


def _request_id() -> str:
    return uuid.uuid4().hex
