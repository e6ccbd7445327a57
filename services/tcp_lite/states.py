"""The rules that every TCP shares, as data: RFC 9293's states and the ways between them.

A cell that the table does not have cannot happen; asking for it is a bug and raises.
"""

from __future__ import annotations

from plywire.errors import IllegalTransition

CLOSED, LISTEN = "CLOSED", "LISTEN"
SYN_SENT, SYN_RECEIVED, ESTABLISHED = "SYN-SENT", "SYN-RECEIVED", "ESTABLISHED"
FIN_WAIT_1, FIN_WAIT_2, CLOSING = "FIN-WAIT-1", "FIN-WAIT-2", "CLOSING"
CLOSE_WAIT, LAST_ACK, TIME_WAIT = "CLOSE-WAIT", "LAST-ACK", "TIME-WAIT"

ACTIVE_OPEN, PASSIVE_OPEN, CLOSE, ABORT = "active OPEN", "passive OPEN", "CLOSE", "ABORT"
RCV_SYN, RCV_SYN_ACK, RCV_ACK_OF_SYN = "rcv SYN", "rcv SYN,ACK", "rcv ACK of SYN"
RCV_FIN, RCV_ACK_OF_FIN, RCV_RST, RCV_ERROR = (
    "rcv FIN", "rcv ACK of FIN", "rcv RST", "rcv ICMP error",
)  # fmt: skip
GIVE_UP, TWO_MSL = "gives up", "2 MSL"

_AT_ONCE = dict.fromkeys((ABORT, RCV_RST, GIVE_UP), CLOSED)

TABLE: dict[str, dict[str, str]] = {
    CLOSED: {ACTIVE_OPEN: SYN_SENT, PASSIVE_OPEN: LISTEN},
    LISTEN: {RCV_SYN: SYN_RECEIVED, CLOSE: CLOSED},  # the SYN: of a new block
    SYN_SENT: _AT_ONCE
    | {RCV_SYN_ACK: ESTABLISHED, RCV_SYN: SYN_RECEIVED, CLOSE: CLOSED, RCV_ERROR: CLOSED},
    SYN_RECEIVED: _AT_ONCE | {RCV_ACK_OF_SYN: ESTABLISHED, RCV_SYN: CLOSED},
    ESTABLISHED: _AT_ONCE | {CLOSE: FIN_WAIT_1, RCV_FIN: CLOSE_WAIT},
    FIN_WAIT_1: _AT_ONCE | {RCV_ACK_OF_FIN: FIN_WAIT_2, RCV_FIN: CLOSING},
    FIN_WAIT_2: _AT_ONCE | {RCV_FIN: TIME_WAIT},
    CLOSING: _AT_ONCE | {RCV_ACK_OF_FIN: TIME_WAIT},
    CLOSE_WAIT: _AT_ONCE | {CLOSE: LAST_ACK},
    LAST_ACK: _AT_ONCE | {RCV_ACK_OF_FIN: CLOSED},
    TIME_WAIT: {TWO_MSL: CLOSED, RCV_RST: CLOSED},
}
"""For each state, the events that there may be and the state that follows."""

OPENING = frozenset({SYN_SENT, SYN_RECEIVED})
"""Our SYN is not acknowledged yet."""
FINISHING = frozenset({FIN_WAIT_1, CLOSING, LAST_ACK})
"""Our FIN is to be sent, or not acknowledged yet."""
SENDING = frozenset({ESTABLISHED, CLOSE_WAIT}) | FINISHING
"""There may be something to send."""
RECEIVING = frozenset({ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2})
"""The peer's FIN has not come: there may be text to take."""


def following(state: str, event: str) -> str:
    """The state after `event`. Raises IllegalTransition for a cell that the table does not have."""
    if event not in TABLE[state]:
        raise IllegalTransition(f"{state} has no transition for {event}")
    return TABLE[state][event]
