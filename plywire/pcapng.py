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

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER = 0x1A2B3C4D
_OPTION_COMMENT = 1
_SHB_HARDWARE, _SHB_OS, _SHB_APPLICATION = 2, 3, 4
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL = 2, 3, 9
_EPB_FLAGS = 2
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

    def _block(self, kind: int, body: bytes) -> None:
        length = struct.pack("<I", len(body) + 12)
        self._file.write(struct.pack("<I", kind) + length + body + length)


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
