"""Whose address is it: probing, announcing and defending the one of an interface (RFC 5227)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from plywire.config import MS, SECOND, InterfaceConfig, LinkConfig
from plywire.links import ANY_ADDRESS, address_text
from plywire.timers import Timers
from plywire.trace import Tracer
from plywire.wire import arp

# RFC 5227 section 1.1, times in nanoseconds.
PROBE_WAIT = 1 * SECOND
PROBE_NUM = 3
PROBE_MIN = 1 * SECOND
PROBE_MAX = 2 * SECOND
ANNOUNCE_WAIT = 2 * SECOND
ANNOUNCE_INTERVAL = 2 * SECOND
RATE_LIMIT_INTERVAL = 60 * SECOND
DEFEND_INTERVAL = 10 * SECOND

START = "START"
PROBING = "PROBING"
ANNOUNCING = "ANNOUNCING"
OWNED = "OWNED"
LOST = "LOST"
"""Another station had the address when this one probed; it is tried again in a minute."""

Broadcast = Callable[[arp.ArpPacket, int], None]
"""`broadcast(packet, now)`: send an ARP packet to everybody."""
Changed = Callable[[bool, int], None]
"""`changed(up, now)`: the address may be used from now on, or may not."""


class AddressClaim:
    """The claim of one interface to its address.

    The address comes from the lab file, so it is used at once and only announced; with `arp_probe`
    it is probed first. Its timer is in the layer's table under ("claim", ifindex), due at once.
    """

    def __init__(
        self,
        interface: InterfaceConfig,
        config: LinkConfig,
        rng: random.Random,
        timers: Timers,
        counters: Counter[str],
        tracer: Tracer,
        broadcast: Broadcast,
        changed: Changed,
    ) -> None:
        self.state = START
        self.conflicts = 0
        self.rival = b""  # the hardware address of the last station that claimed ours
        self._left = 0  # packets of this phase that are still to be sent
        self._defended: int | None = None
        self._interface = interface
        self._config = config
        self._rng = rng
        self._timers = timers
        self._counters = counters
        self._tracer = tracer
        self._broadcast = broadcast
        self._changed = changed
        self._arm(0)

    @property
    def usable(self) -> bool:
        """The address is this host's to use."""
        return self.state in (ANNOUNCING, OWNED) or (
            self.state == START and not self._config.arp_probe
        )

    def timeout(self, now: int) -> None:
        """The next packet is due, or the next phase."""
        if self.state in (START, LOST):
            if self._config.arp_probe:
                self.state, self._left = PROBING, PROBE_NUM
                self._arm(now + self._rng.randrange(0, PROBE_WAIT, MS))
                return
            self._announce(now)
        elif self.state == PROBING and self._left:
            self._left -= 1
            self._send(ANY_ADDRESS, now)
            wait = self._rng.randrange(PROBE_MIN, PROBE_MAX, MS) if self._left else ANNOUNCE_WAIT
            self._arm(now + wait)
        elif self.state == PROBING:
            self._announce(now)
            self._changed(True, now)
        else:
            self._go_on_announcing(now)

    def conflicts_with(self, packet: arp.ArpPacket) -> bool:
        """The packet is from another station that has this address, or is about to take it."""
        mine = self._interface
        if packet.sender_mac == mine.mac or self.state == LOST:
            return False
        if packet.sender_ip == mine.address:
            return True
        # RFC 5227 2.1.1: while probing, somebody else's probe for the address counts as well.
        return (
            self.state == PROBING
            and packet.operation == arp.REQUEST
            and packet.sender_ip == ANY_ADDRESS
            and packet.target_ip == mine.address
        )

    def conflict(self, mac: bytes, trace: int, now: int) -> None:
        """Another station claims the address.

        While probing it is given up. In use it is defended, at most once in DEFEND_INTERVAL and
        for ever, as RFC 5227 2.4 (c) has it for an address that was configured by hand.
        """
        self.conflicts += 1
        self.rival = mac
        self._counters["arp_conflicts"] += 1
        if self._tracer.enabled:
            self._tracer.note(now, trace, "address conflict", rival=mac.hex(":"), claim=self.state,
                              address=address_text(self._interface.address))  # fmt: skip
        if self.state == PROBING:
            self.state = LOST
            self._arm(now + RATE_LIMIT_INTERVAL)
            self._changed(False, now)
        elif self.usable and (self._defended is None or now - self._defended >= DEFEND_INTERVAL):
            self._defended = now
            self._send(self._interface.address, now)

    def describe(self) -> dict[str, int | str]:
        """Columns for the interface's row."""
        return {"claim": self.state, "conflicts": self.conflicts, "rival": self.rival.hex(":")}

    def dump(self) -> list[object]:
        """What a successor needs, but for the timer."""
        return [self.state, self.conflicts, self.rival, self._left, self._defended]

    def load(self, state: list) -> None:
        """Take over what `dump` gave."""
        self.state, self.conflicts, self.rival, self._left, self._defended = state

    def _announce(self, now: int) -> None:
        """The address is ours from now on; say so as often as the file wants."""
        self.state, self._left = ANNOUNCING, self._config.arp_announce
        self._go_on_announcing(now)

    def _go_on_announcing(self, now: int) -> None:
        if self._left:
            self._left -= 1
            self._send(self._interface.address, now)
        if self._left:
            self._arm(now + ANNOUNCE_INTERVAL)
        else:
            self.state = OWNED

    def _send(self, sender_ip: bytes, now: int) -> None:
        """A probe (from 0.0.0.0) or an announcement (from the address itself), both for it."""
        mine = self._interface
        self._counters["arp_announcements_sent" if any(sender_ip) else "arp_probes_sent"] += 1
        self._broadcast(
            arp.ArpPacket(arp.REQUEST, mine.mac, sender_ip, b"\0" * 6, mine.address), now
        )

    def _arm(self, when: int) -> None:
        self._timers.set(("claim", self._interface.ifindex), when)
