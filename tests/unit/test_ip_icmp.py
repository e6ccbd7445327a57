"""ICMP: what is answered, what must not be, what errors received do (RFC 792, 1122 3.2.2, 1812)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ip_harness import (
    BROADCAST,
    FAR,
    H1,
    H2,
    H3,
    NOWHERE,
    Ip,
    echo,
    error_about,
    icmp_packet,
    router_config,
    tcp_packet,
    the_error,
    the_icmp,
    udp_packet,
)

from plywire.config import SECOND, IpConfig, host
from plywire.envelope import decode, encode
from plywire.messages import FLAG_BROADCAST, PacketError
from plywire.wire import icmp, ipv4
from plywire.wire.icmp import IcmpMessage
from plywire.wire.ipv4 import Ipv4Header
from services.ip.fragments import Reassembly
from services.ip.icmp import Limiter

SENT = tcp_packet(src=H1, dst=FAR, payload=b"12345678")
"""The beginning of a packet that this host sent."""


# --- echo -----------------------------------------------------------------------------------------


def test_echo_is_answered_from_the_address_that_was_asked():
    ip = Ip()
    header, message = the_icmp(ip.packet(echo(b"payload", tos=0x13)))
    assert (header.src, header.dst, header.ttl, header.tos) == (H1, H2, 64, 0x10)
    assert message == IcmpMessage(icmp.ECHO_REPLY, 0, 0x0001_0002, b"payload")
    assert ip.counters["icmp_in_echos"] == ip.counters["icmp_out_echo_reps"] == 1


def test_reply_keeps_the_trace_id():
    (message,) = Ip().packet(echo(), trace=77)
    assert message.trace == 77


def test_echo_to_the_routers_other_address_is_answered_from_it():
    header, _ = the_icmp(Ip(router_config()).packet(echo(dst=b"\x0a\0\x01\x01")))
    assert header.src == b"\x0a\0\x01\x01"


@pytest.mark.parametrize(("dst", "flags"), [(BROADCAST, 0), (H1, FLAG_BROADCAST)])
def test_echo_to_everybody_is_not_answered(dst, flags):
    ip = Ip()
    assert ip.packet(echo(dst=dst), flags) == []
    assert ip.counters["drop_icmp_echo_to_all"] == 1
    assert ip.counters["icmp_in_errors"] == 0


def test_echo_of_65507_bytes_comes_and_goes_in_fragments():
    body = bytes(number * number & 0xFF for number in range(65_507))
    request = icmp.encode(IcmpMessage(icmp.ECHO_REQUEST, 0, 5, body))
    ip, other = Ip(), Ip(host("h2", "10.0.0.2/24"), seed=2)
    answers: list = []
    for piece in other.segment(H1, request, protocol=1):
        answers += ip.packet(piece.packet)
    assert len(answers) == 45
    together = Reassembly(SECOND, 1 << 20)
    for piece in answers:
        whole, _ = together.add(*ipv4.decode(piece.packet), 0, 0, 0)
        other.packet(piece.packet)
    assert icmp.decode(whole.payload) == IcmpMessage(icmp.ECHO_REPLY, 0, 5, body)
    assert other.counters["icmp_in_echo_reps"] == 1


# --- errors sent ----------------------------------------------------------------------------------


def test_error_quotes_what_fits_into_576_bytes():
    packet = udp_packet(payload=b"z" * 1400)
    (message,) = Ip().packet(packet)
    assert len(message.packet) == 576
    _, error = the_icmp([message])
    assert error.body == packet[:548]


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12, 42])
def test_no_error_about_an_icmp_error(kind):
    """A router would answer a query that has no time left, but no error and nothing unknown."""
    ip = Ip(router_config())
    assert ip.packet(icmp_packet(IcmpMessage(kind, 0, 0, b"x" * 40), dst=FAR, ttl=1)) == []
    assert ip.counters["icmp_out_suppressed"] == 1


@pytest.mark.parametrize("kind", [0, 8, 13, 14])
def test_error_about_an_icmp_query(kind):
    ip = Ip(router_config())
    _, error = the_icmp(ip.packet(icmp_packet(IcmpMessage(kind, 0, 0, b""), dst=FAR, ttl=1)))
    assert (error.type, error.code) == (icmp.TIME_EXCEEDED, icmp.TTL_EXCEEDED)


def test_no_error_about_an_icmp_packet_without_a_type():
    ip = Ip(router_config())
    assert ip.packet(ipv4.encode(Ipv4Header(H2, FAR, 1, ttl=1), b"")) == []
    assert ip.counters["icmp_out_suppressed"] == 1


@pytest.mark.parametrize(("dst", "flags"), [(BROADCAST, 0), (H1, FLAG_BROADCAST)])
def test_no_error_about_a_broadcast(dst, flags):
    ip = Ip()
    assert ip.packet(udp_packet(dst=dst), flags) == []
    assert ip.counters["icmp_out_suppressed"] == 1


def test_no_error_about_a_later_fragment():
    ip = Ip(router_config())
    assert ip.packet(tcp_packet(dst=FAR, ttl=1, offset=64)) == []
    assert len(ip.packet(tcp_packet(dst=FAR, ttl=1, more_fragments=True))) == 1


def test_errors_are_limited_in_rate_and_replies_are_not():
    config = host("h1", "10.0.0.1/24", ip=IpConfig(icmp_rate=10, icmp_burst=3))
    ip = Ip(config)
    assert [len(ip.packet(udp_packet())) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert ip.counters["icmp_out_rate_limit_global"] == 2
    assert len(ip.packet(echo())) == 1
    ip.later(0.1)
    assert [len(ip.packet(udp_packet())) for _ in range(2)] == [1, 0]
    ip.later(100)
    assert [len(ip.packet(udp_packet())) for _ in range(4)] == [1, 1, 1, 0]


def test_source_quench_and_redirect_are_never_sent():
    """RFC 6633 3, 4: not for overload; RFC 1122 3.2.2.2: nor for what goes back where it came."""
    ip = Ip(router_config(576))
    sent = []
    for number in range(200):
        for packet in (
            echo(), udp_packet(),
            tcp_packet(dst=FAR, ttl=1), tcp_packet(dst=NOWHERE), tcp_packet(dst=H3),
            tcp_packet(dst=FAR, payload=b"x" * 1000, dont_fragment=True),
            tcp_packet(options=b"\x07\x01\0\0"),
            tcp_packet(payload=b"x" * 16, ident=number, more_fragments=True),
        ):  # fmt: skip
            sent += ip.packet(packet)
    sent += ip.later(60)
    headers = [ipv4.decode(message.packet) for message in sent if hasattr(message, "packet")]
    kinds = {payload[0] for header, payload in headers if header.protocol == ipv4.PROTOCOL_ICMP}
    assert kinds == {
        icmp.ECHO_REPLY, icmp.UNREACHABLE, icmp.TIME_EXCEEDED, icmp.PARAMETER_PROBLEM
    }  # fmt: skip
    assert ip.counters["icmp_out_rate_limit_global"] > 0


@pytest.mark.parametrize(("rate", "burst"), [(0, 50), (1000, 0)])
def test_limiter_of_nothing_gives_nothing(rate, burst):
    assert not Limiter(rate, burst).take(10**12)


# --- errors received ------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "code"), [(3, 0), (3, 1), (3, 3), (3, 13), (11, 0), (12, 0)])
def test_error_about_an_own_packet_reaches_the_transport(kind, code):
    error = the_error(Ip().packet(error_about(SENT, kind, code)))
    assert error == PacketError(7, 6, 0, H2, kind, code, 0, H1, FAR, b"12345678")


def test_fragmentation_needed_bears_the_mtu():
    error = the_error(Ip().packet(error_about(SENT, 3, 4, 1400)))
    assert (error.code, error.mtu) == (4, 1400)


@pytest.mark.parametrize(("total", "mtu"), [(1500, 1492), (1492, 1006), (60_000, 32_000), (69, 68)])
def test_fragmentation_needed_without_mtu_is_guessed_from_the_plateaus(total, mtu):
    quote = SENT[:2] + total.to_bytes(2, "big") + SENT[4:]
    assert the_error(Ip().packet(error_about(quote, 3, 4))).mtu == mtu


@pytest.mark.parametrize("mtu", [1, 67])
def test_fragmentation_needed_with_an_impossible_mtu_is_dropped(mtu):
    ip = Ip()
    assert ip.packet(error_about(SENT, 3, 4, mtu)) == []
    assert ip.counters["drop_icmp_bad_mtu"] == 1


@pytest.mark.parametrize(
    ("quote", "reason"),
    [
        (tcp_packet(src=H3, dst=FAR), "icmp_quote_not_ours"),
        (SENT[:27], "icmp_bad_quote"),
        (SENT[:10], "icmp_bad_quote"),
        (b"", "icmp_bad_quote"),
        (b"\x65" + SENT[1:], "icmp_bad_quote"),
        (b"\x44" + SENT[1:], "icmp_bad_quote"),
        (b"\x4f" + SENT[1:], "icmp_bad_quote"),
        (tcp_packet(src=H1, dst=FAR, offset=8), "icmp_quote_of_fragment"),
        (tcp_packet(src=H1, dst=FAR, offset=2048), "icmp_quote_of_fragment"),
    ],
)
def test_error_that_cannot_be_about_an_own_packet_is_dropped(quote, reason):
    ip = Ip()
    assert ip.packet(error_about(quote)) == []
    assert ip.counters[f"drop_{reason}"] == 1


def test_error_about_an_own_packet_of_another_protocol_goes_nowhere():
    ip = Ip()
    assert ip.packet(error_about(udp_packet(src=H1, dst=FAR))) == []
    assert ip.counters["icmp_in_dest_unreachs"] == 1


@given(
    st.sampled_from([3, 11, 12]),
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.one_of(
        st.binary(max_size=80),
        st.integers(0, 27).map(lambda cut: SENT[:cut]),
        st.tuples(st.integers(0, 27), st.integers(0, 255)).map(
            lambda change: SENT[: change[0]] + bytes((change[1],)) + SENT[change[0] + 1 :]
        ),
    ),
)
def test_any_quote_is_survived_and_what_goes_up_fits_its_message(kind, code, rest, quote):
    messages = Ip().packet(error_about(quote, kind, code, rest))
    assert decode(encode(messages)) == (messages, [])
    assert all(message.src == H1 for message in messages)


@pytest.mark.parametrize("kind", [4, 5, 13, 14])
def test_retired_and_unused_types_are_ignored(kind):
    """Source quench (RFC 6633), redirects, timestamps."""
    ip = Ip()
    assert ip.packet(error_about(SENT, kind, 0)) == []
    assert ip.counters["drop_icmp_ignored_type"] == 1


@pytest.mark.parametrize("kind", [6, 15, 16, 17, 18, 30, 37, 255])
def test_unknown_types_are_dropped_silently(kind):
    """RFC 1122 3.2.2; among them those that RFC 6918 has retired."""
    ip = Ip()
    assert ip.packet(error_about(SENT, kind, 0)) == []
    assert ip.counters["drop_icmp_unknown_type"] == 1


def test_bad_icmp_checksum_is_dropped():
    ip = Ip()
    packet = bytearray(echo())
    packet[-1] ^= 1
    assert ip.packet(bytes(packet)) == []
    assert ip.counters["drop_icmp_bad_checksum"] == ip.counters["icmp_in_errors"] == 1


def test_error_without_a_way_back_is_counted():
    ip = Ip()
    assert ip.packet(udp_packet(src=NOWHERE)) == []
    assert ip.counters["icmp_out_errors"] == 1
