"""Echo requests of a host's own, between two IP layers."""

import random

import pytest

from plywire.config import MS, SECOND, host
from plywire.messages import Datagram, NeighbourFailed
from plywire.roles import LINK
from plywire.trace import Tracer
from plywire.wire import icmp, ipv4
from services.ip import create


def layer(address="10.0.0.1/24"):
    return create(host("h", address), random.Random(1), Tracer())


def packets(ip):
    return [item.message.packet for item in ip.outputs() if type(item.message) is Datagram]


def carry(packets_, to, now):
    for packet in packets_:
        to.receive(Datagram(0, 1, b"\0\0\0\0", 0, packet), LINK, now)


@pytest.mark.parametrize("size", [0, 56, 5000])
def test_the_reply_answers_the_call_with_the_round_trip(size):
    one, two = layer(), layer("10.0.0.2/24")
    call = one.ask("ping", ["10.0.0.2", size, 1000], 0)
    carry(packets(one), two, 3 * MS)
    carry(packets(two), one, 7 * MS)
    assert call.result() == {"from": "10.0.0.2", "bytes": size, "ttl": 64, "rtt_ns": 7 * MS}
    assert one.deadline() is None


def test_a_host_answers_itself():
    assert layer().ask("ping", ["10.0.0.1", 8, 1000], 0).result()["rtt_ns"] == 0


def test_without_a_reply_the_call_ends_in_time():
    one = layer()
    call = one.ask("ping", ["10.0.0.2", 8, 1000], 5)
    assert one.deadline() == 5 + SECOND
    one.expire(5 + SECOND)
    assert call.error.name == "ETIMEDOUT"


def test_no_route():
    assert layer().ask("ping", ["192.0.2.1", 8, 1000], 0).error.name == "ENETUNREACH"


def test_a_neighbour_that_does_not_answer():
    one = layer()
    call = one.ask("ping", ["10.0.0.2", 8, 1000], 0)
    (packet,) = packets(one)
    one.receive(NeighbourFailed(0, 1, bytes((10, 0, 0, 2)), packet), LINK, 1)
    assert call.result() == {"from": "10.0.0.1", "type": 3, "code": 1, "mtu": 0}


def test_an_error_of_a_router():
    one = layer()
    call = one.ask("ping", ["10.0.0.2", 8, 1000], 0)
    (packet,) = packets(one)
    body = icmp.encode(icmp.IcmpMessage(icmp.TIME_EXCEEDED, icmp.TTL_EXCEEDED, 0, packet))
    header = ipv4.Ipv4Header(bytes((10, 0, 0, 9)), bytes((10, 0, 0, 1)), ipv4.PROTOCOL_ICMP)
    carry([ipv4.encode(header, body)], one, 1)
    assert call.result() == {"from": "10.0.0.9", "type": 11, "code": 0, "mtu": 0}


def test_a_reply_that_nobody_waits_for_is_counted():
    one, two = layer(), layer("10.0.0.2/24")
    call = one.ask("ping", ["10.0.0.2", 8, 1000], 0)
    carry(packets(one), two, 0)
    reply = packets(two)
    carry(reply, one, 0)
    assert call.done
    message = icmp.IcmpMessage(icmp.ECHO_REPLY, 0, 12345, b"")
    header = ipv4.Ipv4Header(bytes((10, 0, 0, 2)), bytes((10, 0, 0, 1)), ipv4.PROTOCOL_ICMP)
    carry([ipv4.encode(header, icmp.encode(message))], one, 0)
    assert one.counters["drop_icmp_unexpected_reply"] == 1


def test_a_second_reply_is_a_duplicate_with_its_own_time():
    one, two = layer(), layer("10.0.0.2/24")
    one.ask("ping", ["10.0.0.2", 8, 1000, 7, 3], 0)
    carry(packets(one), two, 0)
    reply = packets(two)
    carry(reply, one, 1 * MS)
    carry(reply, one, 2 * MS)
    row = {"serial": 1, "identifier": 7, "sequence": 3, "from": "10.0.0.2", "bytes": 8, "ttl": 64}
    assert one.describe("echoes", 0) == {"waiting": 0, "duplicates": [{**row, "rtt_ns": 2 * MS}]}
    assert one.counters["drop_icmp_duplicate_reply"] == 1
    assert one.counters["icmp_in_errors"] == 0


def test_identifier_and_sequence_number_are_those_asked_for():
    one = layer()
    one.ask("ping", ["10.0.0.2", 8, 1000, 7, 3], 0)
    (packet,) = packets(one)
    assert packet[20:28][4:] == bytes((0, 7, 0, 3))
    with pytest.raises(Exception, match="EALREADY"):
        one.ask("ping", ["10.0.0.2", 8, 1000, 7, 3], 0)


def test_the_way_to_an_address():
    one = layer()
    way = {"dev": "eth0", "via": "", "src": "10.0.0.1"}
    assert one.ask("route", ["10.0.0.2"], 0).result() == way
    assert one.ask("route", ["10.0.0.1"], 0).result()["dev"] == "lo"
    assert one.ask("route", ["192.0.2.1"], 0).error.name == "ENETUNREACH"


def test_what_waits_is_bounded():
    one = layer()
    for _ in range(1024):
        one.ask("ping", ["10.0.0.2", 8, 1000], 0)
    with pytest.raises(Exception, match="ENOBUFS"):
        one.ask("ping", ["10.0.0.2", 8, 1000], 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["10.0.0.2", 8, 1, 65_536, 0],
        ["10.0.0.2", 8, 1, 0, 65_536],
        ["10.0.0.2", 8, 1, 7],
        ["10.0.0", 8, 1],
        ["10.0.0.256", 8, 1],
        ["10.0.0.2", 65_508, 1],
        ["10.0.0.2", 1, 0],
    ],
)
def test_arguments_that_cannot_be(arguments):
    with pytest.raises(ValueError):
        layer().ask("ping", arguments, 0)


def test_an_unknown_verb():
    with pytest.raises(KeyError):
        layer().ask("pong", [], 0)
