"""What a story tells and what it leaves out; which events belong to it; what it measures."""

from __future__ import annotations

import io
import struct

import pytest
from story_script import ADDRESS, ISS, Script, control, handshake

from plywire.lab.story import Focus, Story
from plywire.lab.story.capture import Capture
from plywire.lab.story.items import THE_WIRE, Folded, Hop, Lane, Mark, Sockets, Summary
from plywire.lab.story.model import tell
from plywire.messages import Closed, Credit, Data, Frame, Hello
from plywire.roles import APP, LAYERS, LINK, TCP, WIRE
from plywire.trace import IN, OUT, Tracer
from plywire.wire import tcp

HOSTS = ("h1", "h2")


def story(script: Script, **how: object) -> list:
    return tell(script.events, Story(HOSTS, **how))


def hops(items: list) -> list[Hop]:
    return [item for item in items if isinstance(item, Hop)]


def refused() -> Script:
    script = Script()
    script.note("h1", "Connect", descriptor=3, address="10.0.0.2:81")
    script.connect_message()
    script.state("h1", "active OPEN", {"state": "CLOSED"}, control("h1", "SYN-SENT"))
    script.segment("h1", tcp.SYN)
    script.segment("h2", tcp.RST | tcp.ACK)
    closed = control("h1", "SYN-SENT") | {"state": "CLOSED"}
    script.state("h1", "rcv RST", control("h1", "SYN-SENT"), closed)
    script.cross("h1", TCP, APP, Closed(7, 2, "ECONNREFUSED", "RST received"))
    script.note("h1", "Connect returned", descriptor=3, error="ECONNREFUSED", cause="RST received")
    return script


def test_syn_is_told_hop_by_hop():
    script = Script()
    handshake(script)
    syn = [hop for hop in hops(story(script)) if hop.title != "ARP"][1:6]
    assert [(hop.start, hop.end) for hop in syn] == [
        (Lane("h1", "tcp"), Lane("h1", "ip")),
        (Lane("h1", "ip"), Lane("h1", "link")),
        (Lane("h1", "link"), Lane("h2", "link")),
        (Lane("h2", "link"), Lane("h2", "ip")),
        (Lane("h2", "ip"), Lane("h2", "tcp")),
    ]
    assert [hop.sign + hop.title for hop in syn] == [
        "+TCP SYN", "+IPv4", "+Ethernet", "-Ethernet", "-IPv4",
    ]  # fmt: skip
    assert syn[0].fields == {"src_port": 40000, "dst_port": 80, "seq": ISS["h1"], "window": 64240,
                             "mss": 1460, "window_scale": 7}  # fmt: skip
    assert syn[1].fields == {"src": "10.0.0.1", "dst": "10.0.0.2", "ttl": 64, "protocol": 6}
    assert syn[4].fields == {"src": "10.0.0.1", "dst": "10.0.0.2", "protocol": 6}
    assert syn[0].segment
    assert not any(hop.segment for hop in syn[1:])


def test_arp_is_told_in_two_lines():
    script = Script()
    handshake(script)
    asks, tells = [hop for hop in hops(story(script)) if hop.title == "ARP"]
    assert asks.tail == "10.0.0.1 asks everybody: who has 10.0.0.2?"
    assert tells.tail == "10.0.0.2 is at 02:00:0a:00:00:02"


def test_states_of_both_ends_are_told_with_their_cause():
    script = Script()
    handshake(script)
    marks = [item for item in story(script) if isinstance(item, Mark) and item.lane.role == TCP]
    assert [(mark.lane.host, mark.title, mark.fields["was"], mark.fields["is"])
            for mark in marks] == [
        ("h1", "active OPEN", "CLOSED", "SYN-SENT"),
        ("h2", "rcv SYN", "LISTEN", "SYN-RECEIVED"),
        ("h1", "rcv SYN,ACK", "SYN-SENT", "ESTABLISHED"),
        ("h2", "rcv ACK of SYN", "SYN-RECEIVED", "ESTABLISHED"),
    ]  # fmt: skip


def test_a_change_of_state_tells_what_it_wrote_into_the_socket():
    script = Script()
    handshake(script)
    marks = [item for item in story(script) if isinstance(item, Mark) and item.lane.role == TCP]
    written = [{name: mark.fields[name] for name in mark.fields if name not in ("was", "is")}
               for mark in marks]  # fmt: skip
    assert written == [
        {"local": "10.0.0.1:40000", "remote": "10.0.0.2:80", "iss": ISS["h1"]},
        {"local": "10.0.0.2:80", "remote": "10.0.0.1:40000", "iss": ISS["h2"], "irs": ISS["h1"]},
        {"irs": ISS["h2"]},
        {},
    ]


def test_sockets_are_told_when_both_are_established():
    script = Script()
    handshake(script)
    subject = Story(HOSTS)
    for event in script.events:
        subject.feed(event)
        if subject.tabled:
            break
    assert event.after["state"] == "ESTABLISHED"
    assert event.host == "h2"
    (table,) = [item for item in story(script) if isinstance(item, Sockets)]
    first, second = table.sockets
    assert first.before == {"state": "CLOSED"}
    assert first.after["remote"] == "10.0.0.2:80"
    assert second.after["snd_una"] == ISS["h2"] + 1
    assert "segs_in" not in first.after


def test_repeated_acknowledgements_are_short_and_then_counted():
    script = Script()
    handshake(script)
    for _ in range(10):
        script.segment("h1", tcp.ACK)
    items = story(script)
    acks = [hop for hop in hops(items) if hop.short]
    assert len(acks) == 2
    assert acks[0].start == Lane("h1", TCP)
    assert acks[0].end == Lane("h2", TCP)
    assert [item.counts for item in items if isinstance(item, Folded)] == [{"segments": 8}]


def test_a_segment_that_is_sent_again_says_so():
    script = Script()
    script.segment("h1", tcp.SYN, lost=True)
    script.segment("h1", tcp.SYN, seq=ISS["h1"])
    first, second = [hop for hop in hops(story(script)) if hop.title == "TCP SYN"]
    assert (first.tail, second.tail) == ("", "sent again")


def test_a_duplicate_acknowledgement_is_not_a_segment_sent_again():
    script = Script()
    script.segment("h1", tcp.ACK)
    script.segment("h1", tcp.ACK)
    assert not any("again" in hop.tail for hop in hops(story(script)))


def test_a_lost_frame_is_counted():
    script = Script()
    script.segment("h1", tcp.SYN, lost=True)
    summary = story(script)[-1]
    assert isinstance(summary, Summary)
    assert (summary.frames, summary.lost) == (1, 1)


def test_a_frame_for_everybody_arrives_at_each_station():
    script = Script()
    frame = b"\xff" * 6 + b"\2\0\x0a\0\0\1" + b"\x08\x06" + bytes(46)
    script.frame("h1", frame, arrives=False)
    for host in ("r", "h2"):
        station = Tracer(host, LINK, script.events.append)
        station.crossing(IN, Frame(7, 1, 0, frame), WIRE, script.now)
    items = story(script)
    assert len(hops(items)) == 1
    assert items[-1].lost == 0


def test_a_frame_from_nobody_comes_from_the_wire():
    script = Script()
    script.segment("h2", tcp.SYN)
    without = [event for event in script.events if event.host == "h1"]
    first = hops(tell(without, Story(("h1",))))[0]
    assert (first.start, first.end) == (THE_WIRE, Lane("h1", LINK))


def test_a_frame_for_a_router_goes_to_the_wire():
    script = Script()
    router = Tracer("r", LINK, script.events.append)
    frame = b"\2\0\x0a\0\0\2" + b"\2\0\x0a\0\0\x09" + b"\x08\x06" + bytes(46)
    router.crossing(OUT, Frame(1, 1, 0, frame), WIRE, 1)
    to_router = b"\2\0\x0a\0\0\x09" + b"\2\0\x0a\0\0\1" + b"\x08\x06" + bytes(46)
    script.frame("h1", to_router, arrives=False)
    (hop,) = hops(story(script))
    assert hop.end == THE_WIRE


def test_a_refusal_is_told_with_its_reason():
    items = story(refused())
    assert [hop.title for hop in hops(items) if hop.title.startswith("TCP")] == [
        "TCP SYN", "TCP RST+ACK",
    ]  # fmt: skip
    returned = [item for item in items if isinstance(item, Mark)][-1]
    assert returned.fields["error"] == "ECONNREFUSED"
    (table,) = [item for item in items if isinstance(item, Sockets)]
    assert [socket.host for socket in table.sockets] == ["h1"]
    assert table.sockets[0].after["state"] == "CLOSED"


def test_a_story_is_over_when_every_end_has_ended():
    subject = Story(HOSTS)
    script = Script()
    handshake(script)
    for event in script.events:
        subject.feed(event)
    assert not subject.over
    for host, state in (("h1", "TIME-WAIT"), ("h2", "CLOSED")):
        script.state(host, "close", control(host, "ESTABLISHED"), control(host, state))
        subject.feed(script.events[-1])
    assert subject.over


def test_chatter_between_layers_is_left_out():
    script = Script()
    script.cross("h1", "ip", TCP, Hello(0, "ip", 1, 0))
    assert story(script)[:-1] == []


@pytest.mark.parametrize(
    ("message", "title", "drawn"),
    [(Data(7, 2, 0, b"x"), "TCP: Data", 3), (Credit(7, 2, 0, 10), "Credit", 1)],
)
def test_messages_of_one_kind_are_drawn_a_few_times(message, title, drawn):
    script = Script()
    for _ in range(8):
        script.cross("h1", TCP, APP, message)
    items = story(script)
    assert len(hops(items)) == drawn
    assert [item.counts for item in items if isinstance(item, Folded)] == [{title: 8 - drawn}]
    assert items[-1].hops == 8


def test_a_drop_is_told_and_counted():
    script = Script()
    script.drop("h2", TCP, "drop_tcp_bad_checksum")
    mark, summary = story(script)
    assert (mark.kind, mark.title) == ("drop", "drop_tcp_bad_checksum")
    assert summary.dropped == 1


# --- which events belong to it --------------------------------------------------------------------


def test_focus_follows_one_connection_and_nothing_else():
    script = Script()
    handshake(script)
    own = len(script.events)
    script.trace = 99  # somebody else's connection, to the same hosts
    script.note("h1", "Connect", descriptor=4, address="10.0.0.2:22")
    script.segment("h1", tcp.SYN, seq=5)
    foreign = script.events[own:]
    mine = script.events[1:own]  # the name was resolved before there was a socket
    focus = Focus("h1", 3)
    for event in foreign[:1] + mine:
        assert focus.admits(event) == (event.trace == 7)
    assert set(focus.pair[:2]) == {"10.0.0.1", 40_000}


def test_focus_follows_calls_with_trace_ids_of_their_own():
    script = Script()
    handshake(script)
    focus = Focus("h1", 3, name="h2.lab")
    assert all(focus.admits(event) for event in script.events)
    script.trace = 8
    start = len(script.events)
    script.note("h1", "Send", descriptor=3, bytes=5)
    script.trace = 9
    script.data_down("h1", 2, b"hello")
    script.trace = 10
    script.segment("h2", tcp.ACK)
    script.trace = 11
    script.data_up("h2", 1, b"hello")
    assert all(focus.admits(event) for event in script.events[start:])
    script.trace = 12
    script.data_up("h2", 5, b"other")
    assert not focus.admits(script.events[-1])


def test_focus_on_a_trace_id_is_that_alone():
    script = Script()
    handshake(script)
    script.trace = 8
    script.segment("h1", tcp.ACK)
    focus = Focus(trace=7)
    assert [focus.admits(event) for event in script.events].count(False) == 10


# --- what it measures -----------------------------------------------------------------------------


def test_times_and_shares_of_the_handshake():
    script = Script()
    handshake(script)
    summary = story(script)[-1]
    assert summary.connect == 320_000
    assert summary.handshake == 250_000
    assert sum(summary.shares.values()) == summary.connect
    assert list(summary.shares) == [*LAYERS, "wire", "pipes"]
    # Twelve hops of 10 us, two of them and the two of ARP over the wire.
    assert summary.shares["wire"] == 40_000
    assert summary.shares["pipes"] == 100_000


def test_a_connect_that_does_not_return_has_no_shares():
    script = refused()
    events = [event for event in script.events if event.subject != "Connect returned"]
    summary = tell(events, Story(HOSTS))[-1]
    assert (summary.connect, summary.shares) == (None, {})


def test_events_as_text_are_understood():
    """The API hands over every field as text."""
    script = Script()
    handshake(script)
    texts = [
        event._replace(**{name: {key: str(value) for key, value in getattr(event, name).items()}
                          for name in ("fields", "before", "after")})
        for event in script.events
    ]  # fmt: skip
    assert len(tell(texts, Story(HOSTS, Focus("h1", 3, name="h2.lab")))) == len(story(script))


# --- the capture ----------------------------------------------------------------------------------


def packets(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        kind, length = struct.unpack_from("<II", data)
        if kind == 6:
            interface, _, _, captured, _ = struct.unpack_from("<IIIII", data, 8)
            found.append((interface, data[28 : 28 + captured]))
        data = data[length:]
    return found


@pytest.mark.parametrize("with_packets", [False, True])
def test_capture_has_each_frame_once(with_packets):
    script = Script()
    handshake(script)
    file = io.BytesIO()
    capture = Capture(file, packets=with_packets)
    items = story(script, capture=capture.take)
    found = packets(file.getvalue())
    frames = [event.packet for event in script.events
              if event.boundary == "link/wire" and event.what == OUT]  # fmt: skip
    ethernet = [data for _, data in found if data[12:14] in (b"\x08\0", b"\x08\6")]
    assert ethernet == frames
    assert capture.frames == items[-1].frames == 5
    assert len(found) == (5 + 6 if with_packets else 5)
    assert all(ADDRESS["h1"] in data for data in frames)
