"""Requirements of RFC 9293 appendix B that no other file of this folder is about."""

from __future__ import annotations

import pytest

from plywire.messages import Bind, Bound, Connect, Data, Listen, Opened, Paths, Segment
from plywire.roles import IP
from plywire.seq import add
from plywire.wire import tcp as wire
from plywire.wire.tcp import Options, TcpHeader

from .harness import ACK, ANY, FIN, LOCAL, REMOTE, SYN, Peer, Raw

MSS_1000 = b"\x02\x04\x03\xe8"
UNKNOWN = b"\xfd\x05abc"


def arrives(raw: Raw, flags: int, seq: int, ack: int, options: bytes, data: bytes = b"") -> None:
    """A segment for the first connection, or for port 80, with options byte by byte."""
    tcb = next(iter(raw.layer.stack.by_id.values()), None)
    local, remote = (tcb.local_port, tcb.remote_port) if tcb else (80, 40_000)
    header = TcpHeader(remote, local, seq, ack, flags, 65_535, 0, options)
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
