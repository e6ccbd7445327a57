"""Personalities: the numbers by which one system's TCP and IP differ from another's.

The defaults are Linux's; `bsd` says what differs in FreeBSD 14 (tcp(4), netinet/tcp_timer.h). A
host names its profile in the lab file, where each number can be changed for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

MS = 1_000_000
SECOND = 1_000_000_000


@dataclass(frozen=True)
class TcpConfig:
    """Numbers of the TCP layer. Times in nanoseconds."""

    initial_window: int = 10  # segments (RFC 6928)
    rto_initial: int = 1 * SECOND  # RFC 6298 2.1
    rto_min: int = 200 * MS
    rto_max: int = 64 * SECOND  # as BSD: RFC 6298 2.5 allows 60 s and more; Linux has 120 s
    delayed_ack: int = 40 * MS
    quick_acks: int = 16  # segments acknowledged at once at the start of a connection
    syn_retries: int = 6
    synack_retries: int = 5
    retries2: int = 15  # RTOs on an established connection before ETIMEDOUT
    orphan_retries: int = 8  # the same, once no program holds the socket any more
    time_wait: int = 60 * SECOND
    fin_wait_2: int = 60 * SECOND
    keepalive_time: int = 7200 * SECOND
    keepalive_interval: int = 75 * SECOND
    keepalive_probes: int = 9
    # Buffers: bytes of payload, of which SO_SNDBUF and SO_RCVBUF show twice as many. These are the
    # largest; a connection starts with the smaller ones and grows, unless tune_buffers is false.
    send_buffer: int = 2 << 20
    receive_buffer: int = 3 << 20
    send_buffer_start: int = 64 << 10  # Linux: 8 << 10, which costs a fifth more of CPU here
    receive_buffer_start: int = 64 << 10
    tune_buffers: bool = True
    memory: int = 256 << 20  # bytes that all connections may hold before it is scarce
    initial_receive_window: int = 65_535  # at most this in the first window offered
    window_scaling: bool = True
    timestamps: bool = True
    sack: bool = True
    rack: bool = True  # losses are found by time (RFC 8985); else by RFC 6675's count
    frto: bool = True
    user_timeout_option: bool = False  # RFC 5482 3.1: ENABLED, and its two limits
    user_timeout_low: int = 100 * SECOND
    user_timeout_high: int = 86_400 * SECOND
    thin_linear_timeouts: bool = False  # no back-off where little is in flight (TCP_THIN_...)
    whole_segments: bool = True  # the first window is a multiple of the MSS
    option_order: str = "linux"  # of a SYN: MSS, SACK, timestamps, scale; bsd has scale second
    syn_cookies: bool = True  # when the queue of handshakes is full (RFC 4987)
    backlog_max: int = 4096
    max_connections: int = 65_536  # TIME-WAIT counts; its oldest one makes room for a new one
    survive: bool = True  # connections are kept where kill -9 of this layer does not reach
    max_orphans: int = 1024  # closed by their program, and not ended: the oldest one is reset
    congestion: str = "cubic"
    ecn: str = "passive"  # RFC 3168: off, passive (when the peer asks), on (ask as well)
    port_low: int = 32_768  # ephemeral ports, both included
    port_high: int = 60_999


@dataclass(frozen=True)
class IpConfig:
    """Numbers of the IP layer. Times in nanoseconds."""

    ttl: int = 64
    reassembly_timeout: int = 30 * SECOND
    reassembly_bytes: int = 4 << 20  # all unfinished packets together
    icmp_rate: int = 1000  # errors a second that this host may send
    icmp_burst: int = 50


class Profile(NamedTuple):
    """A personality."""

    tcp: TcpConfig
    ip: IpConfig


PROFILES: dict[str, Profile] = {
    "linux": Profile(TcpConfig(), IpConfig()),
    "bsd": Profile(
        TcpConfig(
            # rexmit_min is 30 ms, and rexmit_slop adds 200 ms to every RTO: the floor is Linux's.
            rto_max=64 * SECOND,  # TCPTV_REXMTMAX
            quick_acks=0,
            synack_retries=3,  # SYNCACHE_MAXREXMTS
            retries2=12,  # TCP_MAXRXTSHIFT
            orphan_retries=12,
            keepalive_probes=8,
            backlog_max=128,  # kern.ipc.soacceptqueue
            send_buffer=2 << 20,  # sendbuf_max, up to which it is tuned
            receive_buffer=2 << 20,
            send_buffer_start=32 << 10,
            whole_segments=False,
            option_order="bsd",
            rack=False,
            frto=False,
            port_low=10_000,  # net.inet.ip.portrange.first
            port_high=65_535,
        ),
        IpConfig(icmp_rate=200, icmp_burst=200),  # net.inet.icmp.icmplim
    ),
}
"""By name. FreeBSD gives a connect up after 75 s (keepinit), its sixth SYN included, as Linux sends
it; the TTL (64), the time of reassembly and TIME-WAIT are the same in both."""
