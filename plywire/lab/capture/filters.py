"""A small part of tcpdump's filter language (pcap-filter(7)).

    host A | src [host] A | dst [host] A | port N | src port N | dst port N
    tcp | udp | icmp | arp | ip
    not X (!), X and Y (&&), X or Y (||), ( X )

As in pcap-filter, `and` and `or` bind equally and to the left, `not` binds closest, and two
primitives in a row (`tcp port 80`) are joined by `and`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from plywire.lab.capture.packets import ARP, IP, Packet
from plywire.wire import ipv4

Filter = Callable[[Packet], bool]

GRAMMAR = "host A, port N, src, dst, tcp, udp, icmp, arp, ip, and, or, not, ( )"
MAX_WORDS = 200
MAX_DEPTH = 50

_PROTOCOLS = {
    "tcp": ipv4.PROTOCOL_TCP,
    "udp": ipv4.PROTOCOL_UDP,
    "icmp": ipv4.PROTOCOL_ICMP,
}
_SYNONYMS = {"!": "not", "&&": "and", "||": "or"}
_TOKEN = re.compile(r"\s*(\(|\)|!|&&|\|\||[^\s()!&|]+|.)")


class FilterError(ValueError):
    """A filter that cannot be understood."""


def parse(text: str, addresses: Callable[[str], Collection[bytes]]) -> Filter:
    """The filter that `text` says. addresses: those of a host by its name, empty for an unknown
    one. Raises FilterError."""
    words = [_SYNONYMS.get(word, word) for word in _TOKEN.findall(text.strip())]
    if len(words) > MAX_WORDS:
        raise FilterError(f"the filter has more than {MAX_WORDS} words")
    parser = _Parser(words, addresses)
    wanted = parser.expression(0)
    if parser.words:
        raise FilterError(f"nothing is open that `{parser.words[-1]}` could close")
    return wanted


class _Parser:
    """Recursive descent. words: those still to be read, the next one last."""

    def __init__(self, words: list[str], addresses: Callable[[str], Collection[bytes]]) -> None:
        self.words = words[::-1]
        self._addresses = addresses

    def expression(self, depth: int) -> Filter:
        """Terms, joined from left to right."""
        if depth > MAX_DEPTH:
            raise FilterError(f"the filter nests deeper than {MAX_DEPTH}")
        wanted = self._term(depth)
        while self.words and self.words[-1] != ")":
            word = self.words[-1]
            if word in ("and", "or"):
                self.words.pop()
            wanted = (_either if word == "or" else _both)(wanted, self._term(depth))
        return wanted

    def _term(self, depth: int) -> Filter:
        negated = False
        while self.words and self.words[-1] == "not":
            self.words.pop()
            negated = not negated
        if self.words and self.words[-1] == "(":
            self.words.pop()
            wanted = self.expression(depth + 1)
            if self._next("a `)`") != ")":
                raise FilterError("a `(` is not closed")
        else:
            wanted = self._primitive()
        return _negated(wanted) if negated else wanted

    def _primitive(self) -> Filter:
        word = self._next("a primitive")
        if word in _PROTOCOLS:
            return _protocol(_PROTOCOLS[word])
        if word in (IP, ARP):
            return _kind(word)
        side = word if word in ("src", "dst") else ""
        if side:
            word = self._next(f"`host` or `port` after `{side}`")
        if word == "host":
            return self._host(self._next("an address after `host`"), side)
        if word == "port":
            return self._port(self._next("a number after `port`"), side)
        if side and word not in ("and", "or", "not", "(", ")"):
            return self._host(word, side)
        raise FilterError(f"the filter has {word!r} where it could have {GRAMMAR}")

    def _host(self, name: str, side: str) -> Filter:
        found = frozenset(self._addresses(name))
        if not found:
            raise FilterError(f"{name!r} is neither a host of the lab nor an IPv4 address")
        if side == "src":
            return lambda packet: packet.src in found
        if side == "dst":
            return lambda packet: packet.dst in found
        return lambda packet: packet.src in found or packet.dst in found

    def _port(self, word: str, side: str) -> Filter:
        if not (word.isascii() and word.isdecimal()) or int(word) > 0xFFFF:
            raise FilterError(f"{word!r} is not a port number from 0 to 65535")
        number = int(word)
        if side == "src":
            return lambda packet: packet.src_port == number
        if side == "dst":
            return lambda packet: packet.dst_port == number
        return lambda packet: number in (packet.src_port, packet.dst_port)

    def _next(self, what: str) -> str:
        if not self.words:
            raise FilterError(f"the filter ends where {what} should be")
        return self.words.pop()


def _protocol(number: int) -> Filter:
    return lambda packet: packet.kind == IP and packet.protocol == number


def _kind(kind: str) -> Filter:
    return lambda packet: packet.kind == kind


def _negated(wanted: Filter) -> Filter:
    return lambda packet: not wanted(packet)


def _both(first: Filter, second: Filter) -> Filter:
    return lambda packet: first(packet) and second(packet)


def _either(first: Filter, second: Filter) -> Filter:
    return lambda packet: first(packet) or second(packet)
