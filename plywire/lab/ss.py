"""Sockets in the words, the order and the units of iproute2's `ss -tin`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class SocketRow(NamedTuple):
    """A socket as `ss` shows it. state: RFC 9293's name; local and peer: `address:port`.

    info: what tcp says of the connection (Tcb.control), empty for a socket without one.
    """

    host: str
    state: str
    recv_q: int
    send_q: int
    local: str
    peer: str
    info: Mapping[str, Any] = {}


class Show(NamedTuple):
    """Which sockets, and how much of each, by the letters of ss(8)."""

    listening: bool = False
    everything: bool = False
    info: bool = False
    timers: bool = False
    extended: bool = False
    header: bool = True


CONNECTED = Show()
"""What ss shows when it is asked for nothing."""

_NAMES = {"ESTABLISHED": "ESTAB", "SYN-RECEIVED": "SYN-RECV", "CLOSED": "UNCONN"}
_LISTENING = frozenset({"LISTEN", "CLOSED"})
# Linux's ss leaves these out too unless it is asked for all.
_HIDDEN = frozenset({"LISTEN", "CLOSED", "TIME-WAIT", "SYN-RECEIVED"})

_TIMERS = {
    "rto": "on",
    "reordering": "on",
    "tail loss": "on",
    "persist": "persist",
    "keep-alive": "keepalive",
    "left over": "timewait",
    "delayed ack": "unknown",
    "cork": "unknown",
    "ecn wait": "unknown",
}
"""Names of ss by tcp's; the first that runs is shown, as the kernel has one at a time."""

_INFINITE = 1 << 30
"""ssthresh before the first loss: ss leaves it out then."""


def ss_lines(
    rows: Iterable[SocketRow], show: Show = CONNECTED, with_host: bool = False
) -> list[str]:
    """The table, a line a socket and with `info` another one below it."""
    chosen = [row for row in rows if _wanted(row, show)]
    head = ["State", "Recv-Q", "Send-Q", "Local Address", "Port", "Peer Address", "Port"]
    cells = [
        [
            _NAMES.get(row.state, row.state),
            str(row.recv_q),
            str(row.send_q),
            *row.local.rsplit(":", 1),
            *row.peer.rsplit(":", 1),
        ]
        for row in chosen
    ]
    if with_host:
        head.insert(0, "Host")
        cells = [[row.host, *line] for row, line in zip(chosen, cells, strict=True)]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [_line(head, widths)] if show.header else []
    for row, line in zip(chosen, cells, strict=True):
        more = _more(row, show)
        lines.append(f"{_line(line, widths)} {more}".rstrip())
        if show.info and row.info and row.state != "TIME-WAIT":  # of which ss knows no more either
            lines.append("\t " + info_text(row.info))
    return lines


def ss_json(rows: Iterable[SocketRow], show: Show = CONNECTED) -> list[dict[str, object]]:
    """The same for programs: names and units of the layers, nothing left out of `info`."""
    return [row._asdict() | {"info": dict(row.info)} for row in rows if _wanted(row, show)]


def info_text(info: Mapping[str, Any]) -> str:
    """What `ss -i` says of a connection: cwnd and ssthresh in segments, times in ms.

    info: the control block, and under `tcp_info` what a tcp that keeps it has of Linux's struct.
    """
    tcp_info = info.get("tcp_info", {})
    mss = max(info.get("snd_mss", 0), 1)
    cwnd, rtt = info.get("cwnd", 0) // mss, info.get("srtt_us", 0)
    words = [word for word, key in _FLAGS if info.get(key)]
    words.append(info.get("congestion", ""))
    scales = info.get("snd_scale", 0), info.get("rcv_scale", 0)
    if any(scales):
        words.append(f"wscale:{scales[0]},{scales[1]}")
    _number(words, "rto", info.get("rto_us", 0) / 1000)
    _number(words, "backoff", info.get("backoff", 0))
    if rtt:
        words.append(f"rtt:{rtt / 1000:g}/{info.get('rttvar_us', 0) / 1000:g}")
    _number(words, "ato", tcp_info.get("ato", 0) / 1000)
    for name, key in _SIZES:
        _number(words, name, info.get(key, 0))
    _number(words, "cwnd", cwnd)
    if info.get("ssthresh", _INFINITE) < _INFINITE:
        _number(words, "ssthresh", info["ssthresh"] // mss)
    for name in _TOTALS:
        _number(words, name, info.get(name, 0))
    if rtt and cwnd:
        words.append(f"send {cwnd * mss * 8_000_000 // rtt}bps")
    _number(words, "lastsnd", tcp_info.get("last_data_sent", 0))
    _number(words, "lastrcv", tcp_info.get("last_data_recv", 0))
    if tcp_info.get("delivery_rate"):
        words.append(f"delivery_rate {tcp_info['delivery_rate'] * 8}bps")
    for name in ("delivered", "delivered_ce"):
        _number(words, name, tcp_info.get(name, 0))
    if tcp_info.get("delivery_rate_app_limited"):
        words.append("app_limited")
    _waits(words, tcp_info)
    flight = (info.get("snd_nxt", 0) - info.get("snd_una", 0)) & 0xFFFF_FFFF
    _number(words, "unacked", tcp_info.get("unacked", -(-flight // mss)))
    if info.get("retransmits"):
        words.append(
            f"retrans:{tcp_info.get('retrans', info.get('retries', 0))}/{info['retransmits']}"
        )
    for name in ("lost", "sacked", "dsack_dups"):
        _number(words, name, tcp_info.get(name, 0))
    if tcp_info.get("reordering", 3) != 3:
        words.append(f"reordering:{tcp_info['reordering']}")
    _number(words, "reord_seen", tcp_info.get("reord_seen", 0))
    _number(words, "rcv_rtt", tcp_info.get("rcv_rtt", 0) / 1000)
    for name in ("rcv_space", "rcv_ssthresh"):
        _number(words, name, tcp_info.get(name, 0))
    _number(words, "notsent", max(info.get("send_queue", 0) - flight, 0))
    _number(words, "minrtt", tcp_info.get("min_rtt", 0) / 1000)
    for name in ("snd_wnd", "rcv_wnd"):
        _number(words, name, info.get(name, 0))
    return " ".join(filter(None, words))


def timer_text(milliseconds: int) -> str:
    """A time left as ss(8) writes it: `204ms`, `1.500ms` for a second and a half, `59sec`."""
    seconds, rest = divmod(max(milliseconds, 0), 1000)
    minutes, seconds = divmod(seconds, 60)
    if minutes:
        tail = f"{seconds}sec" if seconds and minutes < 10 else ""
        return f"{minutes}min{tail}"
    if seconds > 9 or (seconds and not rest):
        return f"{seconds}sec"
    return f"{seconds}.{rest:03}ms" if seconds else f"{rest:03}ms"


_FLAGS = (("ts", "timestamps"), ("sack", "sack"), ("ecn", "ecn"), ("ecnseen", "ecn_seen"))
_SIZES = (("mss", "snd_mss"), ("pmtu", "path_mtu"), ("rcvmss", "rcv_mss"))
_TOTALS = ("bytes_sent", "bytes_retrans", "bytes_acked", "bytes_received", "segs_out", "segs_in",
           "data_segs_out", "data_segs_in")  # fmt: skip
"""In the order of ss; an implementation of tcp may not have all of them."""


def _number(words: list[str], name: str, value: float) -> None:
    if value:
        words.append(f"{name}:{value:g}" if isinstance(value, float) else f"{name}:{value}")


def _waits(words: list[str], tcp_info: Mapping[str, Any]) -> None:
    """How long it had something to send, and which share of that it waited for room."""
    busy = tcp_info.get("busy_time", 0)
    if busy:
        words.append(f"busy:{busy // 1000}ms")
        for name in ("rwnd_limited", "sndbuf_limited"):
            time = tcp_info.get(name, 0)
            if time:
                words.append(f"{name}:{time // 1000}ms({time * 100 / busy:.1f}%)")


def _wanted(row: SocketRow, show: Show) -> bool:
    if show.listening:
        return row.state in _LISTENING
    return show.everything or row.state not in _HIDDEN


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Addresses end and ports begin at their colon; the rest begins at the left."""
    *front, local, local_port, peer, peer_port = cells
    *before, w_local, w_local_port, w_peer, w_peer_port = widths
    words = [f"{cell:<{width}}" for cell, width in zip(front, before, strict=True)]
    words.append(f"{local:>{w_local}}:{local_port:<{w_local_port}}")
    words.append(f"{peer:>{w_peer}}:{peer_port:<{w_peer_port}}")
    return " ".join(words).rstrip()


def _more(row: SocketRow, show: Show) -> str:
    words = []
    running = row.info.get("timers_ms") or {}
    if show.timers or show.extended:
        for kind, name in _TIMERS.items():
            if kind in running:
                tries = row.info.get("probes" if kind == "persist" else "retries", 0)
                words.append(f"timer:({name},{timer_text(running[kind])},{tries})")
                break
    if show.extended and "handle" in row.info:
        words.append(f"sk:{row.info['handle']:x}")
    return " ".join(words)
