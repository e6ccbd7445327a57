"""What every link does, whatever its frames look like: its pipe to ip, its interfaces, its counts.

A link adds `_down` (a datagram becomes a frame) and `_up` (a frame becomes a datagram). What those
are where frames are bare IP packets is here too: such links differ in how the packets travel.
"""

from __future__ import annotations

from collections import Counter

from plywire.config import InterfaceConfig
from plywire.envelope import dump_state, load_state
from plywire.errors import DecodeError
from plywire.layer import Output
from plywire.messages import FLAG_BROADCAST, MAX_PACKET, Datagram, Frame, Hello, Interface, Message
from plywire.roles import IP, WIRE, Role
from plywire.trace import Tracer

ANY_ADDRESS = b"\0\0\0\0"
LIMITED_BROADCAST = b"\xff\xff\xff\xff"

_SNAPSHOT = 1
_NO_MAC = b"\0" * 6
_DST = slice(16, 20)
_TRAFFIC = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")


class LinkInterface:
    """One interface: what the host file says of it, whether it is up, what went through it."""

    __slots__ = ("config", "ifindex", "mtu", "rx_bytes", "rx_packets", "tx_bytes", "tx_packets",
                 "up")  # fmt: skip

    def __init__(self, config: InterfaceConfig) -> None:
        self.config = config
        self.ifindex = config.ifindex
        self.mtu = config.mtu
        self.up = True
        self.rx_packets = self.rx_bytes = self.tx_packets = self.tx_bytes = 0

    @property
    def mac(self) -> bytes:
        """The hardware address that ip is told; zeros when the link has none."""
        return self.config.mac

    def describe(self) -> dict[str, int | str]:
        """The interface for people."""
        config = self.config
        row: dict[str, int | str] = {
            "ifindex": self.ifindex,
            "name": config.name,
            "address": f"{address_text(config.address)}/{config.prefix_length}",
            "mac": self.mac.hex(":"),
            "mtu": self.mtu,
            "up": int(self.up),
        }
        return row | {name: getattr(self, name) for name in _TRAFFIC}

    def dump(self) -> dict[str, object]:
        """What a successor needs of it."""
        return {"up": self.up} | {name: getattr(self, name) for name in _TRAFFIC}

    def load(self, state: dict[str, object]) -> None:
        """Take over what `dump` gave."""
        self.up = state["up"]
        for name in _TRAFFIC:
            setattr(self, name, state[name])


class BareInterface(LinkInterface):
    """An interface that has no hardware address."""

    __slots__ = ()

    @property
    def mac(self) -> bytes:
        return _NO_MAC


class LinkBase:
    """A link layer but for its frames. Subclasses say what an interface is and give both ways."""

    role = "link"
    state_format = "link/1"

    def __init__(self, interfaces: list[LinkInterface], tracer: Tracer) -> None:
        self.counters: Counter[str] = Counter()
        self._tracer = tracer
        self._interfaces = {interface.ifindex: interface for interface in interfaces}
        self._out: list[Output] = []
        self._ip_generation: int | None = None

    def receive(self, message: Message, source: Role, now: int) -> None:
        """Take a Datagram or Hello from ip, or a Frame from a device."""
        kind = type(message)
        try:
            if kind is Datagram and source == IP:
                self._down(message, self._interface(message.ifindex), now)
            elif kind is Frame and source == WIRE:
                self._up(message, self._interface(message.ifindex), now)
            elif kind is Hello and source == IP:
                self._met_ip(message)
            else:
                raise DecodeError("unexpected_message", f"{kind.__name__} from {source}")
        except DecodeError as error:
            data = message.packet if kind is Datagram else message.frame if kind is Frame else b""
            self._drop(error.reason, message.trace, data, now)

    def expire(self, now: int) -> None:
        """Nothing: a link without timers."""

    def deadline(self) -> int | None:
        """None: a link without timers."""
        return None

    def outputs(self) -> list[Output]:
        """What is to be sent, in order; handed over."""
        out, self._out = self._out, []
        return out

    def snapshot(self) -> bytes:
        """Interfaces, counters, and what the link adds."""
        return dump_state(
            {
                "version": _SNAPSHOT,
                "ip_generation": self._ip_generation,
                "counters": dict(self.counters),
                "interfaces": {
                    ifindex: interface.dump() for ifindex, interface in self._interfaces.items()
                },
                "more": self._dump_more(),
            }
        )

    def restore(self, state: bytes, now: int) -> None:
        """Take over. An interface that this host does not have any more is left out.

        Raises DecodeError for a snapshot that is not one of this link's.
        """
        data = load_state(state)
        if not isinstance(data, dict) or data.get("version") != _SNAPSHOT:
            raise DecodeError("bad_snapshot", "not of this version of the link")
        self._ip_generation = data["ip_generation"]
        self.counters.clear()
        self.counters.update(data["counters"])
        for ifindex, part in data["interfaces"].items():
            if ifindex in self._interfaces:
                self._interfaces[ifindex].load(part)
        self._load_more(data["more"])

    def describe(self, topic: str, now: int) -> object:
        """Topics: interfaces, neighbours, counters."""
        if topic == "interfaces":
            return [interface.describe() for interface in self._interfaces.values()]
        if topic == "neighbours":
            return self._neighbours(now)
        if topic == "counters":
            return dict(self.counters)
        raise KeyError(topic)

    # --- what a link gives ---

    def _down(self, datagram: Datagram, interface: LinkInterface, now: int) -> None:
        raise NotImplementedError

    def _up(self, frame: Frame, interface: LinkInterface, now: int) -> None:
        raise NotImplementedError

    def _neighbours(self, now: int) -> list[dict[str, int | str]]:
        return []

    def _dump_more(self) -> object:
        return None

    def _load_more(self, state: object) -> None:
        pass

    # --- what a link uses ---

    def _interface(self, ifindex: int) -> LinkInterface:
        interface = self._interfaces.get(ifindex)
        if interface is None:
            raise DecodeError("unknown_interface", f"{ifindex}")
        return interface

    def _transmit(self, interface: LinkInterface, frame: bytes, trace: int, now: int) -> None:
        """Put a frame on the wire of an interface."""
        size = len(frame)
        interface.tx_packets += 1
        interface.tx_bytes += size
        counters = self.counters
        counters["tx_packets"] += 1
        counters["tx_bytes"] += size
        self._out.append(Output(WIRE, Frame(trace, interface.ifindex, now, frame)))

    def _accept(self, interface: LinkInterface, frame: bytes) -> None:
        """Count a frame that is for this station."""
        size = len(frame)
        interface.rx_packets += 1
        interface.rx_bytes += size
        counters = self.counters
        counters["rx_packets"] += 1
        counters["rx_bytes"] += size

    def _deliver(self, interface: LinkInterface, packet: bytes, flags: int, trace: int) -> None:
        """Hand ip a packet."""
        self._out.append(Output(IP, Datagram(trace, interface.ifindex, ANY_ADDRESS, flags, packet)))

    def _say(self, interface: LinkInterface, trace: int = 0) -> None:
        """Tell ip what an interface is now."""
        self._out.append(
            Output(IP, Interface(trace, interface.ifindex, interface.config.name, interface.mac,
                                 interface.mtu, int(interface.up)))
        )  # fmt: skip

    def _drop(self, reason: str, trace: int, data: bytes, now: int) -> None:
        self.counters["drop_" + reason] += 1
        if self._tracer.enabled:
            self._tracer.drop(now, trace, "drop_" + reason, data)

    def _met_ip(self, hello: Hello) -> None:
        """A new ip knows nothing of the interfaces yet; the old one needs no telling."""
        if hello.generation == self._ip_generation:
            return
        self._ip_generation = hello.generation
        for interface in self._interfaces.values():
            self._say(interface, hello.trace)


def directed_broadcast(config: InterfaceConfig) -> bytes:
    """The broadcast address of the interface's network; a /31 or /32 has none (RFC 3021)."""
    return config.broadcast if config.prefix_length < 31 else LIMITED_BROADCAST


def address_text(address: bytes) -> str:
    """4 bytes as a dotted address."""
    return ".".join(map(str, address))


def outgoing(datagram: Datagram, interface: LinkInterface) -> bytes:
    """What goes on the wire for a datagram: its packet. Raises DecodeError when it is too long."""
    if len(datagram.packet) > interface.mtu:
        raise DecodeError("packet_too_big", f"{len(datagram.packet)} bytes")
    return datagram.packet


def incoming_flags(frame: Frame, interface: LinkInterface) -> int:
    """The flags of the Datagram that a packet from the wire becomes. Raises DecodeError when it is
    not one."""
    packet = frame.frame
    if len(packet) < 20 or packet[0] >> 4 != 4:
        raise DecodeError("not_ipv4")
    if len(packet) > MAX_PACKET:
        raise DecodeError("frame_too_long", f"{len(packet)} bytes")
    dst = packet[_DST]
    group = (
        dst == LIMITED_BROADCAST
        or dst == directed_broadcast(interface.config)
        or dst[0] & 0xF0 == 0xE0
    )
    return FLAG_BROADCAST if group else 0
