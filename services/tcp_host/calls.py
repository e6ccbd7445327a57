"""What the core and the device that holds the sockets tell each other, inside one process.

A handle names a socket, as on the app boundary. Addresses are the operating system's, 4 bytes.
Errors are errno names, "" for none.
"""

from __future__ import annotations

from typing import NamedTuple

IFINDEX = 1
"""There is one device."""


# --- core to device -------------------------------------------------------------------------------


class Reserve(NamedTuple):
    """Make a socket and bind it. Answered by Reserved."""

    ifindex = IFINDEX
    trace: int
    handle: int
    address: bytes
    port: int
    reuse: int


class Announce(NamedTuple):
    """Listen, with a socket that is made and bound first if there is none. Answered by Reserved."""

    ifindex = IFINDEX
    trace: int
    handle: int
    address: bytes
    port: int
    reuse: int
    backlog: int


class Admit(NamedTuple):
    """Accept one connection more at a listener, and call it `child`."""

    ifindex = IFINDEX
    trace: int
    handle: int
    child: int
    room: int


class Dial(NamedTuple):
    """Connect from an address, or with the socket that was reserved under this handle. room: how
    many bytes may be read; options: to be set before. Answered by Connected or Failed."""

    ifindex = IFINDEX
    trace: int
    handle: int
    source: bytes
    address: bytes
    port: int
    room: int
    options: dict[str, int | str]


class Write(NamedTuple):
    """Bytes for the peer, to be kept until the system takes them; then Wrote says how many."""

    ifindex = IFINDEX
    trace: int
    handle: int
    payload: bytes


class Room(NamedTuple):
    """So many bytes more may be read."""

    ifindex = IFINDEX
    trace: int
    handle: int
    count: int


class Finish(NamedTuple):
    """shutdown(SHUT_WR) behind everything that was written. Answered by Finished."""

    ifindex = IFINDEX
    trace: int
    handle: int


class Leave(NamedTuple):
    """close(), at once with an RST, or behind everything that was written. Answered by Gone."""

    ifindex = IFINDEX
    trace: int
    handle: int
    abort: int


class Set(NamedTuple):
    """setsockopt(), by Linux's name, to a number or, as TCP_CONGESTION, a word."""

    ifindex = IFINDEX
    trace: int
    handle: int
    name: str
    value: int | str


class Look(NamedTuple):
    """What does the system say of this socket? Answered by Looked. topic: of the Query."""

    ifindex = IFINDEX
    trace: int
    handle: int
    topic: str


# --- device to core -------------------------------------------------------------------------------


class Reserved(NamedTuple):
    """The answer to Reserve (listening 0) and Announce (1)."""

    trace: int
    handle: int
    port: int
    listening: int
    error: str
    cause: str


class Connected(NamedTuple):
    """A connection is there. listener: 0, or the handle at which it was accepted."""

    trace: int
    handle: int
    listener: int
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int


class Arrived(NamedTuple):
    """Bytes of the peer."""

    trace: int
    handle: int
    payload: bytes


class Ended(NamedTuple):
    """The peer's FIN, behind all that has arrived."""

    trace: int
    handle: int


class Wrote(NamedTuple):
    """The system has taken so many bytes more."""

    trace: int
    handle: int
    count: int


class Finished(NamedTuple):
    """Our FIN is on its way."""

    trace: int
    handle: int


class Gone(NamedTuple):
    """The socket was closed, as it was asked."""

    trace: int
    handle: int


class Failed(NamedTuple):
    """The connection, or the attempt, is over, and the socket closed."""

    trace: int
    handle: int
    error: str
    cause: str


class Looked(NamedTuple):
    """fields: what the system knows of the socket, by the names of a control block, or what the
    topic is about."""

    trace: int
    handle: int
    fields: dict[str, int | str]
    topic: str
