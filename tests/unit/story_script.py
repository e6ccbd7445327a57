"""Made-up events for the tests of the story: real headers, round numbers, one clock."""

from __future__ import annotations

from plywire.messages import (
    Connect,
    Data,
    Datagram,
    Frame,
    Message,
    Opened,
    Segment,
)
from plywire.roles import APP, IP, LINK, TCP, WIRE
from plywire.trace import IN, OUT, Event, Tracer
from plywire.wire import arp, ethernet, ipv4, tcp

ADDRESS = {"h1": b"\x0a\0\0\1", "h2": b"\x0a\0\0\2"}
MAC = {host: b"\2\0" + address for host, address in ADDRESS.items()}
PORT = {"h1": 40_000, "h2": 80}
OTHER = {"h1": "h2", "h2": "h1"}
ISS = {"h1": 1_000_000_000, "h2": 3_000_000_000}
STEP = 10_000
SYN_OPTIONS = tcp.build_options(tcp.Options(mss=1460, window_scale=7))


class Script:
    """Plays a connection: each method appends the events that it would cause, 10 us apart."""

    def __init__(self, start: int = 5_000_000) -> None:
        self.events: list[Event] = []
        self.now = start
        self.trace = 7
        self.sent = dict(ISS)
        self._tracers = {
            (host, role): Tracer(host, role, self.events.append)
            for host in ADDRESS
            for role in (APP, TCP, IP, LINK)
        }

    def note(self, host: str, subject: str, **fields: int | str) -> None:
        self._tracers[host, APP].note(self._tick(), self.trace, subject, **fields)

    def state(self, host: str, cause: str, before: dict, after: dict, role: str = TCP) -> None:
        self._tracers[host, role].state(self._tick(), self.trace, cause, before, after)

    def drop(self, host: str, role: str, reason: str) -> None:
        self._tracers[host, role].drop(self._tick(), self.trace, reason)

    def cross(self, host: str, start: str, end: str, message: Message) -> None:
        """A message from one layer of a host to another: out, and 10 us later in."""
        self._tracers[host, start].crossing(OUT, message, end, self._tick())
        self._tracers[host, end].crossing(IN, message, start, self._tick())

    def frame(self, host: str, frame: bytes, arrives: bool = True) -> None:
        message = Frame(self.trace, 1, self.now, frame)
        self._tracers[host, LINK].crossing(OUT, message, WIRE, self._tick())
        if arrives:
            self._tracers[OTHER[host], LINK].crossing(IN, message, WIRE, self._tick())

    def arp(self, host: str) -> None:
        """A question of `host` and the answer to it."""
        other = OTHER[host]
        asks = arp.ArpPacket(arp.REQUEST, MAC[host], ADDRESS[host], b"\0" * 6, ADDRESS[other])
        tells = arp.ArpPacket(arp.REPLY, MAC[other], ADDRESS[other], MAC[host], ADDRESS[host])
        for sender, dst, packet in ((host, ethernet.BROADCAST, asks), (other, MAC[host], tells)):
            header = ethernet.EthernetHeader(dst, MAC[sender], ethernet.TYPE_ARP)
            self.frame(sender, ethernet.encode(header, arp.encode(packet)))

    def connect_message(self) -> None:
        self.cross("h1", APP, TCP, Connect(self.trace, 2, ADDRESS["h2"], 80, 1 << 20, {}))

    def opened(self, host: str, handle: int, listener: int = 0) -> None:
        other = OTHER[host]
        self.cross(host, TCP, APP, Opened(self.trace, handle, listener, ADDRESS[host], PORT[host],
                                          ADDRESS[other], PORT[other], 1 << 20))  # fmt: skip

    def data_up(self, host: str, handle: int, payload: bytes) -> None:
        self.cross(host, TCP, APP, Data(self.trace, handle, 0, payload))

    def data_down(self, host: str, handle: int, payload: bytes) -> None:
        self.cross(host, APP, TCP, Data(self.trace, handle, 0, payload))

    def segment(
        self,
        host: str,
        flags: int,
        payload: bytes = b"",
        *,
        arp: bool = False,
        lost: bool = False,
        seq: int | None = None,
    ) -> None:
        """A segment from TCP to TCP, by way of every layer."""
        other = OTHER[host]
        src, dst = ADDRESS[host], ADDRESS[other]
        options = SYN_OPTIONS if flags & tcp.SYN else b""
        first = self.sent[host] if seq is None else seq
        ack = self.sent[other] if flags & tcp.ACK else 0
        window = 64_240 if flags & tcp.SYN else 502
        header = tcp.TcpHeader(PORT[host], PORT[other], first, ack, flags, window, 0, options)
        if seq is None:
            self.sent[host] += len(payload) + bool(flags & (tcp.SYN | tcp.FIN))
        whole = tcp.encode(header, payload, src, dst)
        packet = ipv4.encode(
            ipv4.Ipv4Header(src, dst, ipv4.PROTOCOL_TCP, ident=1, dont_fragment=True), whole
        )
        self.cross(host, TCP, IP, Segment(self.trace, 6, src, dst, 0, 0, 2, whole))
        self.cross(host, IP, LINK, Datagram(self.trace, 1, dst, 0, packet))
        if arp:
            self.arp(host)
        ether = ethernet.EthernetHeader(MAC[other], MAC[host], ethernet.TYPE_IPV4)
        self.frame(host, ethernet.encode(ether, packet), arrives=not lost)
        if not lost:
            self.cross(other, LINK, IP, Datagram(self.trace, 1, b"\0" * 4, 0, packet))
            self.cross(other, IP, TCP, Segment(self.trace, 6, src, dst, 0, 64, 0, whole))

    def _tick(self) -> int:
        self.now += STEP
        return self.now


def control(host: str, state: str) -> dict[str, int | str]:
    """A control block of a connection, as TCP tells it."""
    other = OTHER[host]
    block: dict[str, int | str] = {
        "state": state, "local_address": dotted(host), "local_port": PORT[host],
        "remote_address": dotted(other), "remote_port": PORT[other], "iss": ISS[host],
        "snd_una": ISS[host], "snd_nxt": ISS[host] + 1, "segs_in": 1,
    }  # fmt: skip
    if state != "SYN-SENT":
        block |= {"irs": ISS[other], "rcv_nxt": ISS[other] + 1, "snd_wnd": 64_240}
    if state == "ESTABLISHED":
        block["snd_una"] = ISS[host] + 1
    return block


def dotted(host: str) -> str:
    return ".".join(map(str, ADDRESS[host]))


def handshake(script: Script) -> None:
    """From the name to connect()'s return."""
    script.note("h1", "name resolved", name="h2.lab", address="10.0.0.2")
    script.state("h1", "CreateSocket", {}, {"descriptor": 3, "state": "CLOSED"}, APP)
    script.note("h1", "Connect", descriptor=3, address="10.0.0.2:80")
    script.connect_message()
    script.state("h1", "active OPEN", {"state": "CLOSED"}, control("h1", "SYN-SENT"))
    script.segment("h1", tcp.SYN, arp=True)
    script.state("h2", "rcv SYN", {"state": "LISTEN"}, control("h2", "SYN-RECEIVED"))
    script.segment("h2", tcp.SYN | tcp.ACK)
    script.state("h1", "rcv SYN,ACK", control("h1", "SYN-SENT"), control("h1", "ESTABLISHED"))
    script.opened("h1", 2)
    script.note("h1", "Connect returned", descriptor=3, in_progress=0)
    script.segment("h1", tcp.ACK)
    script.state(
        "h2", "rcv ACK of SYN", control("h2", "SYN-RECEIVED"), control("h2", "ESTABLISHED")
    )
    script.opened("h2", 1, 4)
