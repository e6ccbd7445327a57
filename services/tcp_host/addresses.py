"""Which loopback address of the operating system stands for which address of the lab.

10.0.0.2 is 127.128.0.2: the first byte becomes 127, and the second one gets its highest bit. So
what the machine itself has on 127.0.0.1 is not in the way, nothing leaves the machine, and every
host with such a TCP is found by the others.
"""

from __future__ import annotations

from plywire.config import InterfaceConfig

ANY = b"\0\0\0\0"
_LOOPBACK = 127
_HIGH = 0x80


class Addresses:
    """The two ways, for a host with this interface."""

    __slots__ = ("_interface", "_length", "_network", "own")

    def __init__(self, interface: InterfaceConfig) -> None:
        self._interface = interface
        self._length = interface.prefix_length
        self._network = int.from_bytes(interface.network, "big")
        self.own = _mapped(interface.address)

    def is_own(self, address: bytes) -> bool:
        """Any address, the loopback network, and the interface's own."""
        return address in (ANY, self._interface.address) or address[0] == _LOOPBACK

    def outward(self, address: bytes) -> bytes | None:
        """The system's address for one of the lab's; None when it is not on the network."""
        if self.is_own(address):
            return self.own
        group = address == self._interface.broadcast and self._length < 31
        return None if group or not self._inside(address) else _mapped(address)

    def inward(self, address: bytes) -> bytes:
        """The lab's address for one of the system's; one that stands for none stays as it is."""
        for second in (address[1] & ~_HIGH, address[1]):
            candidate = bytes((self._interface.address[0], second)) + address[2:]
            if address[0] == _LOOPBACK and address[1] & _HIGH and self._inside(candidate):
                return candidate
        return address

    def _inside(self, address: bytes) -> bool:
        value = int.from_bytes(address, "big")
        return (value ^ self._network) >> (32 - self._length) == 0


def _mapped(address: bytes) -> bytes:
    return bytes((_LOOPBACK, address[1] | _HIGH)) + address[2:]
