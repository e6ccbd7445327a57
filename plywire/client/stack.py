"""A plywire host, seen by a program: its sockets, and the functions of the `socket` module."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from plywire.client import patch
from plywire.client.api import Api, Session
from plywire.client.errors import ApiDown, gai_error
from plywire.client.readiness import Poller
from plywire.client.sockets import Address, Socket
from plywire.rpc import control_pb2, control_pb2_grpc
from plywire.rpc import socket_pb2 as pb
from plywire.runtime import config

_UNSET: Any = object()
_ANSWER = 5.0
"""Seconds that a lab may take to say where its hosts are."""


class Stack:
    """One connection to the API of a host, and the owner of the sockets made with it.

    `stack.socket` is a class whose constructor takes what `socket.socket` takes. The functions
    bear the names and arguments of the `socket` module. When the stack is closed, or the program
    ends in whatever way, the host closes its sockets.

    target: a gRPC target (`unix:/run/.../h1.api.sock`, `127.0.0.1:4430`). Raises ApiDown.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.api = Api(target)
        self._lock = threading.Lock()
        try:
            self._session = self.api.open_session()
        except BaseException:
            self.api.close()
            raise
        self.host = self._session.host
        """The name of the host in its lab."""
        self.poller = Poller(
            self.api.stub.Poll.future, _CloseQuietly(self.api), lambda: self._session.wait()
        )
        self.socket: type[Socket] = type("Socket", (Socket,), {"stack": self, "__slots__": ()})
        # Also runs when the interpreter ends, while threads still can be joined.
        self._finalizer = weakref.finalize(self, _finish, self.api, self.poller)

    @classmethod
    def find(cls, host: str, lab: str | None = None) -> Stack:
        """The stack of a host by name.

        It is looked for at the gRPC target in PLYWIRE_API ({host} in it is replaced), else where
        the lab at PLYWIRE_TARGET says, else in the run directory of the lab (default: PLYWIRE_LAB,
        else "default"). Raises ApiDown, with a remedy, when it is not there.
        """
        target = None if lab is not None else config.api_override(host) or _told(host)
        if not target:
            lab = lab or os.environ.get("PLYWIRE_LAB") or "default"
            target = config.api_target(lab, host)
            path = target.removeprefix("unix:")
            if not os.path.exists(path):
                raise ApiDown(
                    f"no host {host} is up in lab {lab} ({path} is not there): plywire up"
                )
        stack = cls(target)
        if stack.host != host:
            stack.close()
            raise ApiDown(f"the API at {target} is that of {stack.host}, not of {host}")
        return stack

    def session(self) -> Session:
        """The session for new sockets: a new one if the API has been away."""
        with self._lock:
            if self._session.ended and self._finalizer.alive:
                self._session = self.api.open_session()
            return self._session

    def close(self) -> None:
        """Leave the API: it closes this stack's sockets."""
        if self._finalizer.alive:
            self._session.close()
            self._finalizer()

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<plywire.client.Stack {self.host} at {self.target}>"

    # --- the functions of the socket module -------------------------------------------------------

    def create_connection(
        self,
        address: Address,
        timeout: float | None = _UNSET,
        source_address: Address | None = None,
        *,
        all_errors: bool = False,
    ) -> Socket:
        """A socket connected to (host, port); every address of the host is tried in turn."""
        host, port = address
        errors: list[OSError] = []
        for row in self.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
            sock = self.socket(*row[:3])
            try:
                if timeout is not _UNSET:
                    sock.settimeout(timeout)
                if source_address:
                    sock.bind(source_address)
                sock.connect(row[4])
                return sock
            except OSError as error:
                errors.append(error)
                sock.close()
        try:
            if all_errors:
                raise ExceptionGroup("create_connection failed", errors)
            raise errors[-1]
        finally:
            errors.clear()  # the exception's frame would hold itself

    def create_server(
        self,
        address: Address,
        *,
        family: int = socket.AF_INET,
        backlog: int | None = None,
        reuse_port: bool = False,
        dualstack_ipv6: bool = False,
    ) -> Socket:
        """A socket that listens at (host, port), with SO_REUSEADDR set."""
        if dualstack_ipv6:
            raise ValueError("dualstack_ipv6 not supported on this platform")
        if reuse_port:
            raise ValueError("SO_REUSEPORT not supported on this platform")
        sock = self.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(address)
            except OSError as error:
                text = f"{error.strerror} (while attempting to bind on address {address!r})"
                raise OSError(error.errno, text) from None
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        return sock

    def getaddrinfo(
        self,
        host: str | bytes | None,
        port: str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[tuple[socket.AddressFamily, socket.SocketKind, int, str, Address]]:
        """The addresses of a host and service, resolved by the host's own names; IPv4 and TCP."""
        if family not in (0, socket.AF_INET):
            raise gai_error("EAI_FAMILY", "plywire speaks IPv4")
        if type & ~_TYPE_FLAGS not in (0, socket.SOCK_STREAM) or proto not in (0, _TCP):
            raise gai_error("EAI_SOCKTYPE", "plywire's API has TCP sockets only")
        number = _port(port)
        if host is None:
            hosts = ["0.0.0.0" if flags & socket.AI_PASSIVE else "127.0.0.1"]
        else:
            hosts = self._addresses(host, bool(flags & socket.AI_NUMERICHOST))
        name = _text(host) if host is not None and flags & socket.AI_CANONNAME else ""
        return [(socket.AF_INET, socket.SOCK_STREAM, _TCP, name, (item, number)) for item in hosts]

    def gethostbyname(self, hostname: str | bytes) -> str:
        """The first address of a name; "" is 0.0.0.0."""
        return self._addresses(hostname)[0] if hostname else "0.0.0.0"

    def gethostbyname_ex(self, hostname: str | bytes) -> tuple[str, list[str], list[str]]:
        """(name, no aliases, addresses)."""
        return _text(hostname), [], self._addresses(hostname)

    def gethostbyaddr(self, ip_address: str) -> tuple[str, list[str], list[str]]:
        """The name asked for, and its addresses: the API has no reverse lookup."""
        return _text(ip_address), [], self._addresses(ip_address)

    def getfqdn(self, name: str = "") -> str:
        """The name itself, or this host's: the API has no reverse lookup."""
        return self.gethostname() if name.strip() in ("", "0.0.0.0") else name.strip()

    def gethostname(self) -> str:
        """The name of the host in its lab."""
        return self.host

    @contextmanager
    def patch(self) -> Iterator[Stack]:
        """Within the with block, the `socket` module of this process is this stack's.

        For programs that take their sockets from the module: http.client, http.server,
        socketserver, urllib. Process wide: all threads see it. Sockets of other families than
        AF_INET and AF_INET6 stay the kernel's. Code that did `from socket import socket` earlier
        keeps what it has.
        """
        with patch.applied(self):
            yield self

    def _addresses(self, host: str | bytes, numeric: bool = False) -> list[str]:
        text = _text(host)
        try:
            return [str(ipaddress.IPv4Address(text))]
        except ValueError:
            pass
        if text == "<broadcast>":
            return ["255.255.255.255"]
        if numeric or not text:
            raise gai_error("EAI_NONAME", repr(text))
        response = self.api.call(self.api.stub.Resolve, pb.ResolveRequest(name=text))
        if not response.addresses:
            raise gai_error("EAI_NONAME", repr(text))
        return list(response.addresses)


_TCP = socket.IPPROTO_TCP
_TYPE_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class _CloseQuietly:
    """Closes a socket that its program lost, from the poller's thread, waiting for nothing."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._calls: set[Any] = set()  # gRPC cancels a call that nobody refers to

    def __call__(self, session: Session, descriptor: int) -> None:
        if session.ended:
            return
        call = self._api.stub.CloseSocket.future(pb.CloseSocketRequest(descriptor=descriptor))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)


def _told(host: str) -> str | None:
    """Where the lab at PLYWIRE_TARGET has the API of a host; None without such a lab."""
    lab = config.remote_target()
    if lab is None:
        return None
    with grpc.insecure_channel(lab, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            request = control_pb2.GetStatusRequest()
            status = control_pb2_grpc.LabServiceStub(channel).GetStatus(request, timeout=_ANSWER)
        except grpc.RpcError as error:
            raise ApiDown(f"the lab at {lab} (PLYWIRE_TARGET) does not answer") from error
    apis = {item.name: item.api for item in status.hosts}
    if host not in apis:
        raise ApiDown(f"the lab at {lab} has no host {host}; there are {', '.join(apis)}")
    return apis[host]


def _finish(api: Api, poller: Poller) -> None:
    poller.stop()
    api.close()


def _text(host: str | bytes) -> str:
    return host.decode("ascii") if isinstance(host, bytes) else host


def _port(port: str | bytes | int | None) -> int:
    if port is None:
        return 0
    if isinstance(port, int):
        return port
    text = _text(port)
    if text.isdecimal():
        return int(text)
    try:
        return socket.getservbyname(text, "tcp")
    except OSError:
        raise gai_error("EAI_SERVICE", repr(text)) from None
