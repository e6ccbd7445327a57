"""Echo requests of a host's own, between two IP layers."""

import random

import pytest

from plywire.config import MS, SECOND, host
from plywire.messages import Datagram, NeighbourFailed
from plywire.roles import LINK
from plywire.trace import Tracer
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
    assert call.error.name == "EHOSTUNREACH"


def test_a_reply_that_nobody_waits_for_is_counted():
    one, two = layer(), layer("10.0.0.2/24")
    call = one.ask("ping", ["10.0.0.2", 8, 1000], 0)
    carry(packets(one), two, 0)
    reply = packets(two)
    carry(reply, one, 0)
    carry(reply, one, 0)
    assert call.done
    assert one.counters["drop_icmp_unexpected_reply"] == 1


def test_what_waits_is_bounded():
    one = layer()
    for _ in range(1024):
        one.ask("ping", ["10.0.0.2", 8, 1000], 0)
    with pytest.raises(Exception, match="ENOBUFS"):
        one.ask("ping", ["10.0.0.2", 8, 1000], 0)


@pytest.mark.parametrize(
    "arguments",
    [["10.0.0", 8, 1], ["10.0.0.256", 8, 1], ["10.0.0.2", 65_508, 1], ["10.0.0.2", 1, 0]],
)
def test_arguments_that_cannot_be(arguments):
    with pytest.raises(ValueError):
        layer().ask("ping", arguments, 0)


def test_an_unknown_verb():
    with pytest.raises(KeyError):
        layer().ask("pong", [], 0)
