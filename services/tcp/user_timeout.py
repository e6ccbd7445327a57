"""The user timeout option (RFC 5482): how long data may stay unacknowledged, told to the peer.

It is advice. A program that has set TCP_USER_TIMEOUT keeps its own value; else what the peer
advertises is adopted, within the host's limits. Off unless the host's configuration enables it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire.wire.tcp import MAX_OPTIONS, SYN, Options, user_timeout_option
from services.tcp.tcb import Tcb

if TYPE_CHECKING:
    from services.tcp.stack import Stack

_SECOND = 1_000_000_000
_LENGTH = 4


def arrived(stack: Stack, tcb: Tcb, theirs: Options) -> None:
    """The peer's value: section 3.1's USER_TIMEOUT, where the program has not chosen one. Zero
    means nothing and is passed over (section 3)."""
    cfg = stack.cfg
    if not cfg.user_timeout_option or (tcb.user_timeout and not tcb.uto_adopted):
        return
    remote = theirs.user_timeout * _SECOND
    if not remote:
        stack.counters["tcp_uto_ignored"] += 1
        return
    tcb.user_timeout = min(cfg.user_timeout_high, max(remote, cfg.user_timeout_low))
    tcb.uto_adopted = True
    stack.counters["tcp_uto_adopted"] += 1


def attach(tcb: Tcb, flags: int, payload: bytes, options: bytes) -> bytes:
    """The option on a segment with room for it: on each SYN, and once on one after that, also when
    the program has changed the value (section 3). Data is never cut for it."""
    if len(options) + _LENGTH > MAX_OPTIONS or (
        payload and len(payload) + _LENGTH > tcb.snd_mss - max(len(options) - 12, 0)
    ):
        return options
    if not flags & SYN:
        tcb.uto_due = False
    return options + user_timeout_option(-(-tcb.user_timeout // _SECOND))
