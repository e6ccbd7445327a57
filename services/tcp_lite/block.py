"""What is written in a socket: the peer never sees it, so each stack chooses for itself.

This stack chooses little. With one segment in flight there is one timer, one measurement of the
round trip, and nothing to remember of what is lost but where it began: at SND.UNA.
"""

from __future__ import annotations

from plywire.config import TcpConfig
from plywire.ports import Reservation
from services.tcp_lite.states import CLOSED, TIME_WAIT

DEFAULT_MSS = 536  # RFC 9293 3.7.1 (MUST-15): of a peer that says nothing

Key = tuple[bytes, int, bytes, int]
"""Local address and port, remote address and port: what a segment finds its connection by."""

_FIELDS: dict[str, object] = {
    # --- who
    "handle": 0,  # on the app boundary; 0: no program is to be told anything
    "listener": 0,  # the handle that it came in on
    "queued": False,  # no program has accepted it
    "local_address": b"", "local_port": 0, "remote_address": b"", "remote_port": 0,
    "reuse": False,  # SO_REUSEADDR
    "state": CLOSED,
    "trace": 0,  # of the call or SYN that drives it, for what the timer sends
    "opened": False,  # the program knows that it is connected
    "closing": False,  # the program writes nothing more
    "released": False,  # nor reads
    # --- sending: SND.UNA <= SND.NXT, and between them the one segment
    "iss": 0, "snd_una": 0, "snd_nxt": 0,
    "snd_wnd": 0, "snd_wl1": 0, "snd_wl2": 0, "max_snd_wnd": 0,
    "snd_mss": DEFAULT_MSS,
    "snd_offset": 0,  # in the stream, of the first byte that is not acknowledged
    "snd_buf": b"",  # what is not acknowledged
    "send_buffer": 0,  # its size
    "waiting": False,  # for the acknowledgement of the one segment
    "fin_sent": False,
    # --- receiving
    "irs": 0, "rcv_nxt": 0,
    "rcv_wnd": 0,  # what was offered and is not used yet; never taken back
    "rcv_mss": DEFAULT_MSS,  # what our SYN offers
    "rcv_offset": 0,  # of RCV.NXT in the stream
    "rcv_acked": 0, "rcv_limit": 0,  # the app's credit
    "ack_due": False,
    # --- time, in nanoseconds
    "srtt": 0, "rttvar": 0, "base": 0,  # RFC 6298; base: the RTO without back-off
    "timed_at": None,  # when the segment in flight was sent, if it was sent once (Karn)
    "backoff": 0, "retries": 0,
    "challenge_at": 0,  # the next one is allowed from then on
    "soft_error": "", "soft_cause": "",  # what ICMP said meanwhile
    # --- totals
    "segs_in": 0, "segs_out": 0, "retransmits": 0,
}  # fmt: skip

_SHOWN = (
    "state", "local_port", "remote_port", "iss", "snd_una", "snd_nxt", "snd_wnd", "snd_wl1",
    "snd_wl2", "snd_mss", "irs", "rcv_nxt", "rcv_wnd", "rcv_mss", "backoff", "retries", "segs_in",
    "segs_out", "retransmits", "listener",
)  # fmt: skip


class Block:
    """A connection's control block, by RFC 9293's names."""

    __slots__ = (*_FIELDS, "shown")

    def __init__(self, **fields: object) -> None:
        self.shown: dict[str, int | str] = {}
        for name, value in (_FIELDS | fields).items():
            setattr(self, name, value)

    @property
    def key(self) -> Key:
        """Both endpoints."""
        return (self.local_address, self.local_port, self.remote_address, self.remote_port)

    def rto(self, cfg: TcpConfig) -> int:
        """How long to wait for an acknowledgement."""
        return min(self.base << self.backoff, cfg.rto_max)

    def measured(self, rtt: int, cfg: TcpConfig) -> None:
        """A segment that was sent once is acknowledged after so long (RFC 6298 2.2, 2.3)."""
        if self.srtt == 0:
            self.srtt, self.rttvar = max(rtt, 1), rtt // 2
        else:
            self.rttvar = (3 * self.rttvar + abs(self.srtt - rtt)) // 4
            self.srtt = (7 * self.srtt + rtt) // 8
        # The floor is under the variance: a delayed acknowledgement is no loss.
        self.base = self.srtt + max(cfg.rto_min, 4 * self.rttvar)
        self.backoff = 0

    def control(self) -> dict[str, int | str]:
        """The block for people; buffers are there from OPEN to TIME-WAIT."""
        gone = self.state in (CLOSED, TIME_WAIT)
        unread = 0 if gone or self.released else max(self.rcv_offset - self.rcv_acked, 0)
        return {name: getattr(self, name) for name in _SHOWN} | {
            "local_address": dotted(self.local_address),
            "remote_address": dotted(self.remote_address),
            "send_queue": len(self.snd_buf),
            "receive_queue": unread,
            "send_buffer": 0 if gone else self.send_buffer,
            "receive_buffer": 0 if gone else self.rcv_limit - self.rcv_acked,
            "srtt_us": self.srtt // 1000,
            "rttvar_us": self.rttvar // 1000,
            "rto_us": (self.base << self.backoff) // 1000,
            "released": int(self.released),
        }

    def to_state(self) -> dict[str, object]:
        """Everything that a successor needs, but the timer."""
        return {name: getattr(self, name) for name in _FIELDS}


class Listener:
    """A socket that waits for connections: its port, and how many may wait to be accepted."""

    __slots__ = ("backlog", "options", "reservation", "shown", "state")

    def __init__(self, reservation: Reservation, backlog: int = 0, state: str = CLOSED) -> None:
        self.reservation, self.backlog, self.state = reservation, backlog, state
        self.shown: dict[str, int | str] = {}
        self.options: dict[str, int | str] = {}

    def control(self) -> dict[str, int | str]:
        """For people."""
        held = self.reservation
        return {"state": self.state, "local_address": dotted(held.address),
                "local_port": held.port, "backlog": self.backlog}  # fmt: skip

    def to_state(self) -> list:
        """Everything."""
        return [self.reservation.to_state(), self.backlog, self.state]


def dotted(address: bytes) -> str:
    """An address as people write it."""
    return ".".join(map(str, address))
