"""What all connections of a host hold together, and its bound (Linux's tcp_mem).

Above `memory` bytes it is scarce: no buffer grows, and no window or credit is given beyond a few
segments, until it is below three quarters. Above one and a half times it is used up: then what
arrives for a connection that holds something already is dropped, and the peer sends it again.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.tcp.tcb import Tcb


class Memory:
    """The sum of the queues: to send, early, and not read by the program. held: bytes."""

    __slots__ = ("_counters", "bound", "held", "scarce", "used_up")

    def __init__(self, bound: int, counters: Counter[str]) -> None:
        self._counters = counters
        self.bound = bound
        self.held = 0
        self.scarce = self.used_up = False

    def account(self, tcb: Tcb) -> None:
        """A connection's queues have changed."""
        size = len(tcb.snd_buf) + tcb.receive_queue
        if tcb.islands:
            size += tcb.islands[-1].end - tcb.islands[0].start  # with its holes: no walk
        if size != tcb.held:
            self.held += size - tcb.held
            tcb.held = size
            self._judge()

    def forget(self, tcb: Tcb) -> None:
        """A connection is gone."""
        self.held -= tcb.held
        tcb.held = 0
        self._judge()

    def _judge(self) -> None:
        if not self.scarce:  # and so not used up either
            if self.held > self.bound:
                self.scarce = True
                self._counters["tcp_memory_pressures"] += 1
        else:
            self.scarce = 4 * self.held >= 3 * self.bound
            self.used_up = 2 * self.held > 3 * self.bound

    def state(self) -> dict[str, int]:
        """For whoever looks: bytes, and whether they are scarce."""
        return {"held": self.held, "bound": self.bound, "scarce": int(self.scarce)}
