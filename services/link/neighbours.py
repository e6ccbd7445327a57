"""The ARP cache of one interface (RFC 826; RFC 1122 section 2.3.2).

`TABLE` says how an entry's state changes. An entry in a state of `USABLE` sends at once. Requests
for one address are never less than `arp_retry` apart (RFC 1122 2.3.2.1), whatever is asked for.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable

from plywire.config import InterfaceConfig, LinkConfig
from plywire.errors import IllegalTransition
from plywire.links import address_text
from plywire.timers import Timers
from plywire.trace import Tracer
from plywire.wire import arp, ethernet

MS = 1_000_000

NONE = "NONE"
INCOMPLETE = "INCOMPLETE"
"""Asked for by broadcast; packets wait."""
REACHABLE = "REACHABLE"
"""Heard of within `arp_lifetime`."""
STALE = "STALE"
"""Not heard of for `arp_lifetime`: the next packet asks again."""
PROBE = "PROBE"
"""In use while it is asked, by unicast, whether it is still there."""
FAILED = "FAILED"
"""Did not answer: packets come back at once for a while, so that many cause no flood of ARP."""

USED, HEARD, TIMEOUT, GIVE_UP = "used", "heard", "timeout", "give up"

TABLE: dict[tuple[str, str], str] = {
    (NONE, USED): INCOMPLETE,
    (NONE, HEARD): REACHABLE,
    (INCOMPLETE, HEARD): REACHABLE,
    (INCOMPLETE, TIMEOUT): INCOMPLETE,
    (INCOMPLETE, GIVE_UP): FAILED,
    (REACHABLE, HEARD): REACHABLE,
    (REACHABLE, TIMEOUT): STALE,
    (STALE, USED): PROBE,
    (STALE, HEARD): REACHABLE,
    (STALE, TIMEOUT): NONE,
    (PROBE, HEARD): REACHABLE,
    (PROBE, TIMEOUT): PROBE,
    (PROBE, GIVE_UP): NONE,
    (FAILED, HEARD): REACHABLE,
    (FAILED, TIMEOUT): NONE,
}
"""(state, event) -> state. What is not here cannot happen."""

USABLE = frozenset({REACHABLE, STALE, PROBE})
BUSY = frozenset({INCOMPLETE, PROBE})
"""States that are not evicted: a request is out."""

Transmit = Callable[[bytes, int, int], None]
"""`transmit(frame, trace, now)`: put a frame on the wire."""
Fail = Callable[[bytes, bytes, int], None]
"""`fail(address, packet, trace)`: tell ip that a packet cannot be sent."""
Drop = Callable[[str, int, bytes, int], None]
"""`drop(reason, trace, packet, now)`: count a packet and forget it."""


def ipv4_header(dst: bytes, src: bytes) -> bytes:
    """What stands in front of an IPv4 packet on its way from `src` to `dst`."""
    header = ethernet.EthernetHeader(dst, src, ethernet.TYPE_IPV4)
    return ethernet.encode(header, b"")[: ethernet.HEADER_LENGTH]


class Neighbour:
    """One entry. header: the Ethernet header of an IPv4 frame to it, b"" while unknown."""

    __slots__ = ("address", "header", "heard", "mac", "queue", "state", "trace", "tries")

    def __init__(self, address: bytes, now: int) -> None:
        self.address = address
        self.state = NONE
        self.mac = b""
        self.header = b""
        self.heard = now  # when it was last heard of, or made
        self.tries = 0
        self.trace = 0  # of the packet that started the asking
        self.queue: deque[tuple[int, bytes]] = deque()


class Neighbours:
    """The cache. Its timers are in the layer's table under ("neighbour", ifindex, address)."""

    def __init__(
        self,
        interface: InterfaceConfig,
        config: LinkConfig,
        timers: Timers,
        counters: Counter[str],
        tracer: Tracer,
        transmit: Transmit,
        fail: Fail,
        drop: Drop,
    ) -> None:
        self.entries: OrderedDict[bytes, Neighbour] = OrderedDict()  # the longest unheard first
        self._interface = interface
        self._config = config
        self._timers = timers
        self._counters = counters
        self._tracer = tracer
        self._transmit = transmit
        self._fail = fail
        self._drop = drop

    def header(self, address: bytes, trace: int, now: int) -> bytes:
        """The Ethernet header of a frame to `address` that may be sent now, or b"": `hold` it."""
        entry = self.entries.get(address)
        if entry is None:
            return b""
        if entry.state == STALE:
            entry.trace = trace
            self._move(entry, USED, now)
            entry.tries = 0
            self._ask(entry, now)
        return entry.header

    def hold(self, address: bytes, packet: bytes, trace: int, now: int) -> None:
        """Take a packet for an address that `header` does not know: wait for it, or fail."""
        entry = self.entries.get(address)
        if entry is None:
            entry = self._make(address, now)
            if entry is None:
                self._drop("arp_table_full", trace, packet, now)
                return
            entry.trace = trace
            self._move(entry, USED, now)
            self._ask(entry, now)
        elif entry.state == FAILED:
            self._fail(address, packet, trace)
            return
        entry.queue.append((trace, packet))
        # RFC 1122 2.3.2.2: it is the latest packets that are kept.
        if len(entry.queue) > max(1, self._config.arp_queue):
            oldest_trace, oldest = entry.queue.popleft()
            self._drop("arp_queue_full", oldest_trace, oldest, now)

    def heard(self, address: bytes, mac: bytes, for_us: bool, trace: int, now: int) -> None:
        """A station said that `address` is at `mac`.

        RFC 826: an entry that exists is merged whatever the packet is for (so a gratuitous one
        updates it); a new entry is made only when the packet is for this host.
        """
        entry = self.entries.get(address)
        if entry is None:
            entry = self._make(address, now) if for_us else None
            if entry is None:
                return
        changed = entry.mac != mac
        if changed:
            if entry.mac:
                self._counters["arp_changed"] += 1
            entry.mac = mac
            entry.header = ipv4_header(mac, self._interface.mac)
        entry.heard = now
        entry.tries = 0
        entry.trace = trace
        self.entries.move_to_end(address)
        self._move(entry, HEARD, now, changed)
        self._arm(entry, now + self._config.arp_lifetime)
        queue, entry.queue = entry.queue, deque()
        for packet_trace, packet in queue:
            self._transmit(entry.header + packet, packet_trace, now)

    def timeout(self, address: bytes, now: int) -> None:
        """The timer of an entry has run out."""
        entry = self.entries[address]
        if entry.state in BUSY and entry.tries >= self._config.arp_tries:
            self._give_up(entry, now)
            return
        self._move(entry, TIMEOUT, now)
        if entry.state in BUSY:
            self._ask(entry, now)
        elif entry.state == STALE:
            self._arm(entry, now + self._config.arp_lifetime)
        else:
            del self.entries[address]

    def describe(self, now: int) -> list[dict[str, int | str]]:
        """The cache for people, as `ip neigh` has it; age_ms: since it was last heard of."""
        return [
            {
                "address": address_text(entry.address),
                "dev": self._interface.name,
                "lladdr": entry.mac.hex(":"),
                "state": entry.state,
                "age_ms": max(0, now - entry.heard) // MS,
            }
            for entry in sorted(self.entries.values(), key=lambda entry: entry.address)
        ]

    def dump(self) -> list[list[object]]:
        """What a successor needs, but for the timers."""
        return [
            [entry.address, entry.state, entry.mac, entry.header, entry.heard, entry.tries,
             entry.trace, list(entry.queue)]
            for entry in self.entries.values()
        ]  # fmt: skip

    def load(self, rows: list[list]) -> None:
        """Take over what `dump` gave."""
        self.entries.clear()
        for address, state, mac, header, heard, tries, trace, queue in rows:
            entry = self.entries[address] = Neighbour(address, heard)
            entry.state, entry.mac, entry.header = state, mac, header
            entry.tries, entry.trace = tries, trace
            entry.queue.extend((packet_trace, packet) for packet_trace, packet in queue)

    def _make(self, address: bytes, now: int) -> Neighbour | None:
        """A new entry, in place of the one longest unheard when the cache is full."""
        if len(self.entries) >= max(1, self._config.arp_entries):
            victim = next((item for item in self.entries.values() if item.state not in BUSY), None)
            if victim is None:
                return None
            del self.entries[victim.address]
            self._timers.cancel(self._key(victim))
            self._counters["arp_evicted"] += 1
        entry = self.entries[address] = Neighbour(address, now)
        return entry

    def _ask(self, entry: Neighbour, now: int) -> None:
        """Send a request: to everybody, or (RFC 1122 2.3.2.1) to the station that was there."""
        entry.tries += 1
        mine = self._interface
        packet = arp.ArpPacket(arp.REQUEST, mine.mac, mine.address, b"\0" * 6, entry.address)
        header = ethernet.EthernetHeader(
            entry.mac or ethernet.BROADCAST, mine.mac, ethernet.TYPE_ARP
        )
        self._counters["arp_requests_sent"] += 1
        self._transmit(ethernet.encode(header, arp.encode(packet)), entry.trace, now)
        self._arm(entry, now + self._config.arp_retry)

    def _give_up(self, entry: Neighbour, now: int) -> None:
        self._move(entry, GIVE_UP, now)
        if entry.state == NONE:  # nothing waits: it was in use, and the next packet asks everybody
            del self.entries[entry.address]
            return
        self._counters["arp_failed"] += 1
        self._arm(entry, now + self._config.arp_retry)
        queue, entry.queue = entry.queue, deque()
        for trace, packet in queue:
            self._fail(entry.address, packet, trace)

    def _move(self, entry: Neighbour, event: str, now: int, changed: bool = False) -> None:
        before = entry.state
        state = TABLE.get((before, event))
        if state is None:
            raise IllegalTransition(f"neighbour in {before}: {event}")
        entry.state = state
        if self._tracer.enabled and (state != before or changed):
            self._tracer.note(now, entry.trace, "neighbour", address=address_text(entry.address),
                              lladdr=entry.mac.hex(":"), event=event, before=before,
                              state=state)  # fmt: skip

    def _arm(self, entry: Neighbour, when: int) -> None:
        self._timers.set(self._key(entry), when)

    def _key(self, entry: Neighbour) -> tuple[str, int, bytes]:
        return ("neighbour", self._interface.ifindex, entry.address)
