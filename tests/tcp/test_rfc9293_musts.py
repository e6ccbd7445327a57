"""Requirements of RFC 9293 appendix B that no other file of this folder is about."""

from __future__ import annotations

import pytest

from plywire import seq
from plywire.messages import Bind, Bound, Closed, Connect, Data, Listen, Opened, Paths, Segment
from plywire.roles import IP
from plywire.seq import add
from plywire.wire import tcp as wire
from plywire.wire.tcp import Options, TcpHeader

from .harness import ACK, ANY, FIN, LOCAL, PSH, REMOTE, RST, SECOND, SYN, URG, Peer, Raw

MSS_1000 = b"\x02\x04\x03\xe8"
UNKNOWN = b"\xfd\x05abc"


def arrives(raw: Raw, flags: int, number: int, ack: int, options: bytes, data: bytes = b"") -> None:
    """A segment for the first connection, or for port 80, with options byte by byte."""
    tcb = next(iter(raw.layer.stack.by_id.values()), None)
    local, remote = (tcb.local_port, tcb.remote_port) if tcb else (80, 40_000)
    header = TcpHeader(remote, local, number, ack, flags, 65_535, 0, options)
    payload = wire.encode(header, data, REMOTE, LOCAL)
    raw.layer.receive(Segment(5, 6, REMOTE, LOCAL, 0, 64, 0, payload), IP, raw.now)
    raw.collect()


@pytest.mark.parametrize(
    "options",
    [UNKNOWN + b"\1\1\1", b"\1" * 40, MSS_1000, b"\x08\x0a" + bytes(8) + b"\1\1"],
    ids=["unknown", "no-operation", "mss", "timestamps"],
)
def test_a_segment_of_a_connection_bears_any_option(options: bytes) -> None:
    """MUST-5, MUST-6: what is not understood there is no reason to lose the text."""
    peer = Peer()
    arrives(peer.raw, ACK, peer.snd, peer.rcv, options, b"text")
    (data,) = peer.raw.told(Data)
    assert data.payload == b"text"
    assert peer.tcb.snd_mss == 1460, "an MSS counts on a SYN only"


def test_an_option_of_an_impossible_length_costs_its_segment_only() -> None:
    """MUST-7: it is counted, and the connection goes on with the next segment."""
    peer = Peer()
    arrives(peer.raw, ACK, peer.snd, peer.rcv, b"\xfd\x28" * 2, b"text")
    assert peer.raw.told(Data) == []
    assert peer.raw.counters["drop_tcp_bad_option_length"] == 1
    arrives(peer.raw, ACK, peer.snd, peer.rcv, b"", b"text")
    (data,) = peer.raw.told(Data)
    assert data.payload == b"text"


@pytest.mark.parametrize("before", range(4))
def test_an_option_may_begin_anywhere(before: int) -> None:
    """MUST-64: an option need not begin at a word."""
    raw = Raw()
    raw.listen()
    options = b"\1" * before + UNKNOWN + MSS_1000
    arrives(raw, SYN, 100, 0, options.ljust(-len(options) % 4 + len(options), b"\0"))
    assert raw.only().flags == SYN | ACK
    assert raw.tcb().snd_mss == 1000


def test_the_mss_option_is_on_no_other_segment_than_a_syn() -> None:
    """MUST-65."""
    peer = Peer(passive=True)
    assert peer.synack.options.mss == 1460
    peer.write(b"x" * 5000)
    peer.data(b"y" * 100)
    peer.raw.close(5000, peer.handle)
    peer.ack(5000)
    peer.advance(2_000_000_000)
    sent = peer.take()
    assert any(item.flags & FIN for item in sent)
    assert [item.options for item in sent] == [Options()] * len(sent)


def test_a_listen_leaves_connections_of_its_port_alone() -> None:
    """MUST-41, MUST-42: a connection of the port is in SYN-SENT while a program listens there."""
    raw = Raw()
    raw.app(Bind(0, 2, ANY, 5000, 1))
    raw.app(Connect(7, 2, REMOTE, 80, 1 << 20, {}))
    syn = raw.only()
    raw.app(Bind(0, 4, ANY, 5000, 1))
    raw.app(Listen(0, 4, 8, {}))
    assert [bound.error for bound in raw.told(Bound)] == ["", "", ""]
    raw.segment(SYN, 900, src_port=6000, dst_port=5000)
    assert raw.only().flags == SYN | ACK
    assert sorted(raw.states()) == ["SYN-RECEIVED", "SYN-SENT"]
    raw.segment(SYN | ACK, 300, add(syn.seq, 1), src_port=80, dst_port=5000)
    raw.segment(ACK, 901, 1001, src_port=6000, dst_port=5000)
    assert [opened.listener for opened in raw.told(Opened)] == [0, 4]


def test_the_source_is_the_routes_and_stays_the_connections() -> None:
    """MUST-44, MUST-45: ip is asked once, also when its routes change."""
    there, here, elsewhere = bytes((10, 9, 0, 5)), bytes((10, 8, 0, 1)), bytes((10, 7, 0, 1))
    raw = Raw()
    for source in (here, elsewhere):
        rows = ((LOCAL, 32, LOCAL, 65_535), (here, 32, here, 65_535), (there, 24, source, 1500))
        raw.layer.receive(Paths(0, rows), IP, raw.now)
        if source == here:
            raw.app(Connect(7, 2, there, 80, 1 << 20, {}))
    syn = raw.only()
    assert syn.message.src == here
    header, _ = wire.decode_unchecked(syn.message.payload)
    raw.segment(SYN | ACK, 300, add(syn.seq, 1), src_port=80, dst_port=header.src_port,
                src=there, dst=here)  # fmt: skip
    raw.write(b"hello", 0)
    assert [item.message.src for item in raw.take()] == [here, here]


def test_the_ttl_is_left_to_ip() -> None:
    """MUST-49: the TTL is the host's setting; 0 asks ip for it."""
    assert Peer(establish=False).syn.message.ttl == 0


def test_a_program_names_the_diffserv_field() -> None:
    """MUST-48, SHLD-21, SHLD-22: on every segment, from the SYN on, and it can be changed."""
    peer = Peer(options={"IP_TOS": 0x28})
    peer.write(b"hello")
    assert [item.message.tos for item in (peer.syn, peer.only())] == [0x28, 0x28]
    peer.ack(5)
    peer.raw.option("IP_TOS", 0x48)
    peer.write(b"world", 5)
    assert peer.only().message.tos == 0x48
    assert Peer(passive=True, options={"IP_TOS": 0x28}).synack.message.tos == 0x28


def test_a_window_of_more_than_half_the_field_is_no_negative_number() -> None:
    """MUST-1."""
    peer = Peer(window=0xFFFF, initial_window=50)
    peer.write(b"x" * 70_000)
    assert sum(len(item.data) for item in peer.take()) == 44 * 1460


def test_a_closed_window_is_closed_to_text_only() -> None:
    """MUST-66: RST and URG count when the window is closed."""
    peer = Peer(limit=1000)
    peer.data(b"x" * 1000)
    peer.take()
    peer.send(ACK | URG, urgent=500)
    assert peer.tcb.rcv_up == add(peer.snd, 500)
    peer.raw.told()
    peer.send(RST, seq=peer.snd)
    (closed,) = peer.raw.told(Closed)
    assert (closed.error, peer.state) == ("ECONNRESET", "CLOSED")


def test_urgent_data_may_be_of_any_length() -> None:
    """MUST-31, MUST-62: its end is the furthest that was named, however many segments it takes."""
    peer = Peer()
    end = add(peer.snd, 60_000)
    received = b""
    for offset in range(0, 60_000, 1000):
        peer.send(ACK | URG, b"u" * 1000, urgent=60_000 - offset)
        peer.snd = add(peer.snd, 1000)
        assert peer.tcb.rcv_up == end
        received += b"".join(item.payload for item in peer.raw.told(Data))
    assert received == b"u" * 60_000


def test_a_reset_may_bear_data() -> None:
    """SHLD-2: a RST with a diagnosis in it is a RST."""
    peer = Peer()
    peer.send(RST, b"out of memory")
    (closed,) = peer.raw.told()
    assert (closed.error, peer.state) == ("ECONNRESET", "CLOSED")


def test_a_window_that_shrinks() -> None:
    """SHLD-15, SHLD-16, SHLD-17: nothing new, but the old data inside is sent again, for as long as
    the peer answers."""
    peer = Peer(retries2=3, initial_window=10)
    peer.write(b"x" * 20_000)
    assert len(peer.take()) == 10
    for _ in range(12):
        peer.send(ACK, window=2000)
        peer.advance(peer.raw.layer.deadline() - peer.raw.now)
        sent = peer.take()
        assert sent
        assert all(seq.le(add(item.seq, len(item.data)), add(peer.rcv, 14_600)) for item in sent)
        assert sent[0].seq == peer.rcv
        peer.ack(100)
    assert peer.state == "ESTABLISHED"


def test_r2_is_more_than_100_seconds() -> None:
    """SHLD-11, with Linux's numbers."""
    peer = Peer()
    peer.write(b"x")
    peer.advance(100 * SECOND)
    assert peer.state == "ESTABLISHED"
    peer.advance(900 * SECOND)
    assert peer.state == "CLOSED"


def test_keep_alive_waits_for_data_in_flight() -> None:
    """MUST-26: no probe while something that was sent is not acknowledged."""
    peer = Peer(options={"SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1})
    peer.write(b"x")
    peer.take()
    peer.advance(20 * SECOND)
    assert {item.seq for item in peer.take()} == {peer.rcv}, "the data again, and no probe"


def test_small_writes_leave_as_full_segments_with_one_push() -> None:
    """SHLD-27, SHLD-28, MAY-16: what was queued is cut anew."""
    peer = Peer(window=0)
    for offset in range(0, 3000, 10):
        peer.write(b"x" * 10, offset)
    peer.take()
    peer.send(ACK, window=10_000)
    sent = peer.take()
    assert [len(item.data) for item in sent] == [1460, 1460, 80]
    assert [bool(item.flags & PSH) for item in sent] == [False, False, True]
