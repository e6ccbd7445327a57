"""The story of a connection: trace events in, items to draw out.

Everything is told once in full: each hop of the first SYN, of the answers, of the first data each
way, of FIN and RST. What follows of the same kind is told as one line from TCP to TCP, and after a
few of those it is only counted. The counts and times of all of it are in the `Summary`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from plywire.lab.story.ends import Ends
from plywire.lab.story.fields import (
    NAMES,
    Headers,
    changed,
    decode,
    flags,
    joined,
    news,
    number,
    ordered,
    outer,
    segment_of,
    shown,
)
from plywire.lab.story.focus import Focus
from plywire.lab.story.items import (
    THE_WIRE,
    Fields,
    Folded,
    Hop,
    Item,
    Lane,
    Mark,
    Sockets,
    Summary,
)
from plywire.lab.story.measure import Measure
from plywire.lab.story.segments import COUNTED, WHOLE, Flight, Segments
from plywire.roles import APP, LAYERS, LINK, TCP, WIRE, boundary
from plywire.trace import DROP, IN, NOTE, OUT, STATE, Event
from plywire.wire import arp, ethernet

# What layers tell each other all the time, and what is asked to look at a socket.
_CHATTER = frozenset({"Hello", "Interface", "Paths", "Query", "Info", "Join", "Members", "Leave"})
_QUIET = frozenset(
    {
        "Poll", "GetSocket", "ListSockets", "GetOption", "SetOption",
        # Told already, by the change that the call made, or by the call itself.
        "CreateSocket", "Resolve", "Bind returned", "Listen returned", "Send returned",
        "Shutdown returned", "CloseSocket returned",
    }
)  # fmt: skip
# Drawn less often than other messages, because it says little.
_SELDOM = {"Credit": 1}
# Results that are worth a word only when they are true.
_FLAGS = frozenset({"in_progress", "would_block", "end_of_stream", "more"})
_UNTOLD = frozenset({"handle", "listener", "options", "reuse"})
_MAX_STATIONS = 1024
_AT_WIRE = boundary(LINK, WIRE)


class Story:
    """Takes events in the order of their times and yields what is to be drawn.

    hosts: one or two names, the caller's first; what other hosts do is used (who sends and takes
    which frame) but not drawn. focus: None for everything. fold_after: how many of a kind are drawn
    before the like are only counted. every_hop: fold nothing. capture: is given each frame that was
    on the wire once, and what crossed ip/link.
    """

    def __init__(
        self,
        hosts: tuple[str, ...],
        focus: Focus | None = None,
        *,
        fold_after: int = 3,
        every_hop: bool = False,
        capture: Callable[[Event], None] | None = None,
    ) -> None:
        self.hosts = hosts
        self.focus = focus
        self.measure = Measure()
        self.hops = self.frames = self.segments = self.dropped = 0
        self.tabled = False
        """Both ends have been seen to be ESTABLISHED, and the sockets have been told."""
        self._capture = capture
        self._fold_after = fold_after
        self._every_hop = every_hop
        self._folded: Counter[str] = Counter()
        self._told: Counter[tuple[str, ...]] = Counter()
        self._segments = Segments(fold_after, every_hop)
        self._flight = Flight()
        self._ends = Ends(hosts)
        self._stations: dict[str, str] = {}
        self._last = 0

    @property
    def over(self) -> bool:
        """The connection (or the attempt) has ended at every end that was seen to have one."""
        return self._ends.over

    def feed(self, event: Event) -> list[Item]:
        """What this event adds to the drawing."""
        if event.subject == "Frame":
            self._note_frame(event)
        if event.host not in self.hosts or event.subject in _CHATTER:
            return []
        if self.focus is not None and not self.focus.admits(event):
            return []
        self._last = max(self._last, event.time)
        self.measure.take(event)
        if event.what == OUT:
            found = self._out(event)
        elif event.what == IN:
            found = self._in(event)
        elif event.what == STATE:
            found = self._state(event)
        else:
            found = self._mark(event)
        return self._flush() + found if found else found

    def _note_frame(self, event: Event) -> None:
        """Learn from every frame who has which address, and what other hosts send and receive."""
        if event.what == OUT and len(self._stations) < _MAX_STATIONS:
            self._stations[event.packet[6:12].hex(":")] = event.host
        if event.host in self.hosts:
            return
        if event.what == OUT:
            self._flight.take_off(event.packet, counts=False)
        else:
            self._flight.land(event.packet, event.host)

    def finish(self) -> list[Item]:
        """The end: what was folded, the sockets when they were not shown yet, and the summary."""
        measure = self.measure
        summary = Summary(self.segments, self.frames, self.hops, self._flight.lost,
                          self.dropped, measure.connect, measure.handshake,
                          measure.shares())  # fmt: skip
        return [*self._flush(), *self._sockets(), summary]

    # --- messages ---

    def _out(self, event: Event) -> list[Item]:
        self.hops += 1
        at_wire = event.boundary == _AT_WIRE
        if self._capture is not None:
            self._capture(event)
        if at_wire:
            self.frames += 1
            self._flight.take_off(event.packet)
        found = decode(event)
        segment = segment_of(event)
        if segment:
            self.segments += at_wire
            return self._segment(event, found, segment)
        if event.boundary == boundary(APP, TCP):
            return self._socket_message(event)
        start, end = self._lanes(event)
        if "arp" in found:
            return self._limited(("arp", event.host), self._arp(event, found, start, end))
        sign, protocol = changed(event)
        title = NAMES.get(protocol, event.subject)
        fields = ordered(event.fields)
        if protocol in found:
            fields = shown(protocol, found[protocol], sign)
        hop = Hop(event.time, event.trace, start, end, sign, title, fields)
        return self._limited((title, event.host, event.boundary, event.direction), hop)

    def _in(self, event: Event) -> list[Item]:
        """What arrives has been drawn when it was sent, unless nobody here has sent it."""
        if event.boundary != _AT_WIRE or self._flight.land(event.packet, event.host):
            return []
        if self._capture is not None:
            self._capture(event)
        self.frames += 1
        found = decode(event)
        lane = Lane(event.host, LINK)
        if "arp" in found:
            return self._limited(("arp", ""), self._arp(event, found, THE_WIRE, lane))
        segment = segment_of(event)
        if segment:
            self.segments += 1
            self._segments.headers(segment, found)
            if self._segments.way(event, found, segment) is not WHOLE:
                return []
        title = NAMES.get(outer(found), "frame")
        hop = Hop(event.time, event.trace, THE_WIRE, lane, "", title,
                  shown(outer(found), found.get(outer(found), {})))  # fmt: skip
        return [hop]

    def _segment(self, event: Event, found: Headers, segment: bytes) -> list[Item]:
        """A TCP segment on its way through a layer."""
        known = self._segments.known(segment)
        way = self._segments.way(event, found, segment)
        new = event.layer == TCP
        again = "sent again" if new and self._segments.repeats(event, found) else ""
        headers = self._segments.headers(segment, found)
        start, end = self._lanes(event)
        if way == WHOLE:
            sign, protocol = changed(event)
            if protocol == "ethernet" and protocol not in headers:
                return [Hop(event.time, event.trace, start, end, "", "the bare IP packet", {}, "")]
            fields = shown(protocol, headers.get(protocol, {}), sign)
            if protocol == "tcp":
                fields |= _data(headers)
            tail = again if protocol == "tcp" else ""
            title = NAMES.get(protocol, protocol)
            if protocol == "tcp":
                title = f"{title} {headers['tcp'].get('flags', '')}".replace("|", "+")
            return [Hop(event.time, event.trace, start, end, sign, title, fields, tail,
                        segment if new else b"")]  # fmt: skip
        if not (new or (not known and event.boundary == _AT_WIRE)):
            return []
        if way == COUNTED:
            self._folded["segments"] += 1
            return []
        fields = {name: headers["tcp"][name] for name in ("seq", "ack", "window")}
        fields |= _data(headers)
        return [Hop(event.time, event.trace, Lane(event.host, TCP), self._peer(event.host, TCP), "",
                    "+".join(flags(headers["tcp"])), fields, again,
                    short=True)]  # fmt: skip

    def _socket_message(self, event: Event) -> list[Item]:
        """A message between app and tcp."""
        start, end = self._lanes(event)
        fields = _socket_fields(event)
        sign, protocol = changed(event)
        title = f"{NAMES[protocol]}: {event.subject}" if protocol else event.subject
        hop = Hop(event.time, event.trace, start, end, sign, title, fields)
        return self._limited((event.subject, event.host, event.direction), hop)

    def _arp(self, event: Event, found: Headers, start: Lane, end: Lane) -> Hop:
        packet = found["arp"]
        sender, target = packet["sender_ip"], packet["target_ip"]
        text = f"{sender} is at {packet['sender_mac']}"
        if number(packet, "operation") == arp.REQUEST and sender != target:
            everybody = found["ethernet"]["dst"] == ethernet.BROADCAST.hex(":")
            text = f"{sender} asks{' everybody' if everybody else ''}: who has {target}?"
        return Hop(event.time, event.trace, start, end, "", "ARP", {}, text)

    # --- what happens inside a layer ---

    def _state(self, event: Event) -> list[Item]:
        lane = Lane(event.host, event.layer)
        before, after = str(event.before.get("state", "")), str(event.after.get("state", ""))
        found: list[Item] = []
        if event.layer == TCP:
            self._ends.take(event)
        if before != after:
            fields: Fields = {"was": before or "no socket", "is": after or "gone"}
            descriptor = number(event.after or event.before, "descriptor")
            if descriptor:
                fields["socket"] = descriptor
            if event.layer == TCP:
                fields |= news(event.before, event.after)
            found.append(Mark(event.time, event.trace, lane, STATE, event.subject, fields))
        if event.layer == TCP and not self.tabled and self._ends.established:
            found += self._sockets()
        return found

    def _sockets(self) -> list[Item]:
        sockets = self._ends.sockets()
        if self.tabled or not sockets:
            return []
        self.tabled = True
        return [Sockets(self._last, sockets)]

    def _mark(self, event: Event) -> list[Item]:
        if event.what == DROP:
            self.dropped += 1
        if self._is_quiet(event):
            return []
        kind = DROP if event.what == DROP else "call" if event.layer == APP else NOTE
        fields = ordered(
            {name: value for name, value in event.fields.items()
             if value != "" and not (name in _FLAGS and str(value) in ("0", "False"))}
        )  # fmt: skip
        mark = Mark(event.time, event.trace, Lane(event.host, event.layer), kind, event.subject,
                    fields)  # fmt: skip
        return self._limited((kind, event.host, event.subject), mark)

    def _is_quiet(self, event: Event) -> bool:
        """Nothing to tell, unless it failed."""
        if event.subject == "neighbour":  # ARP's own messages tell it
            return event.fields.get("state") != "FAILED"
        told = event.subject in _QUIET or event.subject.removesuffix(" returned") in _QUIET
        return told and "error" not in event.fields

    # --- helpers ---

    def _limited(self, kind: tuple[str, ...], item: Hop | Mark) -> list[Item]:
        """The item, or nothing when enough of its kind were drawn: then it is counted."""
        self._told[kind] += 1
        limit = min(self._fold_after, _SELDOM.get(kind[0], self._fold_after))
        if self._every_hop or self._told[kind] <= limit:
            return [item]
        self._folded[item.title if isinstance(item, Hop) else f"{item.kind} {item.title}"] += 1
        return []

    def _flush(self) -> list[Item]:
        if not self._folded:
            return []
        counts = dict(self._folded)
        self._folded.clear()
        return [Folded(counts)]

    def _lanes(self, event: Event) -> tuple[Lane, Lane]:
        """From the layer that sends to the one that is to receive."""
        start = Lane(event.host, event.layer)
        if event.boundary == _AT_WIRE:
            return start, self._station(event)
        order = LAYERS.index(event.layer) + (1 if event.direction == "down" else -1)
        return start, Lane(event.host, LAYERS[order])

    def _station(self, event: Event) -> Lane:
        """Whose link a frame is for: the other host's, unless its address is a third one's."""
        taker = self._stations.get(event.packet[:6].hex(":"))
        if taker is not None and taker not in self.hosts:
            return THE_WIRE
        return self._peer(event.host, LINK)

    def _peer(self, host: str, role: str) -> Lane:
        others = [name for name in self.hosts if name != host]
        return Lane(others[0], role) if others else THE_WIRE


def tell(events: Iterable[Event], story: Story) -> list[Item]:
    """A whole story at once, of events in any order."""
    items: list[Item] = []
    for event in sorted(events, key=lambda event: event.time):
        items += story.feed(event)
    return items + story.finish()


def _socket_fields(event: Event) -> Fields:
    """What a message between app and tcp says: addresses with their ports, lengths, no settings."""
    fields = {name: value for name, value in joined(event.fields).items()
              if value != "" and name not in _UNTOLD}  # fmt: skip
    if event.subject != "Credit":
        fields.pop("limit", None)
    if event.subject == "Data":
        fields["bytes"] = len(event.packet)
    return ordered(fields)


def _data(headers: Headers) -> Fields:
    """The length of the data behind a header, as a field of it."""
    data = number(headers.get("data", {}), "bytes")
    return {"data": data} if data else {}
