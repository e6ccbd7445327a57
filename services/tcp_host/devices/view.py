"""What Linux tells of a TCP socket: struct tcp_info (tcp(7)) and the lengths of its queues."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios

from plywire import tcp_info

_STATES = (
    "CLOSED", "ESTABLISHED", "SYN-SENT", "SYN-RECEIVED", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT",
    "CLOSED", "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING",
)  # fmt: skip
"""By the number in tcpi_state."""

_CA_STATES = ("Open", "Disorder", "CWR", "Recovery", "Loss")
"""By the number in tcpi_ca_state."""
_SAME = ("snd_mss", "rcv_mss", "backoff")
_OTHERS = {"rto": "rto_us", "rtt": "srtt_us", "rttvar": "rttvar_us", "pmtu": "path_mtu",
           "retransmits": "retries"}  # fmt: skip
"""Those that a control block has under another name."""
_CA_NAME = 16  # TCP_CA_NAME_MAX
_HIGHEST = (1 << 63) - 1
"""What the API's numbers can hold. An unlimited pacing rate is 2**64 - 1 in the struct."""
_AVAILABLE = "/proc/sys/net/ipv4/tcp_available_congestion_control"


def look(sock: socket.socket, waiting: int) -> dict[str, int | str]:
    """The control block of a socket, as far as Linux shows it, by RFC 9293's and `ss`'s names.

    waiting: bytes that were written and that the system has not taken.
    """
    info = info_of(sock)
    if not info:
        return {}
    mss = info["snd_mss"]
    word = sock.getsockopt(socket.SOL_TCP, socket.TCP_CONGESTION, _CA_NAME)
    return {name: info[name] for name in _SAME} | {
        ours: info[theirs] for theirs, ours in _OTHERS.items()
    } | {
        "state": info["state"],
        "congestion": word.rstrip(b"\0").decode("ascii", "replace"),
        "cwnd": info["snd_cwnd"] * mss,
        "ssthresh": min(info["snd_ssthresh"] * mss, 0x7FFF_FFFF),
        "send_queue": _length(sock, termios.TIOCOUTQ) + waiting,
        "receive_queue": _length(sock, termios.FIONREAD),
    }  # fmt: skip


def info_of(sock: socket.socket) -> dict[str, int | str]:
    """struct tcp_info by its names, its two states in words, as the topic `tcp_info` has it."""
    info = tcp_info.unpack(sock.getsockopt(socket.SOL_TCP, socket.TCP_INFO, tcp_info.SIZE))
    bounded = {name: min(value, _HIGHEST) for name, value in info.items()}
    return bounded | {
        name: words[info[name]] if info[name] < len(words) else words[0]
        for name, words in (("state", _STATES), ("ca_state", _CA_STATES))
        if info
    }


def congestion_controls() -> dict[str, int]:
    """Those that this process may choose: who has no right to (tcp(7)) may choose some only."""
    try:
        with open(_AVAILABLE, encoding="ascii") as file:
            names = file.read().split()
    except (OSError, UnicodeDecodeError):
        return {}
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        for name in sorted(names):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_TCP, socket.TCP_CONGESTION, name.encode())
                found[name] = 1
    return found


def _length(sock: socket.socket, question: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(sock, question, bytes(4)))
    return count
