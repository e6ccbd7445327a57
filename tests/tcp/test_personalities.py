"""Two personalities, by their numbers: what the wire shows of them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from plywire.profiles import PROFILES, TcpConfig
from plywire.wire.tcp import Options, build_options, parse_options

from .harness import Pair, Raw


def syn_of(profile: str) -> bytes:
    from plywire.wire.tcp import decode_unchecked

    fields = {name: getattr(PROFILES[profile].tcp, name) for name in TcpConfig.__dataclass_fields__}
    raw = Raw(**fields)
    raw.connect()
    header, _ = decode_unchecked(raw.only().message.payload)
    return header.options


def kinds(options: bytes) -> list[int]:
    found, index = [], 0
    while index < len(options):
        found.append(options[index])
        index += 1 if options[index] == 1 else options[index + 1]
    return found


def test_linux_orders_options_as_linux() -> None:
    assert kinds(syn_of("linux")) == [2, 4, 8, 1, 3]


def test_bsd_orders_options_as_freebsd() -> None:
    assert kinds(syn_of("bsd")) == [2, 1, 3, 4, 8]


@pytest.mark.parametrize("order", ["linux", "bsd"])
def test_the_order_changes_nothing_else(order: str) -> None:
    options = Options(1460, 7, True, (), (5, 6))
    assert parse_options(build_options(options, order)) == options


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_each_moves_data_over_a_bad_wire(profile: str) -> None:
    pair = Pair(7, loss=0.05, jitter=3_000_000)
    pair.a.config = replace(pair.a.config, tcp=PROFILES[profile].tcp)
    pair.a.rng = random.Random(1)
    pair.a.swap()
    pair.transfer(bytes(100_000), bytes(50_000))
