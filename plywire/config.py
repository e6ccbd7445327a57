"""What a lab file says, checked: hosts, addresses, names, wires, routes and each layer's numbers.

`parse` is pure: it takes what `tomllib` read. Everything that it does not know, and every value
that cannot be, is a `ConfigError` with the key and the reason.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from plywire.errors import ConfigError
from plywire.profiles import MS as MS
from plywire.profiles import PROFILES, IpConfig, TcpConfig
from plywire.profiles import SECOND as SECOND
from plywire.roles import LAYERS, Role
from plywire.tables import HIGHEST, Table, cidr
from plywire.tunnels import UDP, endpoint, parse_peer, peers_of_wire


@dataclass(frozen=True)
class LinkConfig:
    """Numbers of the link layer. Times in nanoseconds."""

    arp_retry: int = 1 * SECOND
    arp_tries: int = 3
    arp_lifetime: int = 60 * SECOND  # then the entry is confirmed again before it is dropped
    arp_queue: int = 64  # packets waiting for one neighbour
    arp_entries: int = 1024
    arp_announce: int = 2  # announcements of the own address at the start (RFC 5227 2.3)
    arp_probe: bool = False  # use the address only after probes for it (RFC 5227 2.1)


@dataclass(frozen=True)
class AppConfig:
    """Numbers of the socket layer."""

    max_descriptors: int = 4096
    receive_buffer: int = 3 << 20  # bytes a socket at most; the credit given to TCP
    listen: str = ""  # the API's address; "" is a unix socket in the run directory
    survive: bool = True  # sockets are kept where kill -9 of this layer does not reach


@dataclass(frozen=True)
class InterfaceConfig:
    """An interface of a host. ifindex counts from 1; address and mac are bytes."""

    name: str
    ifindex: int
    address: bytes
    prefix_length: int
    mac: bytes
    mtu: int = 1500
    device: str = "wire"
    wire: str = ""  # the wire that a `wire` or `raw` device is on
    listen: str = ""  # where it is reached there; "" is an ipc path in the run directory
    peers: tuple[str, ...] = ()  # further endpoints to join; of a tunnel ADDRESS=udp://HOST:PORT
    tap: str = ""  # the name of a `tap` device's kernel interface

    @property
    def network(self) -> bytes:
        """The address with its host bits cleared."""
        value = int.from_bytes(self.address, "big") >> (32 - self.prefix_length)
        return (value << (32 - self.prefix_length)).to_bytes(4, "big")

    @property
    def broadcast(self) -> bytes:
        """The directed broadcast address of the interface's network."""
        low = (1 << (32 - self.prefix_length)) - 1
        return (int.from_bytes(self.address, "big") | low).to_bytes(4, "big")


@dataclass(frozen=True)
class RouteConfig:
    """A route by way of a gateway."""

    prefix: bytes
    prefix_length: int
    via: bytes


@dataclass(frozen=True)
class HostConfig:
    """One host: all that its four layers are told."""

    name: str
    interfaces: tuple[InterfaceConfig, ...]
    routes: tuple[RouteConfig, ...] = ()
    forwarding: bool = False
    names: Mapping[str, bytes] = field(default_factory=dict)
    implementations: Mapping[Role, str] = field(default_factory=dict)
    profile: str = "linux"
    tcp: TcpConfig = PROFILES["linux"].tcp
    ip: IpConfig = PROFILES["linux"].ip
    link: LinkConfig = LinkConfig()
    app: AppConfig = AppConfig()


@dataclass(frozen=True)
class LabConfig:
    """A whole lab."""

    name: str
    hosts: Mapping[str, HostConfig]
    names: Mapping[str, bytes]
    metrics: str = ""  # HOST:PORT at which Prometheus finds the metrics; "": nowhere


DEFAULT_IMPLEMENTATIONS: dict[Role, str] = {role: f"services.{role}:create" for role in LAYERS}
"""What runs a role unless the lab file names another: `module:factory`."""

_DEVICES = ("wire", "tap", "raw", "tunnel")
WIRES = frozenset({"wire", "raw", "tunnel"})
"""The devices that are on a wire of the lab; a raw one carries bare IP packets, and so does a
tunnel, over UDP."""
EVERYWHERE = ("tcp://*:", "tcp://0.0.0.0:", "udp://0.0.0.0:")
"""How endpoints begin at which one can listen, but not be reached."""


def host(name: str, address: str, **changes: Any) -> HostConfig:
    """A host with one interface on the wire `lan`, as tests and the simulator want it.

    address: `10.0.0.1/24`; changes: fields of HostConfig. The hardware address is
    02:00 and the four bytes of the address.
    """
    packed, length = cidr(address, name)
    interface = InterfaceConfig("eth0", 1, packed, length, b"\x02\x00" + packed, wire="lan")
    return HostConfig(name, (interface,), **changes)


def part(lab: LabConfig, hosts: Collection[str]) -> LabConfig:
    """The lab with these hosts only. The names of the others are still known, and those of their
    stations that listen at an endpoint of their own are peers. Raises ConfigError."""
    for name in hosts:
        if name not in lab.hosts:
            raise ConfigError(f"host {name!r}", f"not in the lab; there are {', '.join(lab.hosts)}")
    elsewhere = [
        station
        for name, item in lab.hosts.items()
        if name not in hosts
        for station in item.interfaces
        if station.listen and not station.listen.startswith(EVERYWHERE)
    ]

    def alone(item: InterfaceConfig) -> InterfaceConfig:
        if item.device == "tunnel":  # `parse` has put them in, with their addresses
            return item
        peers = [other.listen for other in elsewhere if item.wire and other.wire == item.wire]
        return replace(item, peers=tuple(dict.fromkeys((*item.peers, *peers))))

    kept = {
        name: replace(item, interfaces=tuple(map(alone, item.interfaces)))
        for name, item in lab.hosts.items()
        if name in hosts
    }
    return replace(lab, hosts=kept)


def parse(data: Mapping[str, Any], where: str = "lab.toml") -> LabConfig:
    """The lab that a file describes. Raises ConfigError with key and reason."""
    top = Table(data, where, "")
    lab = top.table("lab")
    name = lab.text("name", "default")
    if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 32:
        raise lab.error("name", "letters, digits, - and _ only, 32 at most")
    metrics = lab.text("metrics", "")
    if metrics:
        try:
            address(metrics)
        except ValueError as error:
            raise lab.error("metrics", str(error)) from None
    lab.done()
    hosts = {}
    wires = set()
    wire_tables = top.table("wires")
    for wire_name in list(wire_tables.data):
        wire = wire_tables.table(wire_name)
        wire.done()
        wires.add(wire_name)
    tables = top.table("hosts")
    for host_name in list(tables.data):
        hosts[host_name] = _host(host_name, tables.table(host_name), wires)
    if not hosts:
        raise top.error("hosts", "a lab needs one host at least: [hosts.h1]")
    taken: dict[bytes, str] = {}
    carries: dict[str, str] = {}
    for item in hosts.values():
        for interface in item.interfaces:
            if interface.wire and carries.setdefault(interface.wire, interface.device) != (
                interface.device
            ):
                raise top.error(
                    f"hosts.{item.name}",
                    f"{interface.name} is of the device {interface.device!r}, but others on the"
                    f" wire {interface.wire!r} are of {carries[interface.wire]!r}",
                )
            if interface.address in taken:
                raise top.error(
                    f"hosts.{item.name}",
                    f"address {ipaddress.IPv4Address(interface.address)} is"
                    f" {taken[interface.address]}'s already",
                )
            taken[interface.address] = item.name
    _check_stations(top, hosts)
    names = host_names(hosts)
    if len(names) < 2 * len(hosts):
        raise top.error("hosts", "two hosts have one name: names are compared without case")
    own = frozenset(names)
    name_table = top.table("names")
    for key in list(name_table.data):
        name_key = key.lower().rstrip(".")
        if not name_key:
            raise name_table.error(key, "a name without a letter")
        if name_key in own:
            raise name_table.error(key, "the name of a host, which means its first address")
        names[name_key] = name_table.address(key)
    top.done()
    stations = [station for item in hosts.values() for station in item.interfaces]
    for key, item in hosts.items():
        completed = tuple(peers_of_wire(each, stations, EVERYWHERE) for each in item.interfaces)
        hosts[key] = replace(item, names=names, interfaces=completed)
    return LabConfig(name, hosts, names, metrics)


def address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:9464`, `[::1]:9464` or `:9464` (all addresses, host "").

    Raises ValueError, in words.
    """
    name, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(f"{text!r} is not HOST:PORT, as in 127.0.0.1:9464")
    return name.strip("[]"), int(port)


def host_names(hosts: Mapping[str, HostConfig]) -> dict[str, bytes]:
    """The names that hosts have by themselves, `h1` and `h1.lab`, in small letters."""
    firsts = {name.lower(): item.interfaces[0].address for name, item in hosts.items()}
    return firsts | {f"{name}.lab": address for name, address in firsts.items()}


def _check_stations(top: Table, hosts: Mapping[str, HostConfig]) -> None:
    """Two stations of a wire with one hardware address would take each other's frames."""
    taken: dict[tuple[str, bytes], str] = {}
    for item in hosts.values():
        for index, interface in enumerate(item.interfaces):
            if interface.device != "wire":
                continue
            here = f"{item.name}.{interface.name}"
            other = taken.setdefault((interface.wire, interface.mac), here)
            if other != here:
                raise top.error(
                    f"hosts.{item.name}.interfaces[{index}].mac",
                    f"{interface.mac.hex(':')} is {other}'s already, on the same wire",
                )


def _host(name: str, table: Table, wires: set[str]) -> HostConfig:
    if not name.replace("-", "").isalnum() or len(name) > 32:
        raise table.error("", "a host's name is letters, digits and -, 32 at most")
    rows = table.rows("interfaces")
    if not rows:
        raise table.error("interfaces", "a host needs one interface at least")
    interfaces = tuple(_interface(row, index + 1, wires) for index, row in enumerate(rows))
    seen = [item.name for item in interfaces]
    if len(set(seen)) < len(seen):
        raise table.error("interfaces", "two interfaces have one name")
    routes = []
    for row in table.rows("routes"):
        prefix, length = row.cidr("to")
        via = row.address("via")
        if not any(_inside(via, interface) for interface in interfaces):
            raise row.error("via", "not on a network of this host's interfaces")
        routes.append(RouteConfig(prefix, length, via))
        row.done()
    implementations = {}
    table_impl = table.table("implementations")
    for role in list(table_impl.data):
        if role not in LAYERS:
            raise table_impl.error(role, f"not a layer; there are {', '.join(LAYERS)}")
        text = table_impl.text(role, "")
        if text.count(":") != 1:
            raise table_impl.error(role, f"{text!r} is not module:factory")
        implementations[role] = text
    profile = table.text("profile", "linux")
    if profile not in PROFILES:
        raise table.error("profile", f"unknown; there are {', '.join(PROFILES)}")
    config = HostConfig(
        name=name,
        interfaces=interfaces,
        routes=tuple(routes),
        forwarding=table.flag("forwarding", len(interfaces) > 1),
        implementations=implementations,
        profile=profile,
        tcp=numbers(table.table("tcp"), PROFILES[profile].tcp),
        ip=numbers(table.table("ip"), PROFILES[profile].ip),
        link=numbers(table.table("link"), LinkConfig()),
        app=numbers(table.table("app"), AppConfig()),
    )
    listen = config.app.listen
    if listen and not listen.startswith(("unix:", "unix-abstract:")):
        where, _, port = listen.rpartition(":")
        if not where or not port.isdecimal() or not 1 <= int(port) <= 65_535:
            raise table.error("app.listen", f"{listen!r} is not HOST:PORT or unix:PATH")
    table.done()
    return config


def _interface(table: Table, ifindex: int, wires: set[str]) -> InterfaceConfig:
    address, length = table.cidr("address")
    if not 1 <= length <= 32:
        raise table.error("address", "needs a prefix length from 1 to 32: 10.0.0.1/24")
    _check_address(table, address, length)
    device = table.text("device", "wire")
    if device not in _DEVICES:
        raise table.error("device", f"{device!r} is unknown; there are {', '.join(_DEVICES)}")
    wire = table.text("wire", "lan" if device in WIRES and "lan" in wires else "")
    if device in WIRES and wire not in wires:
        raise table.error("wire", f"{wire!r} is not in [wires]")
    tap = table.text("tap", "")
    if device == "tap" and not 1 <= len(tap) <= 15:
        raise table.error("tap", "a tap device needs the name of its kernel interface, 15 at most")
    mac = table.text("mac", "")
    try:
        packed = bytes.fromhex(mac.replace(":", "")) if mac else b"\x02\x00" + address
    except ValueError:
        raise table.error("mac", f"{mac!r} is not six bytes in hex") from None
    if len(packed) != 6 or packed[0] & 1:
        raise table.error("mac", f"{mac!r} is not the address of one station")
    mtu = table.number("mtu", 1500)
    if not 576 <= mtu <= 65_535:
        raise table.error("mtu", f"{mtu} is not from 576 to 65535")
    listen, peers = table.text("listen", ""), table.texts("peers")
    if device == "tunnel":
        try:
            endpoint(listen)
            tuple(map(parse_peer, peers))
        except ValueError as error:
            raise table.error("peers" if listen.startswith(UDP) else "listen", str(error)) from None
    name = table.text("name", f"eth{ifindex - 1}")
    if not name.replace("-", "").replace(".", "").isalnum() or len(name) > 15:
        raise table.error("name", f"{name!r} is not letters, digits, - and ., 15 at most")
    config = InterfaceConfig(
        name=name,
        ifindex=ifindex,
        address=address,
        prefix_length=length,
        mac=packed,
        mtu=mtu,
        device=device,
        wire=wire,
        listen=listen,
        peers=peers,
        tap=tap,
    )
    table.done()
    return config


def _check_address(table: Table, address: bytes, length: int) -> None:
    """Refuse what RFC 1122 3.2.1.3 keeps from being a host's own address."""
    value, low = int.from_bytes(address, "big"), (1 << (32 - length)) - 1
    reason = ""
    if address[0] == 127:
        reason = "a loopback address: every host has those"
    elif address[0] == 0 or address[0] >= 224:
        reason = "no address that a host can have"
    elif length < 31 and value & low == 0:  # RFC 3021: a /31 has neither
        reason = "the address of the network itself"
    elif length < 31 and value & low == low:
        reason = "the broadcast address of its network"
    if reason:
        raise table.error("address", f"{ipaddress.IPv4Address(address)} is {reason}")


def numbers(table: Table, default: Any) -> Any:
    """The dataclass `default` with what the table changes. Times are written in seconds in the
    file and are nanoseconds inside. Raises ConfigError."""
    changes: dict[str, Any] = {}
    for item in fields(default):
        if item.name not in table.data:
            continue
        old = getattr(default, item.name)
        if isinstance(old, bool):
            changes[item.name] = table.flag(item.name, old)
        elif isinstance(old, str):
            changes[item.name] = table.text(item.name, old)
            words = _WORDS.get(item.name, ())
            if words and changes[item.name] not in words:
                reason = f"{changes[item.name]!r} is unknown; there are {', '.join(words)}"
                raise table.error(item.name, reason)
        elif item.name in TIMES:
            changes[item.name] = table.seconds(item.name)
        else:
            changes[item.name] = table.number(item.name, old)
            low, high = _RANGES.get(item.name, (0, HIGHEST))
            if not low <= changes[item.name] <= high:
                raise table.error(item.name, f"{changes[item.name]} is not from {low} to {high}")
    table.done()
    result = replace(default, **changes)
    if isinstance(result, TcpConfig) and result.port_low > result.port_high:
        raise table.error("port_low", f"{result.port_low} is above port_high")
    if isinstance(result, TcpConfig) and result.rto_min > result.rto_max:
        raise table.error("rto_min", "longer than rto_max")
    return result


_WORDS = {"ecn": ("off", "passive", "on")}
_RANGES = {
    "ttl": (1, 255),
    "port_low": (1, 65_535),
    "port_high": (1, 65_535),
    "initial_window": (1, 1000),
    "initial_receive_window": (1, 65_535),
    "send_buffer": (1, 1 << 30),
    "receive_buffer": (1, 1 << 30),  # the widest window that RFC 7323 can name
    "send_buffer_start": (1, 1 << 30),
    "receive_buffer_start": (1, 1 << 30),
    "max_descriptors": (1, 1 << 20),
    "arp_tries": (1, 100),
    "arp_entries": (1, 1 << 20),
}
"""What a number may be, both included; others may be from 0 to HIGHEST."""


TIMES = frozenset(
    {
        "rto_initial", "rto_min", "rto_max", "delayed_ack", "time_wait", "fin_wait_2",
        "keepalive_time", "keepalive_interval", "reassembly_timeout", "arp_retry", "arp_lifetime",
        "user_timeout_low", "user_timeout_high",
    }
)  # fmt: skip


def _inside(address: bytes, interface: InterfaceConfig) -> bool:
    shift = 32 - interface.prefix_length
    return (int.from_bytes(address, "big") >> shift) == (
        int.from_bytes(interface.address, "big") >> shift
    )
