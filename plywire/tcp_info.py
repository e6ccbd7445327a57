"""Linux's struct tcp_info, as of 6.6: from numbers by name, without `tcpi_`, to bytes and back."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

_BYTES = ("state", "ca_state", "retransmits", "probes", "backoff", "options")
"""At the front; two bytes of bit fields follow: both window scales, and delivery_rate_app_limited
as the lowest of the second."""
_LAYOUT = (
    ("I", "rto ato snd_mss rcv_mss unacked sacked lost retrans fackets last_data_sent last_ack_sent"
     " last_data_recv last_ack_recv pmtu rcv_ssthresh rtt rttvar snd_ssthresh snd_cwnd advmss"
     " reordering rcv_rtt rcv_space total_retrans"),
    ("Q", "pacing_rate max_pacing_rate bytes_acked bytes_received"),
    ("I", "segs_out segs_in notsent_bytes min_rtt data_segs_in data_segs_out"),
    ("Q", "delivery_rate busy_time rwnd_limited sndbuf_limited"),
    ("I", "delivered delivered_ce"),
    ("Q", "bytes_sent bytes_retrans"),
    ("I", "dsack_dups reord_seen rcv_ooopack snd_wnd rcv_wnd rehash"),
)  # fmt: skip
"""What comes then, by kind and name."""


def _fields() -> Iterator[tuple[str, struct.Struct, int]]:
    at = len(_BYTES) + 2
    for kind, names in _LAYOUT:
        number = struct.Struct(f"={kind}")
        for name in names.split():
            yield name, number, at
            at += number.size


_FIELDS = tuple(_fields())
SIZE = _FIELDS[-1][2] + _FIELDS[-1][1].size
"""Bytes of the whole struct."""


def pack(info: Mapping[str, int]) -> bytes:
    """The struct, with zeros where there is no number."""
    data = bytearray(SIZE)
    for at, name in enumerate(_BYTES):
        data[at] = min(info.get(name, 0), 0xFF)
    data[6] = info.get("snd_wscale", 0) | info.get("rcv_wscale", 0) << 4
    data[7] = info.get("delivery_rate_app_limited", 0)
    for name, number, at in _FIELDS:
        number.pack_into(data, at, info.get(name, 0))
    return bytes(data)


def unpack(data: bytes) -> dict[str, int]:
    """The numbers in as much of the struct as a kernel has given; none without its front."""
    if len(data) < len(_BYTES) + 2:
        return {}
    found = dict(zip(_BYTES, data, strict=False))
    found |= {"snd_wscale": data[6] & 0xF, "rcv_wscale": data[6] >> 4,
              "delivery_rate_app_limited": data[7] & 1}  # fmt: skip
    return found | {
        name: number.unpack_from(data, at)[0]
        for name, number, at in _FIELDS
        if at + number.size <= len(data)
    }
