"""Writing pcapng captures (the IETF draft "PCAP Next Generation Capture File Format").

Pure: a writer turns packets into blocks on a binary file object that it is given. Times are
nanoseconds; every interface says so (`if_tsresol` 9).
"""

from __future__ import annotations

import struct
from typing import BinaryIO

LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101
"""IP packets with nothing in front of them."""
LINKTYPE_WIRESHARK_UPPER_PDU = 252
"""What is above IP, behind tags that say what it is and whose: see `upper_pdu`."""

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_BYTE_ORDER = 0x1A2B3C4D
_OPTION_COMMENT = 1
_SHB_HARDWARE, _SHB_OS, _SHB_APPLICATION = 2, 3, 4
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL = 2, 3, 9
_EPB_FLAGS = 2
_ISB_RECEIVED, _ISB_DROPPED, _ISB_ACCEPTED, _ISB_DELIVERED = 4, 5, 6, 8
_PDU_END, _PDU_DISSECTOR, _PDU_IPV4_SRC, _PDU_IPV4_DST = 0, 12, 20, 21
_DIRECTIONS = {"": 0, "in": 1, "out": 2}
_MAX_OPTION = 0xFFFF


class Writer:
    """One section: the section header is written at once, interfaces and packets as they come."""

    def __init__(
        self, file: BinaryIO, *, hardware: str = "", os: str = "", application: str = "plywire"
    ) -> None:
        self._file = file
        self._linktypes: list[int] = []
        options = _texts((_SHB_HARDWARE, hardware), (_SHB_OS, os), (_SHB_APPLICATION, application))
        self._block(_SECTION, struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1) + options)

    def interface(self, name: str, linktype: int, description: str = "") -> int:
        """Declare an interface; the number that `packet` wants."""
        options = _texts((_IF_NAME, name), (_IF_DESCRIPTION, description))
        options = _options((_IF_TSRESOL, b"\x09"), before=options)
        self._block(_INTERFACE, struct.pack("<HHI", linktype, 0, 0) + options)
        self._linktypes.append(linktype)
        return len(self._linktypes) - 1

    def packet(
        self,
        interface: int,
        time_ns: int,
        data: bytes | memoryview,
        comment: str = "",
        direction: str = "",
    ) -> None:
        """Write a packet. time_ns: since the epoch; direction: "in", "out", or "" for unknown.

        Raises ValueError for an interface that was not declared or an unknown direction.
        """
        if not 0 <= interface < len(self._linktypes):
            raise ValueError(f"no interface {interface}")
        if direction not in _DIRECTIONS:
            raise ValueError(f"direction {direction!r} is not in, out or empty")
        length = len(data)
        head = struct.pack(
            "<IIIII", interface, time_ns >> 32 & 0xFFFFFFFF, time_ns & 0xFFFFFFFF, length, length
        )
        options = _texts((_OPTION_COMMENT, comment))
        if direction:
            options = _options(
                (_EPB_FLAGS, struct.pack("<I", _DIRECTIONS[direction])), before=options
            )
        self._block(_PACKET, head + bytes(data) + b"\0" * (-length & 3) + options)

    def statistics(
        self,
        interface: int,
        time_ns: int,
        *,
        received: int,
        accepted: int,
        delivered: int,
        dropped: int,
        comment: str = "",
    ) -> None:
        """Say how many packets an interface has had: received, accepted by the filter, delivered to
        this file, and dropped for want of room. Raises ValueError for an unknown interface."""
        if not 0 <= interface < len(self._linktypes):
            raise ValueError(f"no interface {interface}")
        head = struct.pack("<III", interface, time_ns >> 32 & 0xFFFFFFFF, time_ns & 0xFFFFFFFF)
        counts = (
            (_ISB_RECEIVED, received), (_ISB_DROPPED, dropped), (_ISB_ACCEPTED, accepted),
            (_ISB_DELIVERED, delivered),
        )  # fmt: skip
        options = _options(
            *((code, struct.pack("<Q", count)) for code, count in counts),
            before=_texts((_OPTION_COMMENT, comment)),
        )
        self._block(_STATISTICS, head + options)

    def _block(self, kind: int, body: bytes) -> None:
        length = struct.pack("<I", len(body) + 12)
        self._file.write(struct.pack("<I", kind) + length + body + length)


def upper_pdu(dissector: str, src: bytes, dst: bytes) -> bytes:
    """The tags in front of a packet of LINKTYPE_WIRESHARK_UPPER_PDU: the name of Wireshark's
    dissector for it, and the IPv4 addresses (4 bytes each) that its checksum covers."""
    name = dissector.encode()
    tags = (
        (_PDU_DISSECTOR, name + b"\0" * (-len(name) & 3)),
        (_PDU_IPV4_SRC, src),
        (_PDU_IPV4_DST, dst),
        (_PDU_END, b""),
    )
    return b"".join(struct.pack("!HH", code, len(value)) + value for code, value in tags)


def _texts(*options: tuple[int, str]) -> bytes:
    """Options that hold text; those without any are left out."""
    encoded = ((code, text.encode()[:_MAX_OPTION]) for code, text in options if text)
    return _options(*encoded)


def _options(*options: tuple[int, bytes], before: bytes = b"") -> bytes:
    """A list of options with its end mark, or nothing. `before` is a list to go on with."""
    parts = [before[:-4]] if before else []
    for code, value in options:
        parts.append(struct.pack("<HH", code, len(value)) + value + b"\0" * (-len(value) & 3))
    return b"".join(parts) + b"\0\0\0\0" if parts else b""
