"""Echo requests of this host's own: who is asked, who has answered (RFC 792, RFC 1122 3.2.2.6)."""

from __future__ import annotations

from typing import NamedTuple

from plywire.calls import Call
from plywire.errors import DecodeError, SocketError
from plywire.roles import IP
from plywire.timers import Timers
from plywire.wire import icmp
from plywire.wire.icmp import IcmpMessage

MAX_PENDING = 1024
MAX_SIZE = 65_507
"""Bytes of data that fit into a packet behind both headers."""

_UNREACHABLE = {
    icmp.NET_UNREACHABLE: "ENETUNREACH",
    icmp.HOST_UNREACHABLE: "EHOSTUNREACH",
    icmp.PROTOCOL_UNREACHABLE: "ENOPROTOOPT",
    icmp.PORT_UNREACHABLE: "ECONNREFUSED",
}


class EchoReply(NamedTuple):
    """An echo reply as it came in. rest: identifier and sequence number."""

    rest: int
    body: bytes


class _Pending(NamedTuple):
    call: Call
    dst: bytes
    body: bytes
    sent_at: int


class Echoes:
    """The requests that wait for their replies, by identifier and sequence number."""

    def __init__(self) -> None:
        self._pending: dict[int, _Pending] = {}
        self._timers = Timers()
        self._next = 0

    def request(self, dst: bytes, size: int, timeout: int, now: int) -> tuple[IcmpMessage, Call]:
        """A request with `size` bytes, and the call that its reply answers within `timeout` ns.

        The call's value: {"from", "bytes", "ttl", "rtt_ns"}. Raises SocketError when too many wait.
        """
        if len(self._pending) >= MAX_PENDING:
            raise SocketError("ENOBUFS", f"{MAX_PENDING} echo requests wait already", IP)
        while self._next in self._pending:
            self._next = (self._next + 1) & 0xFFFF_FFFF
        key = self._next
        self._next = (key + 1) & 0xFFFF_FFFF
        body = bytes(index & 0xFF for index in range(size))
        call = Call()
        self._pending[key] = _Pending(call, dst, body, now)
        self._timers.set(key, now + timeout)
        return IcmpMessage(icmp.ECHO_REQUEST, 0, key, body), call

    def reply(self, reply: EchoReply, src: bytes, ttl: int, now: int) -> None:
        """Answer the call that a reply belongs to. Raises DecodeError when there is none."""
        pending = self._pending.get(reply.rest)
        if pending is None or pending.dst != src or pending.body != reply.body:
            raise DecodeError("icmp_unexpected_reply", f"{reply.rest:#010x}")
        self._forget(reply.rest)
        pending.call.resolve(
            {
                "from": ".".join(map(str, src)),
                "bytes": len(reply.body),
                "ttl": ttl,
                "rtt_ns": now - pending.sent_at,
            }
        )

    def failed(self, kind: int, code: int, dst: bytes, quote: bytes) -> None:
        """An error came back about a packet of ICMP's: the request that it quotes has failed."""
        if len(quote) < icmp.HEADER_LENGTH or quote[0] != icmp.ECHO_REQUEST:
            return
        key = int.from_bytes(quote[4:8], "big")
        pending = self._pending.get(key)
        if pending is None or pending.dst != dst:
            return
        self._forget(key)
        name = (
            _UNREACHABLE.get(code, "EHOSTUNREACH") if kind == icmp.UNREACHABLE else "EHOSTUNREACH"
        )
        pending.call.fail(SocketError(name, f"ICMP type {kind} code {code}", IP))

    def deadline(self) -> int | None:
        """When the next request is given up."""
        return self._timers.deadline()

    def expire(self, now: int) -> None:
        """Give up the requests whose time is over."""
        for key in self._timers.expire(now):
            pending = self._pending.pop(key)
            pending.call.fail(SocketError("ETIMEDOUT", "no echo reply", IP))

    def _forget(self, key: int) -> None:
        del self._pending[key]
        self._timers.cancel(key)
