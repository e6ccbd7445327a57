"""What a connection that has something to send is waiting for (tcp_chrono_start, tcp_chrono_stop).

One clock runs at a time: busy (data is queued or in flight), limited by the peer's window, or by
the send buffer. The later of these takes over from the earlier. Times are nanoseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.tcp.tcb import Tcb

IDLE, BUSY, RWND_LIMITED, SNDBUF_LIMITED = range(4)
_TOTALS = ("", "busy", "rwnd_limited", "sndbuf_limited")


def start(tcb: Tcb, kind: int, now: int) -> None:
    """From now on it waits for this, unless something that counts for more is running."""
    if kind > tcb.chrono:
        _run(tcb, kind, now)


def stop(tcb: Tcb, kind: int, now: int) -> None:
    """It does not wait for this any more: for nothing when all is acknowledged, else it is busy."""
    if not tcb.chrono:
        return
    if tcb.snd_una == tcb.snd_nxt and not len(tcb.snd_buf):
        _run(tcb, IDLE, now)
    elif kind == tcb.chrono:
        _run(tcb, BUSY, now)


def times(tcb: Tcb, now: int) -> tuple[int, int, int]:
    """Busy in all, of that limited by the peer's window, and by the send buffer."""
    sums = [0, tcb.busy, tcb.rwnd_limited, tcb.sndbuf_limited]
    sums[tcb.chrono] += now - tcb.chrono_at
    return sum(sums[BUSY:]), sums[RWND_LIMITED], sums[SNDBUF_LIMITED]


def _run(tcb: Tcb, kind: int, now: int) -> None:
    if tcb.chrono:
        name = _TOTALS[tcb.chrono]
        setattr(tcb, name, getattr(tcb, name) + now - tcb.chrono_at)
    tcb.chrono, tcb.chrono_at = kind, now
