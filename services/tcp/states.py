"""The eleven states of RFC 9293 section 3.3.2 and the legal ways between them, as data.

Every change of state of every connection is made by `transition`. A cell that the table does not
have is a bug of this stack and raises. The picture in `docs/layers/tcp-states.md` is drawn from
the table by `draw`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire.errors import IllegalTransition

if TYPE_CHECKING:
    from plywire.trace import Tracer
    from services.tcp.listener import Listener
    from services.tcp.tcb import Tcb

State = str
Event = str

CLOSED: State = "CLOSED"
LISTEN: State = "LISTEN"
SYN_SENT: State = "SYN-SENT"
SYN_RECEIVED: State = "SYN-RECEIVED"
ESTABLISHED: State = "ESTABLISHED"
FIN_WAIT_1: State = "FIN-WAIT-1"
FIN_WAIT_2: State = "FIN-WAIT-2"
CLOSE_WAIT: State = "CLOSE-WAIT"
CLOSING: State = "CLOSING"
LAST_ACK: State = "LAST-ACK"
TIME_WAIT: State = "TIME-WAIT"

STATES: tuple[State, ...] = (
    CLOSED, LISTEN, SYN_SENT, SYN_RECEIVED, ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, CLOSE_WAIT,
    CLOSING, LAST_ACK, TIME_WAIT,
)  # fmt: skip

ACTIVE_OPEN: Event = "active OPEN"
PASSIVE_OPEN: Event = "passive OPEN"
CLOSE: Event = "CLOSE"
ABORT: Event = "ABORT"
RCV_SYN: Event = "rcv SYN"
RCV_SYN_ACK: Event = "rcv SYN,ACK"
RCV_ACK_OF_SYN: Event = "rcv ACK of SYN"
RCV_FIN: Event = "rcv FIN"
RCV_ACK_OF_FIN: Event = "rcv ACK of FIN"
RCV_RST: Event = "rcv RST"
RCV_ERROR: Event = "rcv ICMP error"
GIVE_UP: Event = "gives up"  # R2, the keep-alive or the FIN-WAIT-2 time is used up
TWO_MSL: Event = "2 MSL"

TABLE: dict[tuple[State, Event], State] = {
    (CLOSED, ACTIVE_OPEN): SYN_SENT,
    (CLOSED, PASSIVE_OPEN): LISTEN,
    (LISTEN, RCV_SYN): SYN_RECEIVED,
    (LISTEN, CLOSE): CLOSED,
    (SYN_SENT, RCV_SYN): SYN_RECEIVED,
    (SYN_SENT, RCV_SYN_ACK): ESTABLISHED,
    (SYN_SENT, CLOSE): CLOSED,
    (SYN_SENT, ABORT): CLOSED,
    (SYN_SENT, RCV_RST): CLOSED,
    (SYN_SENT, RCV_ERROR): CLOSED,
    (SYN_SENT, GIVE_UP): CLOSED,
    (SYN_RECEIVED, RCV_ACK_OF_SYN): ESTABLISHED,
    (SYN_RECEIVED, RCV_SYN): CLOSED,  # 3.10.7.4: an incoming one goes; its listener still listens
    (SYN_RECEIVED, CLOSE): FIN_WAIT_1,
    (SYN_RECEIVED, ABORT): CLOSED,
    (SYN_RECEIVED, RCV_RST): CLOSED,
    (SYN_RECEIVED, GIVE_UP): CLOSED,
    (ESTABLISHED, CLOSE): FIN_WAIT_1,
    (ESTABLISHED, RCV_FIN): CLOSE_WAIT,
    (ESTABLISHED, ABORT): CLOSED,
    (ESTABLISHED, RCV_RST): CLOSED,
    (ESTABLISHED, GIVE_UP): CLOSED,
    (FIN_WAIT_1, RCV_ACK_OF_FIN): FIN_WAIT_2,
    (FIN_WAIT_1, RCV_FIN): CLOSING,
    (FIN_WAIT_1, ABORT): CLOSED,
    (FIN_WAIT_1, RCV_RST): CLOSED,
    (FIN_WAIT_1, GIVE_UP): CLOSED,
    (FIN_WAIT_2, RCV_FIN): TIME_WAIT,
    (FIN_WAIT_2, ABORT): CLOSED,
    (FIN_WAIT_2, RCV_RST): CLOSED,
    (FIN_WAIT_2, GIVE_UP): CLOSED,
    (CLOSE_WAIT, CLOSE): LAST_ACK,
    (CLOSE_WAIT, ABORT): CLOSED,
    (CLOSE_WAIT, RCV_RST): CLOSED,
    (CLOSE_WAIT, GIVE_UP): CLOSED,
    (CLOSING, RCV_ACK_OF_FIN): TIME_WAIT,
    (CLOSING, ABORT): CLOSED,
    (CLOSING, RCV_RST): CLOSED,
    (CLOSING, GIVE_UP): CLOSED,
    (LAST_ACK, RCV_ACK_OF_FIN): CLOSED,
    (LAST_ACK, ABORT): CLOSED,
    (LAST_ACK, RCV_RST): CLOSED,
    (LAST_ACK, GIVE_UP): CLOSED,
    (TIME_WAIT, TWO_MSL): CLOSED,
    (TIME_WAIT, RCV_SYN): CLOSED,  # 3.6.1 MAY-2: a new incarnation takes its place
}
"""(state, event) to the state that follows. What is not here cannot happen."""

SYNCHRONIZED: frozenset[State] = frozenset(STATES) - {CLOSED, LISTEN, SYN_SENT, SYN_RECEIVED}
"""States in which both sides have agreed on sequence numbers."""

MAY_SEND: frozenset[State] = frozenset({ESTABLISHED, CLOSE_WAIT})
"""States in which the program may still hand over bytes that go out at once."""

TRANSMITTING: frozenset[State] = MAY_SEND | {FIN_WAIT_1, CLOSING, LAST_ACK}
"""States in which data or FIN may be in the send queue."""

MAY_RECEIVE: frozenset[State] = frozenset({ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2})
"""States in which segment text is taken (3.10.7.4, seventh)."""


def transition(tcb: Tcb | Listener, event: Event, now: int, tracer: Tracer, trace: int) -> None:
    """Take the connection (or listener) to its next state and say so to the tracer.

    What the tracer shows as before is what it was shown last time, so that nothing which changed
    in between is lost. Raises IllegalTransition for a cell that the table does not have.
    """
    state = tcb.state
    following = TABLE.get((state, event))
    if following is None:
        raise IllegalTransition(f"{state} has no transition for {event}")
    tcb.state = following
    if tracer.enabled:
        after = tcb.control()
        tracer.state(now, trace, event, tcb.shown or {"state": state}, after)
        tcb.shown = after


def draw() -> str:
    """The table as Markdown: a Mermaid diagram of the orderly ways, and all cells below it."""
    lines = [
        "# The states of a TCP connection",
        "",
        "Drawn from the table in `services/tcp/states.py` by `states.draw`; a test fails when this",
        "page is older than the table. The diagram leaves out what ends a connection at once",
        "(ABORT, rcv RST, an ICMP error, giving up); the table has it. To draw it again:",
        "`python -c 'from services.tcp.states import draw; print(draw(), end=\"\")'`",
        "",
        "A connection that comes in has a control block of its own from its SYN on, and the",
        "listener stays in LISTEN: where RFC 9293 says that a connection returns to LISTEN, the",
        "block of the connection is CLOSED here.",
        "",
        "```mermaid",
        "stateDiagram-v2",
    ]
    abrupt = (ABORT, RCV_RST, RCV_ERROR, GIVE_UP)
    for (state, event), following in TABLE.items():
        if event not in abrupt:
            lines.append(f"    {_node(state)} --> {_node(following)}: {event}")
    lines += ["```", "", "| state | event | next state |", "|---|---|---|"]
    lines += [f"| {state} | {event} | {following} |" for (state, event), following in TABLE.items()]
    return "\n".join(lines) + "\n"


def _node(state: State) -> str:
    return state.replace("-", "_")
