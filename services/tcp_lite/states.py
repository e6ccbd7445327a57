"""The rules that every TCP shares, as data: RFC 9293's states and the ways between them.

A cell that the table does not have cannot happen; asking for it is a bug and raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire.errors import IllegalTransition

if TYPE_CHECKING:
    from plywire.trace import Tracer
    from services.tcp_lite.sockets import Block, Unconnected

CLOSED, LISTEN = "CLOSED", "LISTEN"
SYN_SENT, SYN_RECEIVED, ESTABLISHED = "SYN-SENT", "SYN-RECEIVED", "ESTABLISHED"
FIN_WAIT_1, FIN_WAIT_2, CLOSING = "FIN-WAIT-1", "FIN-WAIT-2", "CLOSING"
CLOSE_WAIT, LAST_ACK, TIME_WAIT = "CLOSE-WAIT", "LAST-ACK", "TIME-WAIT"

ACTIVE_OPEN, PASSIVE_OPEN, CLOSE, ABORT = "active OPEN", "passive OPEN", "CLOSE", "ABORT"
RCV_SYN, RCV_SYN_ACK, RCV_ACK_OF_SYN = "rcv SYN", "rcv SYN,ACK", "rcv ACK of SYN"
RCV_FIN, RCV_ACK_OF_FIN = "rcv FIN", "rcv ACK of FIN"
RCV_RST, RCV_ERROR = "rcv RST", "rcv ICMP error"
GIVE_UP, TWO_MSL = "gives up", "2 MSL"

TABLE: dict[tuple[str, str], str] = {
    # opening
    (CLOSED, ACTIVE_OPEN): SYN_SENT,
    (CLOSED, PASSIVE_OPEN): LISTEN,
    (LISTEN, RCV_SYN): SYN_RECEIVED,  # of a new block: the listener stays where it is
    (LISTEN, CLOSE): CLOSED,
    (SYN_SENT, RCV_SYN_ACK): ESTABLISHED,
    (SYN_SENT, RCV_SYN): SYN_RECEIVED,  # both sides called connect
    (SYN_SENT, CLOSE): CLOSED,
    (SYN_SENT, RCV_ERROR): CLOSED,
    (SYN_RECEIVED, RCV_ACK_OF_SYN): ESTABLISHED,
    (SYN_RECEIVED, RCV_SYN): CLOSED,
    # closing, our side first
    (ESTABLISHED, CLOSE): FIN_WAIT_1,
    (FIN_WAIT_1, RCV_ACK_OF_FIN): FIN_WAIT_2,
    (FIN_WAIT_1, RCV_FIN): CLOSING,  # both sides called close
    (CLOSING, RCV_ACK_OF_FIN): TIME_WAIT,
    (FIN_WAIT_2, RCV_FIN): TIME_WAIT,
    (TIME_WAIT, TWO_MSL): CLOSED,
    # closing, the peer first
    (ESTABLISHED, RCV_FIN): CLOSE_WAIT,
    (CLOSE_WAIT, CLOSE): LAST_ACK,
    (LAST_ACK, RCV_ACK_OF_FIN): CLOSED,
    (TIME_WAIT, RCV_RST): CLOSED,
} | {
    # at once: in every state between SYN-SENT and TIME-WAIT
    (state, event): CLOSED
    for state in (
        SYN_SENT, SYN_RECEIVED, ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, CLOSING, CLOSE_WAIT, LAST_ACK
    )
    for event in (ABORT, RCV_RST, GIVE_UP)
}  # fmt: skip
"""(state, event) to the state that follows."""

OPENING = frozenset({SYN_SENT, SYN_RECEIVED})
"""Our SYN is not acknowledged yet."""
FINISHING = frozenset({FIN_WAIT_1, CLOSING, LAST_ACK})
"""Our FIN is to be sent, or not acknowledged yet."""
SENDING = frozenset({ESTABLISHED, CLOSE_WAIT}) | FINISHING
"""There may be something to send."""
RECEIVING = frozenset({ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2})
"""The peer's FIN has not come: there may be text to take."""


def transition(
    socket: Block | Unconnected, event: str, now: int, tracer: Tracer, trace: int
) -> None:
    """Make every change of state there is, and show the socket before and after to the tracer.

    Raises IllegalTransition for a cell that the table does not have.
    """
    following = TABLE.get((socket.state, event))
    if following is None:
        raise IllegalTransition(f"{socket.state} has no transition for {event}")
    before = socket.shown or {"state": socket.state}
    socket.state = following
    if tracer.enabled:
        socket.shown = socket.control()
        tracer.state(now, trace, event, before, socket.shown)
