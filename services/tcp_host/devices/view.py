"""What Linux tells of a TCP socket: struct tcp_info (tcp(7)) and the lengths of its queues."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios

_STATES = (
    "", "ESTABLISHED", "SYN-SENT", "SYN-RECEIVED", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT",
    "CLOSED", "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING",
)  # fmt: skip
"""By the number in tcpi_state."""

_NUMBERS = (
    "rto_us", "ato", "snd_mss", "rcv_mss", "unacked", "sacked", "lost", "retrans", "fackets",
    "last_data_sent", "last_ack_sent", "last_data_recv", "last_ack_recv", "path_mtu",
    "rcv_ssthresh", "srtt_us", "rttvar_us", "snd_ssthresh", "snd_cwnd",
)  # fmt: skip
"""The 32-bit fields from tcpi_rto on, in their order."""
_SHOWN = ("rto_us", "snd_mss", "rcv_mss", "path_mtu", "srtt_us", "rttvar_us")
_INFO = struct.Struct(f"8B{len(_NUMBERS)}I")


def look(sock: socket.socket, waiting: int) -> dict[str, int | str]:
    """The control block of a socket, as far as Linux shows it, by RFC 9293's and `ss`'s names.

    waiting: bytes that were written and that the system has not taken.
    """
    data = sock.getsockopt(socket.SOL_TCP, socket.TCP_INFO, _INFO.size)
    if len(data) < _INFO.size:
        return {}
    state, _, retries, _, backoff, *_ = values = _INFO.unpack(data)
    numbers = dict(zip(_NUMBERS, values[8:], strict=True))
    mss = numbers["snd_mss"]
    return {name: numbers[name] for name in _SHOWN} | {
        "state": _STATES[state] if state < len(_STATES) else str(state),
        "retries": retries,
        "backoff": backoff,
        "cwnd": numbers["snd_cwnd"] * mss,
        "ssthresh": min(numbers["snd_ssthresh"] * mss, 0x7FFF_FFFF),
        "send_queue": _length(sock, termios.TIOCOUTQ) + waiting,
        "receive_queue": _length(sock, termios.FIONREAD),
    }


def _length(sock: socket.socket, question: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(sock, question, bytes(4)))
    return count
