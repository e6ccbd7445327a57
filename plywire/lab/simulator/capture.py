"""A pcapng file of what is sent on the wires of a world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from plywire.pcapng import LINKTYPE_ETHERNET, LINKTYPE_RAW, Writer

if TYPE_CHECKING:
    from plywire.lab.simulator.wire import Wire


class Capture:
    """Made by `World.capture`; a context manager. Each frame is in it once, as it was sent.

    The comment of a frame names the sender, the trace id and what the wire did to it. Every wire
    is an interface of the file.
    """

    def __init__(self, path: str | Path, closed: Callable[[Capture], None]) -> None:
        self._closed = closed
        self._file = Path(path).open("wb")  # noqa: SIM115 - close() closes it
        self._writer = Writer(self._file)
        self._interfaces: dict[str, int] = {}

    def packet(self, wire: Wire, time: int, frame: bytes, comment: str) -> None:
        """Write one frame."""
        interface = self._interfaces.get(wire.name)
        if interface is None:
            linktype = LINKTYPE_RAW if wire.raw else LINKTYPE_ETHERNET
            interface = self._writer.interface(wire.name, linktype)
            self._interfaces[wire.name] = interface
        self._writer.packet(interface, time, frame, comment=comment)

    def close(self) -> None:
        """Write no more, and close the file; once is enough."""
        if not self._file.closed:
            self._file.close()
            self._closed(self)

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
