"""What a story saw on the wire, as a pcapng file: each frame once, with its trace id."""

from __future__ import annotations

from typing import BinaryIO

from plywire.pcapng import LINKTYPE_ETHERNET, LINKTYPE_RAW, Writer
from plywire.roles import IP, LINK, WIRE, boundary
from plywire.trace import Event, is_bare_packet

_AT_WIRE = boundary(LINK, WIRE)
_AT_IP = boundary(IP, LINK)


class Capture:
    """Writes the events it is given to a file that the caller opened and closes.

    offset: nanoseconds from the lab's clock to the epoch. packets: also write what crosses ip/link,
    as bare IP packets on an interface per host (Wireshark then sees each segment several times).
    """

    def __init__(self, file: BinaryIO, *, offset: int = 0, packets: bool = False) -> None:
        self.frames = 0
        self._writer = Writer(file)
        self._offset = offset
        self._packets = packets
        self._interfaces: dict[tuple[str, int], int] = {}

    def take(self, event: Event) -> None:
        """Write the frame (or packet) that this event is about, if it is about one."""
        if event.boundary == _AT_WIRE:
            linktype = LINKTYPE_RAW if is_bare_packet(event.packet) else LINKTYPE_ETHERNET
            interface = self._interface("lan", linktype, "the wire, each frame once")
            self.frames += 1
        elif event.boundary == _AT_IP and self._packets and event.subject == "Datagram":
            interface = self._interface(f"{event.host} ip/link", LINKTYPE_RAW, "between layers")
        else:
            return
        direction = "out" if event.direction == "down" else "in"
        comment = f"{event.host} {event.layer}, trace {event.trace}"
        self._writer.packet(
            interface, event.time + self._offset, event.packet, comment=comment,
            direction=direction if self._packets else "",
        )  # fmt: skip

    def _interface(self, name: str, linktype: int, description: str) -> int:
        key = (name, linktype)
        if key not in self._interfaces:
            self._interfaces[key] = self._writer.interface(name, linktype, description)
        return self._interfaces[key]
