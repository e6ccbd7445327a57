"""RFC 6056 ephemeral ports, and RFC 9293 section 3.4.1 initial sequence numbers."""

from __future__ import annotations

import random

import pytest

from plywire.errors import SocketError
from plywire.isn import InitialSequenceNumbers
from plywire.messages import Bind, Bound, Closed, Connect
from plywire.ports import Ports

from .harness import ANY, LOCAL, REMOTE, SYN, Raw

OTHER = bytes((10, 0, 0, 3))


def ports(low: int = 32_768, high: int = 60_999, key: bytes = b"k") -> Ports:
    return Ports(low, high, key)


def test_ports_are_in_range() -> None:
    table = ports(40_000, 40_009)
    assert {table.ephemeral(LOCAL, REMOTE, 80, {}) for _ in range(10)} == set(range(40_000, 40_010))


def test_ports_of_one_destination_walk() -> None:
    table = ports()
    first, second = (table.ephemeral(LOCAL, REMOTE, 80, {}) for _ in range(2))
    assert second == first + 1 or (first, second) == (60_999, 32_768)


def test_destinations_begin_at_different_places() -> None:
    starts = {ports().ephemeral(LOCAL, REMOTE, port, {}) for port in range(1, 200)}
    assert len(starts) > 190
    assert ports().ephemeral(LOCAL, REMOTE, 80, {}) != ports().ephemeral(LOCAL, OTHER, 80, {})


def test_the_key_decides() -> None:
    starts = {ports(key=bytes((n,))).ephemeral(LOCAL, REMOTE, 80, {}) for n in range(50)}
    assert len(starts) > 45


def test_pairs_in_use_and_bound_ports_are_passed_over() -> None:
    table = ports(40_000, 40_003)
    table.reserve(2, ANY, 40_001, False, 0)
    taken = {(LOCAL, 40_000, REMOTE, 80)}
    found = {table.ephemeral(LOCAL, REMOTE, 80, taken) for _ in range(8)}
    assert found == {40_002, 40_003}


def test_exhaustion() -> None:
    table = ports(40_000, 40_001)
    taken = {(LOCAL, port, REMOTE, 80) for port in (40_000, 40_001)}
    with pytest.raises(SocketError) as caught:
        table.ephemeral(LOCAL, REMOTE, 80, taken)
    assert caught.value.name == "EADDRNOTAVAIL"
    assert table.ephemeral(LOCAL, OTHER, 80, taken) in (40_000, 40_001)


def test_exhaustion_reaches_the_program() -> None:
    raw = Raw(port_low=40_000, port_high=40_001)
    for handle in (2, 4, 6):
        raw.connect(handle)
    assert len([item for item in raw.take() if item.flags == SYN]) == 2
    (closed,) = raw.told(Closed)
    assert (closed.handle, closed.error) == (6, "EADDRNOTAVAIL")


def test_one_port_serves_many_destinations() -> None:
    raw = Raw(port_low=40_000, port_high=40_000)
    raw.connect(2, 80)
    raw.connect(4, 81)
    raw.app(Connect(0, 6, OTHER, 80, 1000, {}))
    assert len(raw.take()) == 3


def test_bind_to_port_0_takes_a_free_one() -> None:
    raw = Raw(port_low=40_000, port_high=40_002)
    for handle in (2, 4, 6, 8):
        raw.app(Bind(0, handle, ANY, 0, 0))
    bound = raw.told(Bound)
    assert {item.port for item in bound[:3]} == {40_000, 40_001, 40_002}
    assert bound[3].error == "EADDRINUSE"


# --- initial sequence numbers ---------------------------------------------------------------------


def test_isn_moves_with_a_clock_of_four_microseconds() -> None:
    isn = InitialSequenceNumbers(b"secret")
    first = isn.choose(LOCAL, 1, REMOTE, 2, 0)
    assert isn.choose(LOCAL, 1, REMOTE, 2, 4_000_000) == (first + 1000) % (1 << 32)


def test_isn_of_each_pair_is_its_own() -> None:
    isn = InitialSequenceNumbers(b"secret")
    numbers = {isn.choose(LOCAL, port, REMOTE, 80, 0) for port in range(1000)}
    assert len(numbers) == 1000
    assert isn.choose(LOCAL, 1, REMOTE, 2, 0) != isn.choose(REMOTE, 2, LOCAL, 1, 0)


def test_isn_needs_the_key() -> None:
    rng = random.Random(1)
    numbers = {
        InitialSequenceNumbers(rng.randbytes(32)).choose(LOCAL, 1, REMOTE, 2, 0) for _ in range(100)
    }
    assert len(numbers) == 100
