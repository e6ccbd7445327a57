"""Cutting packets into fragments, and putting fragments together again.

Reassembly follows RFC 815 in what it accepts (any order, from any path) and RFC 5722 in what it
refuses: fragments that overlap condemn their whole packet, those still to come included. Memory is
bounded as a whole, per source and in number; the oldest unfinished packet gives way.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from bisect import bisect_left
from typing import NamedTuple

from plywire.errors import DecodeError
from plywire.wire import ipv4
from plywire.wire.ipv4 import Ipv4Header
from services.ip.options import copied

Key = tuple[bytes, bytes, int, int]
"""What the fragments of one packet have in common: source, destination, protocol, ident."""

FRAGMENT_COST = 128
"""Bytes that a stored fragment is charged beside its payload, so that many small ones count."""
MAX_PACKETS = 1024
SOURCE_SHARE = 4
"""One source may hold one SOURCE_SHARE-th of the bytes and of the packets."""
TINY = 16
"""A first fragment of TCP shorter than this hides the flags from a filter (RFC 1858 3)."""

_NOT_ECT, _CE = 0, 3


def split(header: Ipv4Header, payload: bytes, mtu: int) -> list[bytes]:
    """The fragments of a packet, each at most mtu bytes (68 at least), in order.

    header: of the whole packet, or itself of a fragment. Later fragments bear only the options
    that are marked to be copied (RFC 791 3.1).
    """
    packets = []
    options, later_options = header.options, copied(header.options)
    start = 0
    while start < len(payload):
        room = mtu - ipv4.MIN_HEADER - len(options)
        last = len(payload) - start <= room
        end = len(payload) if last else start + (room & ~7)
        piece = header._replace(
            offset=header.offset + start,
            more_fragments=header.more_fragments or not last,
            options=options,
        )
        packets.append(ipv4.encode(piece, payload[start:end]))
        start, options = end, later_options
    return packets


class Identifications:
    """The ident of packets that may be fragmented (RFC 6864 4.3).

    A fixed table of counters, each with a random start, and a keyed hash that says which one a
    (source, destination, protocol) uses: no ident comes again within 65,536 packets of a flow, one
    peer cannot guess another's, and the table never grows.
    """

    SIZE = 1024
    __slots__ = ("_counters", "_secret")

    def __init__(self, rng: random.Random) -> None:
        self._secret = rng.randbytes(16)
        self._counters = array("H", (rng.getrandbits(16) for _ in range(self.SIZE)))

    def take(self, src: bytes, dst: bytes, protocol: int) -> int:
        """The next ident of the flow."""
        digest = hashlib.blake2s(src + dst + bytes((protocol,)), digest_size=4, key=self._secret)
        index = int.from_bytes(digest.digest(), "big") % self.SIZE
        value = self._counters[index]
        self._counters[index] = (value + 1) & 0xFFFF
        return value

    def dump(self) -> list:
        """State for a snapshot."""
        return [self._secret, list(self._counters)]

    def load(self, state: list) -> None:
        """What `dump` gave."""
        self._secret, counters = state
        self._counters = array("H", counters)


class Whole(NamedTuple):
    """A packet put together: its header without fragment fields, its payload, its link flags."""

    header: Ipv4Header
    payload: bytes
    flags: int


class Partial:
    """The fragments of one packet so far.

    starts, parts: offsets in ascending order and the bytes at them; end: the payload's length, -1
    until the last fragment came; head: the first fragment's header; ecn: the code points seen, a
    bit each; poisoned: there was an overlap, so whatever comes is dropped until the deadline.
    """

    __slots__ = (
        "cost", "deadline", "ecn", "end", "flags", "have", "head", "parts", "poisoned", "starts",
        "trace",
    )  # fmt: skip

    def __init__(self, deadline: int, trace: int) -> None:
        self.deadline = deadline
        self.trace = trace
        self.starts: list[int] = []
        self.parts: list[bytes] = []
        self.have = 0
        self.end = -1
        self.head: Ipv4Header | None = None
        self.ecn = 0
        self.flags = 0
        self.poisoned = False
        self.cost = FRAGMENT_COST

    def insert(self, header: Ipv4Header, payload: bytes) -> bool:
        """Store a fragment. False: it repeats one that is there. DecodeError: it overlaps one."""
        start, stop = header.offset, header.offset + len(payload)
        index = bisect_left(self.starts, start)
        if index < len(self.starts) and self.starts[index] == start:
            if self.parts[index] == payload and header.more_fragments == (stop != self.end):
                return False
            raise DecodeError("fragment_overlap")
        if index < len(self.starts) and self.starts[index] < stop:
            raise DecodeError("fragment_overlap")
        if index and self.starts[index - 1] + len(self.parts[index - 1]) > start:
            raise DecodeError("fragment_overlap")
        if not header.more_fragments:
            if self.end >= 0 or index < len(self.starts):  # a second end, or data behind this one
                raise DecodeError("fragment_overlap")
            self.end = stop
        elif 0 <= self.end <= start:
            raise DecodeError("fragment_overlap")
        self.starts.insert(index, start)
        self.parts.insert(index, payload)
        self.have += len(payload)
        self.ecn |= 1 << (header.tos & 3)
        if start == 0:
            self.head = header
        return True

    def poison(self) -> None:
        """Keep the place of the packet and nothing of its contents."""
        self.poisoned = True
        self.starts, self.parts, self.head = [], [], None
        self.have = 0


class Source:
    """What one source holds: the keys of its unfinished packets, oldest first, and their cost."""

    __slots__ = ("cost", "keys")

    def __init__(self) -> None:
        self.cost = 0
        self.keys: dict[Key, None] = {}


class Reassembly:
    """Unfinished packets, the oldest first; each has the same time to be completed in.

    timeout: nanoseconds from a packet's first fragment on; max_bytes, max_packets: the bounds.
    """

    __slots__ = ("_bytes", "_max_bytes", "_max_packets", "_partials", "_sources", "_timeout")

    def __init__(self, timeout: int, max_bytes: int, max_packets: int = MAX_PACKETS) -> None:
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._max_packets = max_packets
        self._partials: dict[Key, Partial] = {}
        self._sources: dict[bytes, Source] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._partials)

    @property
    def bytes_held(self) -> int:
        """What all unfinished packets are charged together."""
        return self._bytes

    def add(
        self, header: Ipv4Header, payload: bytes, flags: int, trace: int, now: int
    ) -> tuple[Whole | None, int]:
        """Take a fragment. Returns (the packet when this completes it, packets evicted for it).

        Raises DecodeError for a fragment that is dropped, with its packet when it overlaps.
        """
        _check(header, payload)
        key = (header.src, header.dst, header.protocol, header.ident)
        partial = self._partials.get(key)
        if partial is None:
            partial = Partial(now + self._timeout, trace)
            self._enter(key, partial)
        if partial.poisoned:
            raise DecodeError("fragment_of_dropped_packet")
        try:
            if not partial.insert(header, payload):
                raise DecodeError("fragment_duplicate")
        except DecodeError as error:
            if error.reason == "fragment_overlap":
                partial.poison()
                self._charge(header.src, partial, FRAGMENT_COST - partial.cost)
            raise
        partial.flags |= flags
        if partial.have == partial.end:
            self._remove(key)
            return self._join(partial), 0
        self._charge(header.src, partial, len(payload) + FRAGMENT_COST)
        return None, self._make_room(header.src)

    def deadline(self) -> int | None:
        """When the oldest unfinished packet is given up, or None."""
        for partial in self._partials.values():
            return partial.deadline
        return None

    def expire(self, now: int) -> list[tuple[Key, Partial]]:
        """Give up and return the packets whose time is over."""
        due = []
        for key, partial in self._partials.items():
            if partial.deadline > now:
                break
            due.append((key, partial))
        for key, _ in due:
            self._remove(key)
        return due

    def describe(self, now: int) -> list[dict[str, int | str]]:
        """One row for each unfinished packet."""
        return [
            {
                "src": ".".join(map(str, src)),
                "dst": ".".join(map(str, dst)),
                "protocol": protocol,
                "ident": ident,
                "fragments": len(partial.starts),
                "bytes": partial.have,
                "total": partial.end,
                "poisoned": int(partial.poisoned),
                "expires_in_ms": max(0, partial.deadline - now) // 1_000_000,
            }
            for (src, dst, protocol, ident), partial in self._partials.items()
        ]

    def dump(self) -> list:
        """State for a snapshot."""
        return [
            [
                key,
                [partial.deadline, partial.trace, partial.end, partial.head, partial.ecn,
                 partial.flags, partial.poisoned, partial.cost, partial.starts, partial.parts],
            ]
            for key, partial in self._partials.items()
        ]  # fmt: skip

    def load(self, state: list) -> None:
        """What `dump` gave, into an empty instance."""
        for key, fields in state:
            deadline, trace, end, head, ecn, flags, poisoned, cost, starts, parts = fields
            partial = Partial(deadline, trace)
            partial.end, partial.ecn, partial.flags = end, ecn, flags
            partial.head = None if head is None else Ipv4Header._make(head)
            partial.poisoned, partial.cost = poisoned, cost
            partial.starts, partial.parts = starts, parts
            partial.have = sum(map(len, parts))
            self._enter(tuple(key), partial)

    def _join(self, partial: Partial) -> Whole:
        head = partial.head
        tos = head.tos
        if partial.ecn & 1 << _CE:  # RFC 3168 5.3: congestion seen by one fragment is not lost
            if partial.ecn & 1 << _NOT_ECT:
                raise DecodeError("fragment_ecn_mixed")
            tos |= _CE
        header = head._replace(tos=tos, more_fragments=False, offset=0)
        return Whole(header, b"".join(partial.parts), partial.flags)

    def _make_room(self, src: bytes) -> int:
        """Evict the oldest packets, of this source and then of all, until the bounds hold."""
        evicted = 0
        source = self._sources[src]
        most_packets = max(1, self._max_packets // SOURCE_SHARE)
        most_bytes = self._max_bytes // SOURCE_SHARE
        while len(source.keys) > most_packets or source.cost > most_bytes:
            self._remove(next(iter(source.keys)))
            evicted += 1
        while self._bytes > self._max_bytes or len(self._partials) > self._max_packets:
            self._remove(next(iter(self._partials)))
            evicted += 1
        return evicted

    def _enter(self, key: Key, partial: Partial) -> None:
        source = self._sources.get(key[0])
        if source is None:
            source = self._sources[key[0]] = Source()
        self._partials[key] = partial
        source.keys[key] = None
        source.cost += partial.cost
        self._bytes += partial.cost

    def _charge(self, src: bytes, partial: Partial, cost: int) -> None:
        partial.cost += cost
        self._sources[src].cost += cost
        self._bytes += cost

    def _remove(self, key: Key) -> None:
        partial = self._partials.pop(key)
        source = self._sources[key[0]]
        del source.keys[key]
        source.cost -= partial.cost
        self._bytes -= partial.cost
        if not source.keys:
            del self._sources[key[0]]


def _check(header: Ipv4Header, payload: bytes) -> None:
    """Refuse fragments that no sender cuts. Raises DecodeError."""
    size = len(payload)
    if size == 0 or (header.more_fragments and size & 7):
        raise DecodeError("fragment_bad_length", f"{size} bytes at {header.offset}")
    if ipv4.MIN_HEADER + len(header.options) + header.offset + size > ipv4.MAX_LENGTH:
        raise DecodeError("fragment_too_long", f"{size} bytes at {header.offset}")
    if header.protocol == ipv4.PROTOCOL_TCP and (  # RFC 1858 3 and 4.1, RFC 3128
        header.offset == 8 or (header.offset == 0 and size < TINY)
    ):
        raise DecodeError("fragment_tiny", f"{size} bytes at {header.offset}")
