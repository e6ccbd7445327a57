"""What a story is made of: what `Story` yields and `Renderer` draws."""

from __future__ import annotations

from typing import NamedTuple

from plywire.roles import WIRE, Role

Fields = dict[str, int | str]


class Lane(NamedTuple):
    """A column of the diagram: a layer of a host, or the wire between the hosts."""

    host: str
    role: Role


THE_WIRE = Lane("", WIRE)


class Hop(NamedTuple):
    """A message crosses a boundary, or (`short`) a whole segment goes from TCP to TCP.

    sign: "+" when the layer put a header in front, "-" when it took one away, "" when neither;
    title: the header or the message; fields: those that matter, by name; tail: words behind them;
    segment: the TCP segment when its header is new here, else b"".
    """

    time: int
    trace: int
    start: Lane
    end: Lane
    sign: str
    title: str
    fields: Fields
    tail: str = ""
    segment: bytes = b""
    short: bool = False


class Mark(NamedTuple):
    """Something happens inside a layer. kind: "call", "note", "drop" or "state"."""

    time: int
    trace: int
    lane: Lane
    kind: str
    title: str
    fields: Fields


class Folded(NamedTuple):
    """What was not drawn, because the like of it had been: how many by kind."""

    counts: dict[str, int]


class Socket(NamedTuple):
    """A socket's control information at the first and at the last time that it was told."""

    host: str
    before: Fields
    after: Fields


class Sockets(NamedTuple):
    """What each stack has written in its socket: before and after connect()."""

    time: int
    sockets: tuple[Socket, ...]


class Summary(NamedTuple):
    """The end of the story. Times in nanoseconds, None when it did not happen.

    connect: from the call to its return; handshake: from the first SYN to ESTABLISHED;
    shares: how the time of connect divides, by layer, and "wire" and "pipes".
    """

    segments: int
    frames: int
    hops: int
    lost: int
    dropped: int
    connect: int | None
    handshake: int | None
    shares: dict[str, int]


Item = Hop | Mark | Folded | Sockets | Summary
