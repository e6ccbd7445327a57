"""TCP_INFO: a connection in the fields of Linux's `struct tcp_info`, by their names."""

from __future__ import annotations

from services.tcp import chrono
from services.tcp.options import local_mss
from services.tcp.tcb import Tcb

_INFINITE = 0x7FFF_FFFF  # TCP_INFINITE_SSTHRESH
_TIMESTAMPS, _SACK, _WSCALE, _ECN, _ECN_SEEN = 1, 2, 4, 8, 16  # TCPI_OPT_*


def tcp_info(tcb: Tcb, now: int) -> dict[str, int | str]:
    """Times in microseconds (the `last_` ones in milliseconds); unacked, sacked, lost, retrans,
    snd_cwnd and snd_ssthresh in segments; rates in bytes a second.

    What this TCP has no number for is not there: pacing_rate, and what belongs to Fast Open.
    """
    board = tcb.board
    rtt = tcb.rtt
    mss = tcb.snd_mss
    busy, rwnd_limited, sndbuf_limited = chrono.times(tcb, now)
    scaled = tcb.snd_scale or tcb.rcv_scale
    cursor = board.nxt if tcb.sack_ok else tcb.snd_una_offset + tcb.flight
    return {
        "state": tcb.state,
        "ca_state": "Loss" if tcb.in_loss else "Recovery" if tcb.in_recovery
        else "CWR" if tcb.in_cwr else "Disorder" if board.sacked else "Open",
        "retransmits": tcb.retries,
        "probes": tcb.probes,
        "backoff": rtt.backoff,
        "options": _TIMESTAMPS * tcb.ts_on | _SACK * tcb.sack_ok | _WSCALE * bool(scaled)
        | _ECN * tcb.ecn_ok | _ECN_SEEN * tcb.ecn_seen,
        "snd_wscale": tcb.snd_scale,
        "rcv_wscale": tcb.rcv_scale,
        "delivery_rate_app_limited": int(tcb.rate_app_limited),
        "rto": rtt.rto // 1000,
        "ato": tcb.ato // 1000,
        "snd_mss": mss,
        "rcv_mss": tcb.rcv_mss,
        "unacked": tcb.in_flight,
        "sacked": board.sacked_count,
        "lost": sum(seg.lost for seg in board.segs),
        "retrans": sum(seg.again for seg in board.segs),
        "last_data_sent": (now - tcb.last_send) // 1_000_000,
        "last_data_recv": (now - tcb.last_data) // 1_000_000,
        "last_ack_recv": (now - tcb.last_receive) // 1_000_000,
        "pmtu": tcb.path_mtu,
        "rcv_ssthresh": tcb.rcv_ssthresh,
        "rtt": rtt.srtt // 1000,
        "rttvar": rtt.rttvar // 1000,
        "snd_ssthresh": tcb.cc.ssthresh // mss if tcb.cc.ssthresh < 1 << 30 else _INFINITE,
        "snd_cwnd": tcb.cc.cwnd // mss,
        "advmss": local_mss(tcb),
        "reordering": 3 if not tcb.rack.reordering_seen else 3 + tcb.rack.reo_mult,
        "rcv_rtt": tcb.rcv_rtt // 1000,
        "rcv_space": tcb.rcvq_space,
        "total_retrans": tcb.retransmits,
        "bytes_acked": tcb.bytes_acked,
        "bytes_received": tcb.bytes_received,
        "segs_out": tcb.segs_out,
        "segs_in": tcb.segs_in,
        "notsent_bytes": max(tcb.snd_buf.end - cursor, 0),
        "min_rtt": tcb.rack.min_rtt // 1000,
        "data_segs_in": tcb.data_segs_in + tcb.ooo_segs,
        "data_segs_out": tcb.data_segs_out,
        "delivery_rate": tcb.delivery_rate,
        "busy_time": busy // 1000,
        "rwnd_limited": rwnd_limited // 1000,
        "sndbuf_limited": sndbuf_limited // 1000,
        "delivered": board.delivered // mss,
        "delivered_ce": tcb.delivered_ce,
        "bytes_sent": tcb.bytes_sent,
        "bytes_retrans": tcb.bytes_retrans,
        "dsack_dups": tcb.dsack_dups,
        "reord_seen": int(tcb.rack.reordering_seen),
        "rcv_ooopack": tcb.ooo_segs,
        "snd_wnd": tcb.snd_wnd,
        "rcv_wnd": tcb.rcv_wnd,
    }  # fmt: skip
