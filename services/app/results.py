"""What the socket operations answer with.

An address is (host, port) with the host dotted; an unknown one is ("0.0.0.0", 0). Offsets count
the bytes of a stream from its start.
"""

from __future__ import annotations

from typing import NamedTuple

Address = tuple[str, int]

UNKNOWN: Address = ("0.0.0.0", 0)


class ConnectResult(NamedTuple):
    """in_progress: the timeout passed first; POLLOUT and SO_ERROR tell how it went on."""

    in_progress: bool
    local: Address
    remote: Address


class AcceptResult(NamedTuple):
    """would_block: nobody came within the timeout; the other fields mean nothing then."""

    would_block: bool
    descriptor: int = 0
    local: Address = UNKNOWN
    remote: Address = UNKNOWN


class SendResult(NamedTuple):
    """offset: where the part of the data that was accepted ends. would_block: it is not all.

    Short of all without would_block: an error came in between, and the next call reports it.
    """

    offset: int
    would_block: bool


class RecvResult(NamedTuple):
    """data begins at offset. end_of_stream: no byte follows it. more: the next call returns at
    once, with bytes, the end or an error."""

    offset: int
    data: bytes
    end_of_stream: bool = False
    would_block: bool = False
    more: bool = False


class SocketInfo(NamedTuple):
    """A socket's control information: what this host knows, and the peer never sees.

    send_queue: bytes that the peer has not acknowledged; receive_queue: bytes (on a listener:
    connections) that the program has not taken; control: TCP's control block by the RFC's names.
    """

    descriptor: int
    session: str
    state: str
    local: Address
    remote: Address
    send_offset: int
    receive_offset: int
    receive_queue: int
    send_queue: int
    control: dict[str, int]
    congestion: str
