"""The transmission control block: all that is known of one connection (RFC 9293 section 3.3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq
from plywire.config import TcpConfig
from services.tcp.buffers import StreamBuffer
from services.tcp.congestion import ALGORITHMS, CongestionControl
from services.tcp.islands import Island
from services.tcp.rack import Rack
from services.tcp.rtt import RttEstimator
from services.tcp.scoreboard import Scoreboard
from services.tcp.states import CLOSED, TIME_WAIT

if TYPE_CHECKING:
    from services.tcp.survival import Kept

TICK = 1_000_000
"""Nanoseconds: the timestamp clock is Linux's of 1 ms (RFC 7323 5.4 allows 1 ms to 1 s)."""

DEFAULT_MSS = 536  # RFC 9293 3.7.1 (MUST-15)

Key = tuple[bytes, int, bytes, int]
"""Local address and port, remote address and port."""

RTO = "rto"
PERSIST = "persist"
DELAYED_ACK = "delayed ack"
KEEPALIVE = "keep-alive"
CORK = "cork"
LEFT_OVER = "left over"  # the end of TIME-WAIT, and of FIN-WAIT-2 without a program
REORDERING = "reordering"  # RACK: what is late now will be lost then
TAIL_LOSS = "tail loss"
ECN_WAIT = "ecn wait"  # a window of one segment was marked: the next segment waits (RFC 3168 6.1.2)
TIMER_KINDS = (RTO, PERSIST, DELAYED_ACK, KEEPALIVE, CORK, LEFT_OVER, REORDERING, TAIL_LOSS,
               ECN_WAIT)  # fmt: skip
"""The timers that a connection may have running."""

# Fields that are numbers, strings or bytes, with what they are in a new block. Sequence numbers
# are modulo 2**32; offsets count the stream's bytes from 0 and do not wrap.
_FIELDS: dict[str, object] = {
    # --- who
    "id": 0,  # of this block, never reused
    "handle": 0,  # the socket's on the app boundary; 0: no program holds it (any more)
    "listener": 0,  # the handle of the listener that it came in on
    "local_address": b"", "local_port": 0, "remote_address": b"", "remote_port": 0,
    "state": CLOSED,
    "trace": 0,  # of the user call (or SYN) that drives it: for what timers send
    "opened": False,  # the app was told
    "accepted": False,  # a program has taken the incoming connection
    "released": False,  # the program has closed its descriptor
    "reuse": False,  # SO_REUSEADDR
    # --- send sequence space
    "iss": 0, "snd_una": 0, "snd_nxt": 0, "snd_wnd": 0, "snd_wl1": 0, "snd_wl2": 0,
    "max_snd_wnd": 0,  # the largest the peer ever offered (3.8.6.2.1, RFC 5961 5.2)
    "snd_scale": 0,  # shift of the peer's window field
    "snd_mss": DEFAULT_MSS,  # Eff.snd.MSS
    "peer_mss": DEFAULT_MSS,
    "snd_cursor": 0,  # what goes out next: behind snd_nxt while lost data is sent again
    "snd_buf_seq": 0,  # sequence number of the send buffer's first byte
    "snd_small": 0,  # end of the last segment smaller than the MSS (Nagle as Minshall has it)
    "send_buffer": 0,  # its size
    "snd_locked": False,  # the program has set it
    "fin_offset": -1,  # where the stream to send ends; -1: not known yet
    "fin_sent": False,
    "told_acked": 0, "told_limit": 0,  # the app's credit as last sent
    # --- receive sequence space
    "irs": 0, "rcv_nxt": 0,
    "rcv_wnd": 0,  # what was offered and is not used yet; the offer is never taken back
    "rcv_up": 0,
    "rcv_scale": 0,  # shift of our window field
    "rcv_offset": 0,  # of rcv_nxt in the stream
    "rcv_limit": 0,  # the app's credit
    "rcv_acked": 0,  # what the program has read
    "rcv_needed": 0,  # what app may still ask for again, if it dies
    "rcv_ssthresh": 0,  # the receive buffer: what may be offered beyond what was read
    "rcv_locked": False,  # the program has set it
    "rcv_rtt": 0, "rcv_rtt_at": 0, "rcv_rtt_end": 0, "rcv_tsecr": -1,  # services.tcp.autotune
    "rcvq_space": 0, "rcvq_from": 0, "rcvq_time": 0,  # read in a round trip; this one's start
    "held": 0,  # bytes that services.tcp.memory counts
    "rcv_mss": DEFAULT_MSS,  # the largest segment seen
    "rcv_fin": -1,  # offset of a FIN that came before its turn
    "rcv_ended": False,  # the peer's FIN was taken
    "told_end": False,  # and the app knows
    "ack_sent": 0,  # rcv_nxt in the last segment sent
    "ack_now": False,  # an acknowledgement is owed at once
    "ack_pushed": 0, "pingpong": False,  # services.tcp.delack
    "quick_acks": 0,  # segments still acknowledged at once
    # --- timestamps (RFC 7323)
    "ts_on": False,  # both SYNs had the option
    "ts_offset": 0,  # what our clock is ahead of the host's, in ticks
    "ts_recent": 0, "ts_recent_at": 0,  # TS.Recent, and when it was taken
    # --- loss recovery
    "dup_acks": 0, "recover": 0, "in_recovery": False, "partial_acks": 0,
    "prev_una": 0,  # snd_una before it last moved
    "limited_from": 0,  # snd_nxt at the first duplicate ACK: beyond it is limited transmit
    # --- loss recovery with SACK; offsets count the stream's bytes
    "sack_ok": False,  # both SYNs had SACK-permitted
    "recover_at": 0,  # offset whose acknowledgement ends the recovery
    "in_loss": False,  # what was in flight at a timeout is not all acknowledged yet
    "frto": 0,  # how far F-RTO has come (services.tcp.sack_recovery)
    "resizing": False,  # what the scoreboard has as lost was too big, or a probe: no congestion
    "prr_delivered": 0, "prr_out": 0, "recover_fs": 0,
    "tlp_end": -1, "tlp_again": False,  # of the tail loss probe under way; it was a repeat
    # retransmissions since, and the clock and SND.UNA (as an offset) at, the first one
    "undo_count": 0, "undo_at": 0, "undo_from": 0,
    "delivery_rate": 0,  # bytes a second
    "rate_app_limited": False,  # measured while the program gave too little to send
    "dsack_dups": 0,
    "ato": 0,  # how long acknowledgements may be delayed
    "retries": 0,  # timeouts since the last progress
    "syn_retransmits": 0,
    "probes": 0, "probe_backoff": 0,  # of a closed window: unanswered, and sent
    "una_time": 0,  # when snd_una last moved, or the oldest byte was first sent
    "last_send": 0, "last_receive": 0, "last_data": 0,
    # --- ECN (RFC 3168, services.tcp.ecn)
    "ecn_asked": False,  # a SYN of ours had ECE and CWR
    "ecn_ok": False, "ecn_ect": False,  # marks are echoed; our data is ECT
    "ecn_seen": False,  # data with a codepoint has come
    "ece_due": False,  # CE has come, and no CWR since
    "cwr_due": False,  # the next new data has CWR
    "in_cwr": False,  # the window is on its way down for an ECE
    "cwr_until": -1,  # offset up to which congestion was answered already
    "echoed": False,  # the last acknowledgement had ECE
    "delivered_ce": 0,  # segments acknowledged with ECE
    # --- path
    "path_mtu": 0, "dont_fragment": True,
    "link_mtu": 0,  # of the link that the path begins with: what is offered follows it
    "soft_error": "", "soft_cause": "",  # an ICMP error to report if the connection times out
    "challenges": 0, "challenge_start": 0,  # RFC 5961 section 7
    # --- socket options
    "nodelay": False, "cork": False, "maxseg": 0,
    "tos": 0,  # the Diffserv field, in an octet whose two lower bits are 0
    "keepalive": False, "keep_idle": 0, "keep_interval": 0, "keep_count": 0, "keep_probes": 0,
    "syn_count": 0, "user_timeout": 0, "linger2": 0,
    "uto_due": False, "uto_adopted": False,  # RFC 5482: to be told; the value is the peer's
    "thin_linear": False,
    # --- totals
    "segs_in": 0, "segs_out": 0, "retransmits": 0, "bytes_acked": 0, "bytes_received": 0,
    "data_segs_in": 0, "data_segs_out": 0, "bytes_sent": 0, "bytes_retrans": 0, "ooo_segs": 0,
    "chrono": 0, "chrono_at": 0, "busy": 0, "rwnd_limited": 0, "sndbuf_limited": 0,
}  # fmt: skip


TCB_FIELDS = tuple(_FIELDS)
"""Their names, in the order of `Tcb.to_state`."""


class Tcb:
    """One connection. `snd_buf` holds what is not acknowledged; `islands` what came early, in
    order and apart; `pending` what is in order and on its way to the app.

    sack_recent: offsets in the blocks to report first; dsack: a duplicate to report; undo: the
    congestion control's state before a recovery that may turn out to be spurious; kept: what of it
    outlives this process."""

    __slots__ = (*_FIELDS, "board", "cc", "dsack", "flush_trace", "islands", "kept", "pending",
                 "rack", "rtt", "sack_recent", "shown", "snd_buf", "undo")  # fmt: skip

    def __init__(self, cfg: TcpConfig) -> None:
        for name, value in _FIELDS.items():
            setattr(self, name, value)
        self.send_buffer, self.rcv_ssthresh = cfg.send_buffer, cfg.receive_buffer
        if cfg.tune_buffers:
            self.send_buffer = min(cfg.send_buffer_start, cfg.send_buffer)
            self.rcv_ssthresh = min(cfg.receive_buffer_start, cfg.receive_buffer)
        self.quick_acks = cfg.quick_acks
        self.ato = cfg.delayed_ack
        self.keep_idle = cfg.keepalive_time
        self.keep_interval = cfg.keepalive_interval
        self.keep_count = cfg.keepalive_probes
        self.syn_count = cfg.syn_retries
        self.thin_linear = cfg.thin_linear_timeouts
        self.rtt = RttEstimator(cfg.rto_initial, cfg.rto_min, cfg.rto_max)
        self.cc: CongestionControl = ALGORITHMS[cfg.congestion](0)
        self.snd_buf = StreamBuffer()
        self.islands: list[Island] = []
        self.pending: list[bytes] = []
        self.board = Scoreboard()
        self.rack = Rack()
        self.sack_recent: list[int] = []
        self.dsack: tuple[int, int] | None = None
        self.undo: list | None = None
        self.flush_trace = 0
        self.kept: Kept | None = None
        self.shown: dict[str, int | str] = {}

    @property
    def key(self) -> Key:
        """What a segment for this connection is found by."""
        return (self.local_address, self.local_port, self.remote_address, self.remote_port)

    @property
    def flight(self) -> int:
        """FlightSize: sequence numbers sent and not acknowledged."""
        return seq.sub(self.snd_nxt, self.snd_una)

    @property
    def snd_una_offset(self) -> int:
        """SND.UNA as an offset; beyond the last byte when FIN is acknowledged."""
        return self.snd_buf.start + seq.sub(self.snd_una, self.snd_buf_seq)

    @property
    def in_flight(self) -> int:
        """Segments sent and not acknowledged; without SACK in full ones."""
        return len(self.board.segs) if self.sack_ok else -(-self.flight // self.snd_mss)

    def timestamp(self, now: int) -> int:
        """TSval: the connection's timestamp clock."""
        return (now // TICK + self.ts_offset) & 0xFFFF_FFFF

    @property
    def syn_unacked(self) -> bool:
        """Our SYN (or SYN,ACK) is still to be acknowledged. SND.UNA is ISS again after 4 GiB."""
        return self.snd_una == self.iss and not self.bytes_acked

    @property
    def fin_acked(self) -> bool:
        """Our FIN was sent, and all that was sent is acknowledged."""
        return self.fin_sent and self.snd_una == self.snd_nxt

    @property
    def rcv_buf(self) -> int:
        """The size of the receive buffer: of what it was tuned to, and of the program's credit."""
        return min(self.rcv_limit - self.rcv_acked, self.rcv_ssthresh)

    @property
    def send_queue(self) -> int:
        """Bytes that the peer has not acknowledged, sent or not."""
        return len(self.snd_buf)

    @property
    def receive_queue(self) -> int:
        """Bytes in order that the program has not read and still can."""
        if self.released or self.state == TIME_WAIT or self.state == CLOSED:
            return 0
        return max(self.rcv_offset - self.rcv_acked, 0)

    def control(self) -> dict[str, int | str]:
        """The block for people: numbers by the RFC's names, times in microseconds.

        TIME-WAIT and CLOSED need endpoints and sequence numbers only: they have no buffers.
        """
        rtt = self.rtt
        buffers = self.state != TIME_WAIT and self.state != CLOSED
        return {
            "state": self.state,
            "local_address": _dotted(self.local_address),
            "local_port": self.local_port,
            "remote_address": _dotted(self.remote_address),
            "remote_port": self.remote_port,
            "iss": self.iss,
            "snd_una": self.snd_una,
            "snd_nxt": self.snd_nxt,
            "snd_wnd": self.snd_wnd,
            "snd_wl1": self.snd_wl1,
            "snd_wl2": self.snd_wl2,
            "snd_scale": self.snd_scale,
            "snd_mss": self.snd_mss,
            "timestamps": int(self.ts_on),
            "sack": int(self.sack_ok),
            "ecn": int(self.ecn_ok),
            "ecn_seen": int(self.ecn_seen),
            "irs": self.irs,
            "rcv_nxt": self.rcv_nxt,
            "rcv_wnd": self.rcv_wnd,
            "rcv_up": self.rcv_up,
            "rcv_scale": self.rcv_scale,
            "rcv_mss": self.rcv_mss,
            "send_queue": self.send_queue if buffers else 0,
            "receive_queue": self.receive_queue,
            "out_of_order": sum(island.end - island.start for island in self.islands),
            "send_buffer": self.send_buffer if buffers else 0,
            "receive_buffer": self.rcv_buf if buffers else 0,
            "congestion": self.cc.name,
            "cwnd": self.cc.cwnd,
            "ssthresh": self.cc.ssthresh,
            "dup_acks": self.dup_acks,
            "in_recovery": int(self.in_recovery),
            "recover": self.recover,
            "srtt_us": rtt.srtt // 1000,
            "rttvar_us": rtt.rttvar // 1000,
            "rto_us": rtt.rto // 1000,
            "backoff": rtt.backoff,
            "retries": self.retries,
            "probes": self.probes,
            "path_mtu": self.path_mtu,
            "segs_in": self.segs_in,
            "segs_out": self.segs_out,
            "retransmits": self.retransmits,
            "bytes_acked": self.bytes_acked,
            "bytes_received": self.bytes_received,
            "nodelay": int(self.nodelay),
            "cork": int(self.cork),
            "keepalive": int(self.keepalive),
            "released": int(self.released),
        }

    def to_state(self) -> list:
        """Everything that a successor needs, timers apart. Nothing may be pending."""
        return [
            [getattr(self, name) for name in _FIELDS],
            self.rtt.to_state(),
            [self.cc.name, self.cc.to_state()],
            self.snd_buf.to_state(),
            [[island.start, island.read(island.start)] for island in self.islands],
            [self.sack_recent, list(self.dsack) if self.dsack else None, self.undo],
            self.board.to_state(),
            self.rack.to_state(),
        ]

    @classmethod
    def from_state(cls, state: list, cfg: TcpConfig) -> Tcb:
        """What `to_state` described."""
        values, rtt, (name, congestion), buffer, islands, sack, board, rack = state
        tcb = cls(cfg)
        for field, value in zip(_FIELDS, values, strict=True):
            setattr(tcb, field, value)
        tcb.rtt = RttEstimator.from_state(rtt)
        tcb.cc = ALGORITHMS[name](0)
        tcb.cc.restore(congestion)
        tcb.snd_buf = StreamBuffer.from_state(buffer)
        tcb.islands = [Island(*item) for item in islands]
        recent, dsack, tcb.undo = sack
        tcb.sack_recent = list(recent)
        tcb.dsack = tuple(dsack) if dsack else None
        tcb.board = Scoreboard.from_state(board)
        tcb.rack = Rack.from_state(rack)
        return tcb


def _dotted(address: bytes) -> str:
    return ".".join(map(str, address))
