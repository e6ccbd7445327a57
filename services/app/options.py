"""Socket options by Linux's names, with Linux's limits (socket(7), tcp(7))."""

from __future__ import annotations

from typing import Any, NamedTuple

from plywire.config import SECOND, HostConfig
from plywire.errors import SocketError

NO_LINGER = -1

_MAX_INT = (1 << 31) - 1
_MAX_BUFFER = 4 << 20
_MIN_SEND_BUFFER = 2304  # half of SOCK_MIN_SNDBUF: the API's number is twice the payload's
_MIN_RECEIVE_BUFFER = 1152
_MAX_KEEPALIVE = 32_767
_MAX_LINGER2 = 120  # TCP_FIN_TIMEOUT_MAX, seconds


class Spec(NamedTuple):
    """How an option is set. kind: `flag` (0 or 1), `range` (EINVAL outside low and high), `clamp`
    (brought into it), `word` (TCP knows which there are). doubled: read back as twice the value, as
    buffers are. tcp: TCP is told."""

    kind: str
    low: int = 0
    high: int = 1
    doubled: bool = False
    tcp: bool = True


SETTABLE: dict[str, Spec] = {
    "SO_REUSEADDR": Spec("flag", tcp=False),
    "SO_KEEPALIVE": Spec("flag"),
    "SO_LINGER": Spec("range", NO_LINGER, _MAX_INT, tcp=False),
    "SO_OOBINLINE": Spec("flag", tcp=False),
    "SO_SNDBUF": Spec("clamp", _MIN_SEND_BUFFER, _MAX_BUFFER, doubled=True),
    "SO_RCVBUF": Spec("clamp", _MIN_RECEIVE_BUFFER, _MAX_BUFFER, doubled=True),
    "TCP_NODELAY": Spec("flag"),
    "TCP_CORK": Spec("flag"),
    "TCP_QUICKACK": Spec("flag"),
    "TCP_MAXSEG": Spec("range", 88, _MAX_KEEPALIVE),
    "TCP_KEEPIDLE": Spec("range", 1, _MAX_KEEPALIVE),
    "TCP_KEEPINTVL": Spec("range", 1, _MAX_KEEPALIVE),
    "TCP_KEEPCNT": Spec("range", 1, 127),
    "TCP_SYNCNT": Spec("range", 1, 127),
    "TCP_USER_TIMEOUT": Spec("range", 0, _MAX_INT),
    "TCP_LINGER2": Spec("range", -_MAX_INT, _MAX_INT),
    "TCP_CONGESTION": Spec("word"),
    "IP_TOS": Spec("range"),
    "TCP_THIN_LINEAR_TIMEOUTS": Spec("flag"),
}

FIXED: dict[str, int] = {"SO_TYPE": 1, "SO_DOMAIN": 2, "SO_PROTOCOL": 6}
"""SOCK_STREAM, AF_INET, IPPROTO_TCP."""

COMPUTED = frozenset({"SO_ERROR", "SO_ACCEPTCONN", "TCP_INFO"})

_STATES = ("ESTABLISHED", "SYN-SENT", "SYN-RECEIVED", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT",
           "CLOSED", "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING")  # fmt: skip
"""In the order of Linux's numbers, from 1 on."""
_CA_STATES = ("Open", "Disorder", "CWR", "Recovery", "Loss")
"""The same, from 0 on."""


def defaults(host: HostConfig) -> dict[str, int]:
    """What a new socket of this host has."""
    tcp = host.tcp
    return {
        "SO_REUSEADDR": 0,
        "SO_KEEPALIVE": 0,
        "SO_LINGER": NO_LINGER,
        "SO_OOBINLINE": 0,
        "SO_SNDBUF": first_sizes(host)[0],
        "SO_RCVBUF": first_sizes(host)[1],
        "TCP_NODELAY": 0,
        "TCP_CORK": 0,
        "TCP_QUICKACK": 1,
        "TCP_MAXSEG": 536,  # RFC 9293 3.7.1, until a connection knows better
        "TCP_KEEPIDLE": tcp.keepalive_time // SECOND,
        "TCP_KEEPINTVL": tcp.keepalive_interval // SECOND,
        "TCP_KEEPCNT": tcp.keepalive_probes,
        "TCP_SYNCNT": tcp.syn_retries,
        "TCP_USER_TIMEOUT": 0,
        "TCP_LINGER2": tcp.fin_wait_2 // SECOND,
        "IP_TOS": 0,
        "TCP_THIN_LINEAR_TIMEOUTS": int(tcp.thin_linear_timeouts),
    }


def first_sizes(host: HostConfig) -> tuple[int, int]:
    """Bytes that the buffers of a connection begin with, to send and to receive, as TCP has it."""
    tcp, most = host.tcp, host.app.receive_buffer
    if not tcp.tune_buffers:
        return tcp.send_buffer, most
    return (min(tcp.send_buffer_start, tcp.send_buffer),
            min(tcp.receive_buffer_start, tcp.receive_buffer, most))  # fmt: skip


def checked(name: str, value: int | str, host: HostConfig) -> int:
    """The value that is kept when a program sets `name`. Raises ENOPROTOOPT or EINVAL."""
    if not isinstance(value, int):
        raise SocketError("EINVAL", f"{name[:64]} is a number")
    spec = SETTABLE.get(name)
    if spec is None:
        known = name in FIXED or name in COMPUTED
        raise SocketError("ENOPROTOOPT", f"{name[:64]} {'is read only' if known else 'is unknown'}")
    if spec.kind == "flag":
        return int(value != 0)
    if name == "TCP_LINGER2":  # 0: the host's own; beyond 2 minutes: 2 minutes; negative: none
        return max(-1, min(value, _MAX_LINGER2)) or host.tcp.fin_wait_2 // SECOND
    if name == "IP_TOS":  # an octet, of which ECN's bits are TCP's own
        return value & 0xFC
    if name == "TCP_MAXSEG" and value == 0:
        return defaults(host)[name]
    if spec.kind == "clamp":
        return max(spec.low, min(value, spec.high))
    if not spec.low <= value <= spec.high:
        raise SocketError("EINVAL", f"{name} is from {spec.low} to {spec.high}, not {value}")
    return value


def shown(name: str, value: int) -> int:
    """A kept value as getsockopt reports it."""
    return 2 * value if SETTABLE[name].doubled else value


def for_tcp(options: dict[str, Any]) -> dict[str, Any]:
    """Those of a socket's changed options that TCP has to know."""
    return {name: value for name, value in options.items() if SETTABLE[name].tcp}


def tcp_info(fields: dict[str, int | str]) -> dict[str, int]:
    """Linux's struct tcp_info in numbers only: `state` and `ca_state` are those of its enums."""
    numbers = {name: value for name, value in fields.items() if isinstance(value, int)}
    numbers["state"] = _STATES.index(fields["state"]) + 1
    numbers["ca_state"] = _CA_STATES.index(fields.get("ca_state", "Open"))
    return numbers
