"""Lab files: what they mean, and each refusal with its key and its reason."""

from __future__ import annotations

import copy
import dataclasses
import tomllib
from typing import Any

import pytest

from plywire import config
from plywire.config import MS, SECOND, TcpConfig, parse
from plywire.errors import ConfigError
from plywire.profiles import PROFILES

GOOD = """
[lab]
name = "two-nets"

[wires.lan]
[wires.far]

[names]
"WWW.Example." = "10.0.1.2"

[hosts.h1]
interfaces = [{ address = "10.0.0.1/24" }]
routes = [{ to = "0.0.0.0/0", via = "10.0.0.254" }]
[hosts.h1.tcp]
initial_window = 4
rto_min = 0.05
window_scaling = false

[hosts.r]
interfaces = [
  { address = "10.0.0.254/24", mtu = 9000, mac = "02:aa:00:00:00:01" },
  { address = "10.0.1.1/24", wire = "far", name = "wan0" },
]

[hosts.h2]
interfaces = [{ address = "10.0.1.2/24", wire = "far" }]
implementations = { link = "services.link.raw:create" }

[hosts.t]
interfaces = [{ address = "192.168.7.2/24", device = "tap", tap = "tap0" }]
forwarding = true
"""


def tree() -> dict[str, Any]:
    return tomllib.loads(GOOD)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good file with one value put in; path: keys and indices with dots between them."""
    data = copy.deepcopy(tree())
    place: Any = data
    *way, last = path.split(".")
    for key in way:
        place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
    place[int(last) if isinstance(place, list) else last] = value
    return data


def test_good_file_is_read():
    lab = parse(tree())
    assert lab.name == "two-nets"
    assert list(lab.hosts) == ["h1", "r", "h2", "t"]
    h1, r, h2, t = lab.hosts.values()
    (eth0,) = h1.interfaces
    assert (eth0.name, eth0.ifindex, eth0.address, eth0.prefix_length, eth0.mtu, eth0.wire) == (
        "eth0", 1, b"\x0a\0\0\1", 24, 1500, "lan",
    )  # fmt: skip
    assert eth0.mac == b"\x02\0\x0a\0\0\1"
    assert (eth0.network, eth0.broadcast) == (b"\x0a\0\0\0", b"\x0a\0\0\xff")
    assert h1.routes == (config.RouteConfig(b"\0\0\0\0", 0, b"\x0a\0\0\xfe"),)
    assert h1.tcp == TcpConfig(initial_window=4, rto_min=50 * MS, window_scaling=False)
    assert [item.ifindex for item in r.interfaces] == [1, 2]
    assert r.interfaces[0].mac.hex() == "02aa00000001"
    assert r.interfaces[1].name == "wan0"
    assert (h1.forwarding, r.forwarding, t.forwarding) == (False, True, True)
    assert h2.implementations == {"link": "services.link.raw:create"}
    assert (t.interfaces[0].device, t.interfaces[0].tap) == ("tap", "tap0")


def test_names_are_those_of_the_hosts_and_of_the_table():
    names = parse(tree()).names
    assert names["h1"] == names["h1.lab"] == b"\x0a\0\0\1"
    assert names["r"] == b"\x0a\0\0\xfe"
    assert names["www.example"] == b"\x0a\0\1\2"
    assert parse(tree()).hosts["h2"].names == names


def test_names_are_found_whatever_their_case():
    data = tree()
    data["hosts"]["Big-One"] = {"interfaces": [{"address": "10.0.0.77/24"}]}
    names = parse(data).names
    assert names["big-one"] == names["big-one.lab"] == bytes((10, 0, 0, 77))


def test_a_point_to_point_network_has_two_hosts():
    data = tree()
    data["hosts"]["a"] = {"interfaces": [{"address": "10.9.0.0/31"}]}
    data["hosts"]["b"] = {"interfaces": [{"address": "10.9.0.1/31"}]}
    assert {"a", "b"} <= parse(data).hosts.keys()


def test_profiles_differ_and_a_file_changes_their_numbers():
    data = changed("hosts.h1.profile", "bsd")
    data["hosts"]["h1"]["tcp"] = {"syn_retries": 1}
    data["hosts"]["h1"]["ip"] = {"ttl": 33}
    h1, h2 = parse(data).hosts["h1"], parse(tree()).hosts["h2"]
    assert (h1.tcp.rto_max, h1.tcp.syn_retries) == (64 * SECOND, 1)
    assert (h1.ip.icmp_rate, h1.ip.ttl) == (200, 33)
    assert (h2.tcp, h2.ip) == PROFILES["linux"] == (TcpConfig(), config.IpConfig())


def test_helper_makes_what_a_file_would():
    item = config.host("h1", "10.0.0.1/24", forwarding=True)
    assert item.interfaces == parse(tree()).hosts["h1"].interfaces
    assert item.forwarding


REFUSED = [
    ("surprise", {}, "surprise", "unknown key"),
    ("lab.colour", "red", "lab.colour", "unknown key"),
    ("lab.name", "../etc", "lab.name", "letters, digits"),
    ("lab.name", "x" * 33, "lab.name", "32 at most"),
    ("lab.name", "", "lab.name", "letters, digits"),
    ("lab.name", 7, "lab.name", "is not a string"),
    ("lab", 7, "lab", "must be a table"),
    ("hosts", {}, "hosts", "one host at least"),
    ("hosts", [], "hosts", "must be a table"),
    ("wires.lan.colour", 1, "wires.lan.colour", "unknown key"),
    ("hosts.h1.colour", 1, "hosts.h1.colour", "unknown key"),
    ("hosts.h_1", {"interfaces": []}, "hosts.h_1", "letters, digits and -"),
    ("hosts.h1.interfaces", [], "hosts.h1.interfaces", "one interface at least"),
    ("hosts.h1.interfaces", {}, "hosts.h1.interfaces", "array of tables"),
    ("hosts.h1.interfaces", [7], "hosts.h1.interfaces[0]", "must be a table"),
    ("hosts.h1.interfaces.0.colour", 1, "hosts.h1.interfaces[0].colour", "unknown key"),
    ("hosts.h1.interfaces.0.address", "10.0.0.1", ".address", "with a prefix length"),
    ("hosts.h1.interfaces.0.address", "10.0.0.256/24", ".address", "with a prefix length"),
    ("hosts.h1.interfaces.0.address", "10.0.0.1/33", ".address", "with a prefix length"),
    ("hosts.h1.interfaces.0.address", "10.0.0.1/0", ".address", "from 1 to 32"),
    ("hosts.h1.interfaces.0.address", "::1/64", ".address", "with a prefix length"),
    ("hosts.h1.interfaces.0.address", 7, ".address", "is not a string"),
    ("hosts.h1.interfaces.0.address", "10.0.0.0/24", ".address", "the network itself"),
    ("hosts.h1.interfaces.0.address", "10.0.0.255/24", ".address", "the broadcast address"),
    ("hosts.h1.interfaces.0.address", "127.0.0.2/8", ".address", "a loopback address"),
    ("hosts.h1.interfaces.0.address", "0.0.0.1/24", ".address", "no address that a host can have"),
    ("hosts.h1.interfaces.0.address", "224.0.0.5/24", ".address", "no address that a host can"),
    ("hosts.h1.interfaces.0.address", "10.0.0.254/24", "hosts.r", "is h1's already"),
    ("hosts.h1.interfaces.0.mtu", 575, ".mtu", "from 576 to 65535"),
    ("hosts.h1.interfaces.0.mtu", 65_536, ".mtu", "from 576 to 65535"),
    ("hosts.h1.interfaces.0.mtu", "1500", ".mtu", "is not an integer"),
    ("hosts.h1.interfaces.0.mtu", True, ".mtu", "is not an integer"),
    ("hosts.h1.interfaces.0.mac", "02:00", ".mac", "not the address of one station"),
    ("hosts.h1.interfaces.0.mac", "03:00:00:00:00:01", ".mac", "not the address of one station"),
    ("hosts.h1.interfaces.0.mac", "02:aa:00:00:00:01", "hosts.r.interfaces[0].mac", "h1.eth0's"),
    ("hosts.h1.interfaces.0.mac", "zz", ".mac", "not six bytes"),
    ("hosts.h1.interfaces.0.wire", "moon", ".wire", "is not in [wires]"),
    ("hosts.h1.interfaces.0.device", "pigeon", ".device", "is unknown; there are wire, tap"),
    ("hosts.h1.interfaces.0.name", "", ".name", "15 at most"),
    ("hosts.h1.interfaces.0.name", "a/b", ".name", "15 at most"),
    ("hosts.h1.interfaces.0.name", "x" * 16, ".name", "15 at most"),
    ("hosts.h1.interfaces.0.peers", "one", ".peers", "array of strings"),
    ("hosts.h1.interfaces.0.peers", [1], ".peers", "array of strings"),
    ("hosts.t.interfaces.0.tap", "", ".tap", "name of its kernel interface"),
    ("hosts.t.interfaces.0.tap", "x" * 16, ".tap", "name of its kernel interface"),
    ("hosts.r.interfaces.1.name", "eth0", "hosts.r.interfaces", "two interfaces have one name"),
    ("hosts.h1.routes.0.via", "10.0.1.1", "hosts.h1.routes[0].via", "not on a network"),
    ("hosts.h1.routes.0.via", "x", "hosts.h1.routes[0].via", "is not an IPv4 address"),
    ("hosts.h1.routes.0.to", "default", "hosts.h1.routes[0].to", "with a prefix length"),
    ("hosts.h1.routes.0.dev", "eth0", "hosts.h1.routes[0].dev", "unknown key"),
    ("hosts.h1.implementations", {"physics": "a:b"}, ".physics", "not a layer"),
    ("hosts.h1.implementations", {"tcp": "services.tcp"}, ".tcp", "is not module:factory"),
    ("hosts.h1.implementations", {"tcp": 7}, ".tcp", "is not a string"),
    ("hosts.h1.profile", "bsd-1986", "hosts.h1.profile", "unknown; there are linux"),
    ("hosts.h1.forwarding", 1, "hosts.h1.forwarding", "is not true or false"),
    ("hosts.h1.tcp.colour", 1, "hosts.h1.tcp.colour", "unknown key"),
    ("hosts.h1.tcp.initial_window", -1, ".initial_window", "is not from"),
    ("hosts.h1.tcp.initial_window", 1.5, ".initial_window", "is not an integer"),
    ("hosts.h1.tcp.window_scaling", "no", ".window_scaling", "is not true or false"),
    ("hosts.h1.tcp.ecn", "yes", "hosts.h1.tcp.ecn", "unknown; there are off, passive, on"),
    ("hosts.h1.tcp.ecn", True, "hosts.h1.tcp.ecn", "is not a string"),
    ("hosts.h1.tcp.congestion", 1, ".congestion", "is not a string"),
    ("hosts.h1.tcp.rto_min", 0, ".rto_min", "number of seconds above 0"),
    ("hosts.h1.tcp.rto_min", -1.0, ".rto_min", "number of seconds above 0"),
    ("hosts.h1.tcp.rto_min", "1s", ".rto_min", "number of seconds above 0"),
    ("hosts.h1.tcp.rto_min", float("nan"), ".rto_min", "number of seconds above 0"),
    ("hosts.h1.tcp.rto_min", float("inf"), ".rto_min", "number of seconds above 0"),
    ("hosts.h1.tcp.port_high", 65_536, ".port_high", "is not from"),
    ("hosts.h1.tcp.port_low", 0, ".port_low", "is not from"),
    ("hosts.h1.ip.ttl", 0, "hosts.h1.ip.ttl", "is not from 1 to 255"),
    ("hosts.h1.ip.ttl", 256, "hosts.h1.ip.ttl", "is not from 1 to 255"),
    ("hosts.h1.link.arp_tries", True, ".arp_tries", "is not an integer"),
    ("hosts.h1.tcp.rto_min", 121, ".rto_min", "longer than rto_max"),
    ("hosts.h1.app.listen", 7, ".listen", "is not a string"),
    ("hosts.h1.app.listen", "127.0.0.1:99999", ".listen", "is not HOST:PORT"),
    ("hosts.h1.app.listen", "127.0.0.1", ".listen", "is not HOST:PORT"),
    ("hosts.h1.app.listen", ":4431", ".listen", "is not HOST:PORT"),
    ("hosts.H1", {"interfaces": [{"address": "10.0.0.7/24"}]}, "hosts", "two hosts have one name"),
    ("names.far", "10.0.0", "names.far", "is not an IPv4 address"),
    ("names.far", 7, "names.far", "is not a string"),
    ("names.H1", "10.0.0.9", "names.H1", "the name of a host"),
    ("names", {"h2.lab.": "10.0.0.9"}, "names.h2.lab.", "the name of a host"),
    ("names", {".": "10.0.0.9"}, "names..", "without a letter"),
]


@pytest.mark.parametrize(("path", "value", "key", "reason"), REFUSED)
def test_refusal_names_the_key_and_the_reason(path, value, key, reason):
    with pytest.raises(ConfigError) as caught:
        parse(changed(path, value), "my.toml")
    assert caught.value.where.startswith("my.toml: ")
    assert caught.value.where.endswith(key)
    assert reason in caught.value.reason


def test_ports_in_the_wrong_order_are_refused():
    data = changed("hosts.h1.tcp.port_low", 50_000)
    data["hosts"]["h1"]["tcp"]["port_high"] = 40_000
    with pytest.raises(ConfigError, match="port_low"):
        parse(data)


def test_every_time_is_written_in_seconds():
    """A number of nanoseconds in TIMES' stead would be off by a factor of a thousand million."""
    sections = (config.TcpConfig(), config.IpConfig(), config.LinkConfig(), config.AppConfig())
    names = {
        item.name
        for section in sections
        for item in dataclasses.fields(section)
        if isinstance(getattr(section, item.name), int) and getattr(section, item.name) >= MS * 10
    }
    assert names - {"memory"} == config.TIMES
    assert parse(changed("hosts.h1.ip.reassembly_timeout", 2)).hosts[
        "h1"
    ].ip.reassembly_timeout == (2 * SECOND)
