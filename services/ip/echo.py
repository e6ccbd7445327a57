"""Echo requests of this host's own: who is asked, who has answered (RFC 792, RFC 1122 3.2.2.6)."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, NamedTuple

from plywire.calls import Call
from plywire.errors import DecodeError, SocketError
from plywire.roles import IP
from plywire.timers import Timers
from plywire.wire import icmp
from plywire.wire.icmp import IcmpMessage

if TYPE_CHECKING:
    from services.ip.icmp import Quote

MAX_PENDING = 1024
MAX_SIZE = 65_507
"""Bytes of data that fit into a packet behind both headers."""

_REMEMBERED = 1024
"""Requests that were answered, so that a second reply is known for what it is."""
_DUPLICATES = 256
"""The newest second replies, kept for who asks."""


class EchoReply(NamedTuple):
    """An echo reply as it came in. rest: identifier and sequence number."""

    rest: int
    body: bytes


class _Pending(NamedTuple):
    call: Call
    dst: bytes
    body: bytes
    sent_at: int


class _Answered(NamedTuple):
    dst: bytes
    size: int
    sent_at: int


class Echoes:
    """The requests that wait for their replies, by identifier and sequence number."""

    def __init__(self) -> None:
        self._pending: dict[int, _Pending] = {}
        self._answered: OrderedDict[int, _Answered] = OrderedDict()
        self._duplicates: deque[dict[str, int | str]] = deque(maxlen=_DUPLICATES)
        self._serial = 0
        self._timers = Timers()
        self._next = 0

    def request(
        self, dst: bytes, size: int, timeout: int, now: int, key: int | None = None
    ) -> tuple[IcmpMessage, Call]:
        """A request with `size` bytes, and the call that is answered within `timeout` ns.

        key: identifier and sequence number; chosen here unless given. The call's value is
        {"from", "bytes", "ttl", "rtt_ns"} of the reply, or {"from", "type", "code", "mtu"} of the
        ICMP error that came instead. Raises SocketError when too many wait, or this one already.
        """
        if len(self._pending) >= MAX_PENDING:
            raise SocketError("ENOBUFS", f"{MAX_PENDING} echo requests wait already", IP)
        if key is None:
            while self._next in self._pending:
                self._next = (self._next + 1) & 0xFFFF_FFFF
            key = self._next
            self._next = (key + 1) & 0xFFFF_FFFF
        elif key in self._pending:
            raise SocketError("EALREADY", f"echo request {key:#010x} waits already", IP)
        body = _body(size)
        call = Call()
        self._pending[key] = _Pending(call, dst, body, now)
        self._answered.pop(key, None)
        self._timers.set(key, now + timeout)
        return IcmpMessage(icmp.ECHO_REQUEST, 0, key, body), call

    def reply(self, reply: EchoReply, src: bytes, ttl: int, now: int) -> None:
        """Answer the call that a reply belongs to. Raises DecodeError when there is none."""
        key = reply.rest
        pending = self._pending.get(key)
        if pending is None or pending.dst != src or pending.body != reply.body:
            raise DecodeError(self._unasked(reply, src, ttl, now), f"{key:#010x}")
        self._forget(key)
        self._answered[key] = _Answered(src, len(reply.body), pending.sent_at)
        if len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)
        pending.call.resolve(_row(reply, src, ttl, now - pending.sent_at))

    def failed(self, about: Quote, src: bytes) -> None:
        """An error came from `src` about a packet of ICMP's: the request that it quotes failed."""
        quote = about.payload
        if len(quote) < icmp.HEADER_LENGTH or quote[0] != icmp.ECHO_REQUEST:
            return
        key = int.from_bytes(quote[4:8], "big")
        pending = self._pending.get(key)
        if pending is None or pending.dst != about.dst:
            return
        self._forget(key)
        pending.call.resolve(
            {"from": _text(src), "type": about.type, "code": about.code, "mtu": about.mtu}
        )

    def describe(self) -> dict[str, object]:
        """How many requests wait, and the newest replies to requests that were answered before."""
        return {"waiting": len(self._pending), "duplicates": list(self._duplicates)}

    def deadline(self) -> int | None:
        """When the next request is given up."""
        return self._timers.deadline()

    def expire(self, now: int) -> None:
        """Give up the requests whose time is over."""
        for key in self._timers.expire(now):
            pending = self._pending.pop(key)
            pending.call.fail(SocketError("ETIMEDOUT", "no echo reply", IP))

    def _unasked(self, reply: EchoReply, src: bytes, ttl: int, now: int) -> str:
        """Why nobody waits for this reply; one that came twice is written down."""
        before = self._answered.get(reply.rest)
        if before is None or before.dst != src or reply.body != _body(before.size):
            return "icmp_unexpected_reply"
        identifier, sequence = divmod(reply.rest, 1 << 16)
        row = _row(reply, src, ttl, now - before.sent_at)
        self._serial += 1
        named = {"serial": self._serial, "identifier": identifier, "sequence": sequence}
        self._duplicates.append(named | row)
        return "icmp_duplicate_reply"

    def _forget(self, key: int) -> None:
        del self._pending[key]
        self._timers.cancel(key)


def _body(size: int) -> bytes:
    return bytes(index & 0xFF for index in range(size))


def _row(reply: EchoReply, src: bytes, ttl: int, rtt: int) -> dict[str, int | str]:
    return {"from": _text(src), "bytes": len(reply.body), "ttl": ttl, "rtt_ns": rtt}


def _text(address: bytes) -> str:
    return ".".join(map(str, address))
