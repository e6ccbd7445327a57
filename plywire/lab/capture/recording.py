"""A capture as a pcapng stream: an interface for each point, trace ids in the packets' comments."""

from __future__ import annotations

from collections.abc import Sequence

from plywire.lab.capture.outputs import Output
from plywire.lab.capture.packets import Packet, Taken
from plywire.lab.capture.points import Point
from plywire.pcapng import LINKTYPE_WIRESHARK_UPPER_PDU, Writer, upper_pdu
from plywire.wire import ipv4

_DISSECTORS = {ipv4.PROTOCOL_ICMP: "icmp", ipv4.PROTOCOL_TCP: "tcp", ipv4.PROTOCOL_UDP: "udp"}
_DROPPED = "dropped: packets of all interfaces here that the lab had no room for"


class Recording:
    """Writes packets to an output. The stream's head is written at once."""

    def __init__(self, output: Output, points: Sequence[Point]) -> None:
        self._writer = Writer(output)
        self._linktypes = [point.linktype for point in points]
        for point in points:
            self._writer.interface(point.name, point.linktype, f"{point.what} of {point.host}")

    def packet(self, taken: Taken, packet: Packet | None = None) -> None:
        """Write one; what is in it does not matter here."""
        number, time, trace, direction, data, src, dst, protocol = taken
        if self._linktypes[number] == LINKTYPE_WIRESHARK_UPPER_PDU:
            data = upper_pdu(_DISSECTORS.get(protocol, "data"), src, dst) + data
        self._writer.packet(number, time, data, f"trace {trace}", direction)

    def finish(self, time: int, seen: Sequence[int], taken: Sequence[int], dropped: int) -> None:
        """Write the statistics: packets that each point has seen, and those of them taken.

        Which point a dropped packet was at is not known, so the first one's statistics tell of all.
        """
        for number, (received, accepted) in enumerate(zip(seen, taken, strict=True)):
            self._writer.statistics(
                number, time, received=received, accepted=accepted, delivered=accepted,
                dropped=0 if number else dropped, comment="" if number else _DROPPED,
            )  # fmt: skip
