"""Socket options: from the numbers that programs use to the names of the API, and back."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Any

from plywire import tcp_info
from plywire.client.errors import os_error

_LINGER = struct.Struct("ii")
_INT = struct.Struct("i")

_LEVELS = {"SO": socket.SOL_SOCKET, "TCP": socket.IPPROTO_TCP, "IP": socket.IPPROTO_IP}

_NAMES: dict[tuple[int, int], str] = {
    (_LEVELS[name.partition("_")[0]], number): name
    for name in (
        "SO_REUSEADDR", "SO_KEEPALIVE", "SO_LINGER", "SO_SNDBUF", "SO_RCVBUF", "SO_ERROR",
        "SO_TYPE", "SO_ACCEPTCONN", "SO_DOMAIN", "SO_PROTOCOL", "SO_OOBINLINE", "TCP_NODELAY",
        "TCP_CORK", "TCP_MAXSEG", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_SYNCNT",
        "TCP_QUICKACK", "TCP_USER_TIMEOUT", "TCP_LINGER2", "TCP_INFO", "TCP_CONGESTION",
        "IP_TOS",
    )
    if (number := getattr(socket, name, None)) is not None
}  # fmt: skip
TCP_THIN_LINEAR_TIMEOUTS = 16
"""Linux's number of it, which Python's socket module does not have."""
_NAMES[socket.IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS] = "TCP_THIN_LINEAR_TIMEOUTS"
_NUMBERS = {name: numbers for numbers, name in _NAMES.items()}


def name_of(level: int, option: int) -> str:
    """The API's name of an option. ENOPROTOOPT when it has none."""
    try:
        return _NAMES[level, option]
    except KeyError:
        raise os_error(
            errno.ENOPROTOOPT, f"option {option} of level {level} is not one of plywire's"
        ) from None


def number_of(name: str) -> tuple[int, int]:
    """Level and option of a name of the API. Raises KeyError."""
    return _NUMBERS[name]


def encode(name: str, value: int | bytes) -> int | str:
    """The API's value for what a program gave to setsockopt.

    TCP_CONGESTION is a word, given as bytes that may end in zeros. SO_LINGER is struct linger there
    (two ints) and -1 or seconds here. EINVAL when too short.
    """
    if name == "SO_LINGER":
        if isinstance(value, int) or len(value) < _LINGER.size:
            raise os_error(errno.EINVAL)
        on, seconds = _LINGER.unpack_from(value)
        return max(seconds, 0) if on else -1
    if name == "TCP_CONGESTION":
        if isinstance(value, int) or not value:
            raise os_error(errno.EINVAL)
        return value.split(b"\0", 1)[0].decode("ascii", "replace")
    if isinstance(value, int):
        return value
    if len(value) < _INT.size:
        raise os_error(errno.EINVAL)
    return _INT.unpack_from(value)[0]


def decode(name: str, value: Any, length: int) -> int | bytes:
    """What getsockopt returns: an int for length 0, else at most that many bytes. TCP_INFO is
    struct tcp_info, TCP_CONGESTION 16 bytes with zeros at the end."""
    if not 0 <= length <= 1024:
        raise OSError("getsockopt buflen out of range")
    if name == "TCP_INFO":
        packed = tcp_info.pack(value)
    elif name == "TCP_CONGESTION":
        packed = value.encode().ljust(_CA_NAME, b"\0")
    elif name == "SO_LINGER":
        packed = _LINGER.pack(value >= 0, max(value, 0))
    else:
        packed = _INT.pack(value)
    if length == 0:
        return _INT.unpack_from(packed)[0]
    return packed[:length]


_CA_NAME = 16  # TCP_CA_NAME_MAX
