"""ICMP errors: RFC 1122 4.2.3.9, RFC 5927, RFC 1191."""

from __future__ import annotations

import struct

import pytest

from plywire.messages import FLAG_DONT_FRAGMENT, Closed, PacketError
from plywire.seq import add

from .harness import LOCAL, REMOTE, SECOND, SYN, Peer

ROUTER = bytes((10, 0, 0, 254))


def error(
    peer: Peer,
    code: int,
    *,
    kind: int = 3,
    seq: int | None = None,
    mtu: int = 0,
    local: int = 0,
    ports: tuple[int, int] | None = None,
) -> PacketError:
    """About the oldest segment in flight, unless seq says otherwise."""
    number = peer.tcb.snd_una if seq is None else seq
    src_port, dst_port = ports or (peer.local_port, peer.remote_port)
    quote = struct.pack("!HHI", src_port, dst_port, number)
    return PacketError(3, 6, local, ROUTER, kind, code, mtu, LOCAL, REMOTE, quote)


def in_flight(**options: object) -> Peer:
    peer = Peer(**options)
    peer.write(b"x" * 5000)
    peer.take()
    return peer


# --- hard and soft --------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "name"), [(2, "ENOPROTOOPT"), (3, "ECONNREFUSED")])
def test_hard_error_ends_an_attempt(code: int, name: str) -> None:
    peer = Peer(establish=False)
    peer.raw.error(error(peer, code))
    (closed,) = peer.raw.told(Closed)
    assert (closed.error, peer.state) == (name, "CLOSED")


@pytest.mark.parametrize("code", [2, 3])
def test_hard_error_does_not_end_a_connection(code: int) -> None:
    """RFC 5927 section 5.2: in a synchronized state it is soft."""
    peer = in_flight()
    peer.raw.error(error(peer, code))
    assert peer.state == "ESTABLISHED"
    assert peer.raw.told(Closed) == []


@pytest.mark.parametrize("code", [0, 1, 5, 13])
def test_soft_error_does_not_end_an_attempt(code: int) -> None:
    """RFC 1122 4.2.3.9: MUST NOT abort."""
    peer = Peer(establish=False)
    peer.raw.error(error(peer, code))
    assert peer.state == "SYN-SENT"


@pytest.mark.parametrize(
    ("kind", "code", "name"),
    [
        (3, 0, "ENETUNREACH"),
        (3, 1, "EHOSTUNREACH"),
        (3, 13, "EHOSTUNREACH"),
        (11, 0, "EHOSTUNREACH"),
        (12, 0, "EPROTO"),
    ],
)
def test_soft_error_is_reported_when_the_attempt_times_out(kind, code, name) -> None:
    peer = Peer(establish=False)
    peer.raw.error(error(peer, code, kind=kind))
    peer.advance(200 * SECOND)
    (closed,) = peer.raw.told(Closed)
    assert closed.error == name


def test_soft_error_is_reported_when_the_connection_times_out() -> None:
    peer = in_flight()
    peer.raw.error(error(peer, 1))
    peer.advance(2000 * SECOND)
    (closed,) = peer.raw.told(Closed)
    assert (closed.error, closed.cause) == (
        "EHOSTUNREACH",
        "ICMP unreachable, code 1, from 10.0.0.254",
    )


@pytest.mark.parametrize(("code", "name"), [(0, "ENETUNREACH"), (1, "EHOSTUNREACH")])
def test_local_error_ends_an_attempt_at_once(code: int, name: str) -> None:
    peer = Peer(establish=False)
    peer.raw.error(error(peer, code, local=1))
    (closed,) = peer.raw.told(Closed)
    assert closed.error == name


def test_local_error_does_not_end_a_connection() -> None:
    peer = in_flight()
    peer.raw.error(error(peer, 1, local=1))
    assert peer.state == "ESTABLISHED"


@pytest.mark.parametrize(("kind", "code"), [(4, 0), (5, 1), (0, 0), (3, 77), (15, 0)])
def test_retired_and_unknown_types_are_ignored(kind: int, code: int) -> None:
    """RFC 6633, RFC 6918: source quench above all."""
    peer = in_flight()
    window = peer.tcb.cc.cwnd
    peer.raw.error(error(peer, code, kind=kind))
    assert (peer.tcb.soft_error, peer.tcb.cc.cwnd, peer.take()) == ("", window, [])


# --- what may be believed (RFC 5927 section 4) ----------------------------------------------------


@pytest.mark.parametrize("offset", [-1, 5000, 1 << 20, -(1 << 20)])
def test_quoted_sequence_must_be_in_flight(offset: int) -> None:
    peer = in_flight()
    peer.raw.error(error(peer, 1, seq=add(peer.tcb.snd_una, offset)))
    peer.raw.error(error(peer, 4, mtu=600, seq=add(peer.tcb.snd_una, offset)))
    assert (peer.tcb.soft_error, peer.tcb.path_mtu) == ("", 1500)
    assert peer.raw.counters["drop_icmp_not_in_flight"] == 2


def test_attempt_believes_only_its_own_syn() -> None:
    peer = Peer(establish=False)
    peer.raw.error(error(peer, 3, seq=add(peer.local_iss, 1)))
    assert peer.state == "SYN-SENT"


def test_errors_for_nobody_and_short_quotes() -> None:
    peer = in_flight()
    peer.raw.error(error(peer, 1, ports=(1, 2)))
    peer.raw.error(error(peer, 1)._replace(quote=b"1234567"))
    assert peer.raw.counters["drop_icmp_for_nobody"] == 1
    assert peer.raw.counters["drop_icmp_short_quote"] == 1


# --- path MTU (RFC 1191) --------------------------------------------------------------------------


def test_smaller_mtu_makes_smaller_segments_at_once() -> None:
    peer = in_flight()
    window = peer.tcb.cc.cwnd
    peer.raw.error(error(peer, 4, mtu=1000))
    sent = peer.take()
    assert [len(item.data) for item in sent] == [960] * 5 + [200]
    assert sent[0].seq == peer.rcv
    assert peer.tcb.cc.cwnd == window  # it was no congestion


def test_only_the_first_of_many_errors_counts() -> None:
    peer = in_flight()
    peer.raw.error(error(peer, 4, mtu=1000))
    peer.take()
    peer.raw.error(error(peer, 4, mtu=1000))
    peer.raw.error(error(peer, 4, mtu=1500))
    assert peer.take() == []
    assert peer.raw.counters["drop_icmp_not_smaller"] == 2


def test_mtu_never_falls_below_552() -> None:
    """Linux's min_pmtu, against RFC 5927 section 7; the rest is for fragments."""
    peer = in_flight()
    assert peer.take() == []
    peer.raw.error(error(peer, 4, mtu=68))
    sent = peer.take()
    assert {len(item.data) for item in sent[:-1]} == {512}
    assert not any(item.message.flags & FLAG_DONT_FRAGMENT for item in sent)
    peer.raw.error(error(peer, 4, mtu=68))
    assert peer.take() == []


def test_router_that_does_not_say() -> None:
    peer = in_flight()
    peer.raw.error(error(peer, 4, mtu=0))
    assert peer.tcb.path_mtu == 576


def test_local_too_big_lowers_it_as_well() -> None:
    peer = in_flight()
    peer.raw.error(error(peer, 4, mtu=1400, local=1))
    assert peer.tcb.snd_mss == 1360


def test_later_connections_remember_for_ten_minutes() -> None:
    peer = in_flight()
    peer.raw.error(error(peer, 4, mtu=1000))
    peer.raw.connect(4, 81)
    assert peer.raw.info(4)["path_mtu"] == 1000
    peer.raw.advance(601 * SECOND)
    peer.raw.connect(6, 82)
    assert peer.raw.info(6)["path_mtu"] == 1500


def test_the_mss_offered_is_the_links_whatever_is_known_of_the_path() -> None:
    """RFC 1191 3.1, RFC 2923 2.3: what the peer sends may go another way."""
    peer = in_flight()
    peer.raw.error(error(peer, 4, mtu=1000))
    peer.take()
    peer.raw.connect(4, 81)
    assert peer.only().options.mss == 1460
    peer.raw.listen(6, 82)
    peer.raw.segment(SYN, 1, dst_port=82)
    assert peer.only().options.mss == 1460


def test_segments_may_not_be_fragmented() -> None:
    peer = Peer()
    peer.write(b"x")
    assert peer.only().message.flags & FLAG_DONT_FRAGMENT
