"""Longest prefix match, and the routes that a configuration makes."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from ip_harness import interface, router_config

from plywire.config import HostConfig, RouteConfig
from services.ip import routes
from services.ip.routes import CACHE_ENTRIES, Link, Route, RouteTable

VIA = b"\x0a\0\0\xfe"


def route(cidr: str, ifindex: int = 1) -> Route:
    network = ipaddress.IPv4Network(cidr)
    return Route(network.network_address.packed, network.prefixlen, ifindex, VIA, VIA, 1500)


def address(text: str) -> bytes:
    return ipaddress.IPv4Address(text).packed


def links_of(config: HostConfig, **changes: object) -> dict[int, Link]:
    return {
        item.ifindex: Link(item.name, item.mac, item.mtu, True)._replace(**changes)
        for item in config.interfaces
    }


def test_longest_prefix_wins():
    table = RouteTable(
        [route("0.0.0.0/0", 1), route("10.0.0.0/8", 2), route("10.1.0.0/16", 3),
         route("10.1.2.3/32", 4)]
    )  # fmt: skip
    found = {
        text: table.lookup(address(text)).ifindex
        for text in ("8.8.8.8", "10.9.9.9", "10.1.9.9", "10.1.2.3", "10.1.2.4")
    }
    assert list(found.values()) == [1, 2, 3, 4, 3]


def test_no_route_is_none():
    assert RouteTable([route("10.0.0.0/8")]).lookup(address("11.0.0.1")) is None
    assert RouteTable().lookup(address("11.0.0.1")) is None


def test_first_of_two_routes_with_one_prefix_counts():
    table = RouteTable([route("10.0.0.0/8", 1), route("10.0.0.0/8", 2)])
    assert table.lookup(address("10.0.0.1")).ifindex == 1
    assert len(table.routes) == 1


def test_default_route_leads_to_hosts_only():
    table = RouteTable([route("0.0.0.0/0")])
    for text in ("0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1"):
        assert table.lookup(address(text)) is None
    assert table.lookup(address("223.255.255.254")) is not None


def test_replaced_routes_are_not_remembered():
    table = RouteTable([route("10.0.0.0/8", 1)])
    assert table.lookup(address("10.0.0.1")).ifindex == 1
    table.replace([route("10.0.0.0/8", 2)])
    assert table.lookup(address("10.0.0.1")).ifindex == 2


def test_memory_of_lookups_is_bounded():
    table = RouteTable([route("10.0.0.0/8")])
    for number in range(CACHE_ENTRIES * 2 + 5):
        table.lookup((0x0A000000 + number).to_bytes(4, "big"))
    assert len(table._cache) <= CACHE_ENTRIES


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=12),
    st.lists(st.integers(1 << 24, (224 << 24) - 1), min_size=1, max_size=12),
)
def test_lookup_agrees_with_ipaddress(prefixes, targets):
    networks = [ipaddress.IPv4Network((value, length), strict=False) for value, length in prefixes]
    targets += [min(max(value, 1 << 24), (224 << 24) - 1) for value, _ in prefixes]
    table = RouteTable(route(str(network)) for network in networks)
    for value in targets:
        target = ipaddress.IPv4Address(value)
        best = max((n.prefixlen for n in networks if target in n), default=None)
        found = table.lookup(target.packed)
        assert (found.length if found else None) == best


def test_gateway_leads_by_the_interface_whose_network_holds_it():
    config = router_config()
    (found,) = [item for item in routes.build(config, links_of(config)) if item.via]
    assert (found.ifindex, found.src, found.via) == (2, b"\x0a\0\x01\x01", b"\x0a\0\x01\x02")


def test_gateway_prefix_loses_its_host_bits():
    config = replace(router_config(), routes=(RouteConfig(address("1.2.3.4"), 16, VIA),))
    (found,) = [item for item in routes.build(config, links_of(config)) if item.via]
    assert found.prefix == address("1.2.0.0")


def test_interface_that_is_down_has_no_routes_but_its_own_address():
    config = router_config()
    links = links_of(config)
    links[2] = links[2]._replace(up=False)
    assert [(item.prefix, item.length) for item in routes.build(config, links)] == [
        (address("10.0.0.1"), 32),
        (address("10.0.1.1"), 32),
        (address("127.0.0.0"), 8),
        (address("10.0.0.0"), 24),
    ]


def test_interface_with_an_mtu_below_68_is_not_used():
    config = router_config()
    assert all(not item.ifindex for item in routes.build(config, links_of(config, mtu=67)))
    assert any(item.ifindex for item in routes.build(config, links_of(config, mtu=68)))


def test_gateway_on_two_networks_leads_by_the_narrower():
    wide, narrow = interface("a", 1, "10.0.0.1/8"), interface("b", 2, "10.0.5.1/24")
    config = HostConfig(
        "r", (wide, narrow), routes=(RouteConfig(b"\0\0\0\0", 0, address("10.0.5.9")),)
    )
    (found,) = [item for item in routes.build(config, links_of(config)) if item.via]
    assert found.ifindex == 2
