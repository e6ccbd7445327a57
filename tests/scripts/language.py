"""The script language: text to scenarios. `docs/scripts.md` is its description.

Nothing is run here. What cannot be read is a ScriptError with file, line, and what was expected.
"""

from __future__ import annotations

import re
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import NamedTuple

from plywire.profiles import PROFILES, TcpConfig
from plywire.wire.tcp import FLAG_NAMES

MS = 1_000_000
ANYTHING = None
"""The value of a field that is not compared."""

BASES = ("any", "full")
CALLS = ("listen", "connect", "accept", "write", "read", "shutdown", "close", "abort", "set",
         "swap")  # fmt: skip
CHECKS = ("state", "socket", "unread", "eof", "connections", "info", "counter")
ECN = ("not", "ect1", "ect0", "ce")
"""The codepoints of RFC 3168 section 5, by their bits in the TOS octet."""
OPERATORS = ("==", "!=", "<=", ">=", "<", ">")
ICMP_FIELDS = ("type", "code", "mtu", "seq", "port", "local")

_UNITS = {"us": 1000, "ms": MS, "s": 1000 * MS, "min": 60_000 * MS, "h": 3_600_000 * MS}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|min|h)")
_TERM = re.compile(r"\s*([+-]?)(\d[\d_]*)(?:\*(\d[\d_]*))?")
_NUMBER_FIELDS = ("seq", "ack", "len", "win", "urg", "mss", "wscale", "port")
_WORDS = ("sackok", "corrupt")
_TCP_FIELDS = {item.name: item.type for item in dataclass_fields(TcpConfig)}


class ScriptError(Exception):
    """A script that cannot be read: FILE:LINE: what was expected."""


class When(NamedTuple):
    """ns; relative to the line before, else to the scenario's start."""

    relative: bool
    ns: int


class Number(NamedTuple):
    """A value, and by how much it grows with each repeat of the line."""

    first: int
    step: int = 0

    def at(self, index: int) -> int:
        """The value in repeat `index`."""
        return self.first + index * self.step


class Segment(NamedTuple):
    """A segment that arrives (`peer`) or is expected (`host`).

    flags: names; fields: Number by name, ANYTHING for `any`; also sack (pairs), ts (pair), raw.
    """

    flags: frozenset[str]
    fields: dict
    count: int = 1


class Call(NamedTuple):
    """A socket call; expected is what it must give, "" for its usual success."""

    name: str
    amount: int
    fields: dict
    expected: str


class Check(NamedTuple):
    """A comparison of what the host says of itself."""

    subject: str
    key: str
    operator: str
    value: int | str


class Quiet(NamedTuple):
    """Nothing is sent until then; None: nothing is waiting now."""

    until: When | None


class Icmp(NamedTuple):
    """An ICMP error about a segment of the host arrives."""

    fields: dict


class Event(NamedTuple):
    """A line of a scenario. when: None is the time of the line before it."""

    line: int
    text: str
    when: When | None
    tolerance: int
    verb: str
    what: Segment | Call | Check | Quiet | Icmp


class Scenario(NamedTuple):
    """name is area/name; given: how many of the events are its `given`, whose end is time 0."""

    name: str
    about: str
    base: str
    path: Path
    line: int
    profile: str
    tcp: dict
    mtu: int
    iss: int | None
    peer_iss: int
    peer_ts: bool
    events: tuple[Event, ...]
    given: int


def read_file(path: Path) -> list[Scenario]:
    """All scenarios of a file; its name is the area. Raises ScriptError."""
    return read_text(path.read_text(encoding="utf-8"), path)


def read_text(text: str, path: Path) -> list[Scenario]:
    """The same for text that is at hand; path is only a name."""
    found: list[Scenario] = []
    reader = None
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.split("#", 1)[0].rstrip()
        if not bare:
            continue
        where = f"{path}:{number}"
        try:
            if bare.startswith("scenario"):
                if reader is not None:
                    found.append(reader.finished())
                reader = _Reader(path, number, bare.split())
            elif reader is None:
                raise ValueError("expected `scenario NAME` first")
            elif bare[0].isspace():
                reader.event(number, bare)
            else:
                reader.heading(number, bare)
        except ValueError as error:
            raise ScriptError(f"{where}: {error}: {line.strip()!r}") from None
    if reader is None:
        raise ScriptError(f"{path}:1: expected `scenario NAME`, found nothing")
    found.append(reader.finished())
    names = [item.name for item in found]
    for item in found:
        if names.count(item.name) > 1:
            raise ScriptError(f"{path}:{item.line}: the name {item.name} is used twice")
    return found


class _Reader:
    """One scenario on its way."""

    def __init__(self, path: Path, line: int, words: list[str]) -> None:
        if len(words) != 2 or not re.fullmatch(r"[a-z0-9-]+", words[1]):
            raise ValueError("expected `scenario NAME`, a name of a-z, 0-9 and -")
        self.path, self.line = path, line
        self.name = f"{path.stem}/{words[1]}"
        self.about, self.base, self.profile = "", "full", "linux"
        self.tcp: dict = {}
        self.mtu, self.iss = 1500, None
        self.peer_iss, self.peer_ts = 5000, False
        self.tolerance = MS
        self.events: list[Event] = []
        self.given = 0

    def finished(self) -> Scenario:
        where = f"{self.path}:{self.line}: {self.name}"
        if not self.about:
            raise ScriptError(f"{where}: expected an `about` line that says which clause it is of")
        if len(self.events) == self.given:
            raise ScriptError(f"{where}: expected at least one event, indented")
        if self.base == "any":
            for event in self.events:
                if isinstance(event.what, Check) and event.what.subject == "info":
                    raise ScriptError(
                        f"{self.path}:{event.line}: `info` is of one TCP only: expected `base full`"
                    )
            if self.iss is not None:
                raise ScriptError(f"{where}: `host iss=` expects `base full`")
        return Scenario(self.name, self.about, self.base, self.path, self.line, self.profile,
                        self.tcp, self.mtu, self.iss, self.peer_iss, self.peer_ts,
                        tuple(self.events), self.given)  # fmt: skip

    # --- lines at the margin ----------------------------------------------------------------------

    def heading(self, number: int, line: str) -> None:
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if self.events:
            raise ValueError("expected an indented event; headings come before the events")
        if word == "about":
            self.about = f"{self.about} {rest}".strip()
        elif word == "base":
            if rest not in BASES:
                raise ValueError("expected `base any` or `base full`")
            self.base = rest
        elif word == "tolerance":
            self.tolerance = duration(rest)
        elif word == "host":
            self._host(_pairs(rest.split()))
        elif word == "peer":
            self._peer(_pairs(rest.split()))
        elif word == "given":
            self._given(number, rest.split())
        else:
            raise ValueError("expected scenario, about, base, host, peer, tolerance or given")

    def _host(self, pairs: dict[str, str]) -> None:
        for key, value in pairs.items():
            if key == "profile":
                if value not in PROFILES:
                    raise ValueError(f"expected a profile of {', '.join(PROFILES)}")
                self.profile = value
            elif key == "mtu":
                self.mtu = integer(value)
            elif key == "iss":
                self.iss = integer(value)
            elif key in _TCP_FIELDS:
                self.tcp[key] = _setting(key, value)
            else:
                raise ValueError(f"{key} is no setting of a host's TCP")

    def _peer(self, pairs: dict[str, str]) -> None:
        for key, value in pairs.items():
            if key == "iss":
                self.peer_iss = integer(value)
            elif (key, value) == ("ts", "auto"):
                self.peer_ts = True
            else:
                raise ValueError("expected iss=NUMBER or ts=auto")

    def _given(self, number: int, words: list[str]) -> None:
        """A handshake, written out as the events that it is."""
        kind, words = (words[0], words[1:]) if words else ("", [])
        rtt, syn, call, win = "0ms", [], [], ""
        for word in words:
            key, _, value = word.partition("=")
            if key == "rtt":
                rtt = value
            elif key in ("mss", "wscale", "sackok", "ts"):
                syn.append(word)
            elif key == "win":
                win = " " + word
            elif key == "backlog" or key.isupper():
                call.append(word)
            else:
                raise ValueError(f"expected rtt, win, an option of a SYN or of a socket, not {key}")
        syn_text, call_text = " ".join(["", *syn]) + win, " ".join(["", *call])
        if kind == "active":
            lines = [f"connect{call_text}", "host SYN seq=0",
                     f"+{rtt} peer SYN,ACK seq=0 ack=1{syn_text}", "host ACK seq=1 ack=1",
                     "socket == connected"]  # fmt: skip
            if any(word.startswith("wscale") for word in syn):  # a SYN's window is not scaled
                lines.append(f"peer ACK seq=1 ack=1{win}")
        elif kind == "passive":
            lines = [f"listen{call_text}", f"peer SYN seq=0{syn_text}", "host SYN,ACK seq=0 ack=1",
                     f"+{rtt} peer ACK seq=1 ack=1{win}", "accept"]  # fmt: skip
        elif kind == "listening":
            lines = [f"listen{call_text}"]
        else:
            raise ValueError("expected `given active`, `given passive` or `given listening`")
        for line in lines:
            self.event(number, line)
        self.given = len(self.events)

    # --- events -----------------------------------------------------------------------------------

    def event(self, number: int, line: str) -> None:
        text = line.strip()
        words = text.split()
        when, tolerance = None, self.tolerance
        if words[0][0].isdigit() or words[0][0] == "+":
            when, own = _when(words.pop(0))
            tolerance = self.tolerance if own is None else own
        if not words:
            raise ValueError("expected something to happen after the time")
        verb, rest = words[0], words[1:]
        what: Segment | Call | Check | Quiet | Icmp
        if verb in ("peer", "host"):
            what = _segment(verb, rest)
        elif verb == "nothing":
            what = _quiet(rest)
        elif verb == "icmp":
            what = _icmp(rest)
        elif verb in CALLS:
            what = _call(verb, rest)
        elif verb in CHECKS:
            what = _check(verb, rest)
        else:
            expected = ", ".join(("peer", "host", "nothing", "icmp", *CALLS, *CHECKS))
            raise ValueError(f"expected one of {expected}")
        self.events.append(Event(number, text, when, tolerance, verb, what))


# --- the parts of a line --------------------------------------------------------------------------


def duration(text: str) -> int:
    """`40ms` in nanoseconds."""
    match = _DURATION.fullmatch(text)
    if not match and text != "0":
        raise ValueError(f"expected a time such as 40ms, 1.2s or 2h, not {text!r}")
    return int(float(match[1]) * _UNITS[match[2]] + 0.5) if match else 0


def integer(text: str) -> int:
    """`1460`, `14_600`, `1+10*1460`, `-1`."""
    total, at = 0, 0
    while at < len(text) or not text:
        match = _TERM.match(text, at)
        if not match or (at and not match[1]):
            raise ValueError(f"expected a number such as 1460 or 1+10*1460, not {text!r}")
        term = int(match[2]) * int(match[3] or 1)
        total += -term if match[1] == "-" else term
        at = match.end()
    return total


def _when(word: str) -> tuple[When, int | None]:
    time, tilde, tolerance = word.partition("~")
    relative = time.startswith("+")
    when = When(relative, duration(time[relative:]))
    return when, duration(tolerance) if tilde else None


def _number(text: str) -> Number | None:
    if text == "any":
        return ANYTHING
    first, comma, step = text.partition(",")
    if comma and step[:1] not in ("+", "-"):
        raise ValueError(f"expected `first,+step`, not {text!r}")
    return Number(integer(first), integer(step) if comma else 0)


def _pairs(words: list[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise ValueError(f"expected KEY=VALUE, not {word!r}")
        pairs[key] = value
    return pairs


def _setting(key: str, value: str) -> int | bool | str:
    kind = _TCP_FIELDS[key]
    if kind == "bool":
        if value not in ("yes", "no"):
            raise ValueError(f"expected {key}=yes or {key}=no")
        return value == "yes"
    if kind == "str":
        return value
    return duration(value) if _DURATION.fullmatch(value) else integer(value)


def _segment(verb: str, words: list[str]) -> Segment:
    count = 1
    if words and words[0].endswith("*"):
        count = integer(words.pop(0)[:-1])
    if not words:
        raise ValueError("expected flags such as SYN,ACK")
    names = words.pop(0).split(",")
    names = [] if names == ["none"] else names
    for name in names:
        if name not in FLAG_NAMES:
            raise ValueError(f"expected flags of {', '.join(FLAG_NAMES)}, not {name!r}")
    found: dict = {}
    for word in words:
        if word in _WORDS:
            if word == "corrupt" and verb == "host":
                raise ValueError("only a peer's segment may be corrupt")
            found[word] = True
            continue
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise ValueError(f"expected KEY=VALUE or {' or '.join(_WORDS)}, not {word!r}")
        found[key] = _field(verb, key, value)
    needed = ("seq", "ack") if "ACK" in names else ("seq",)
    for key in needed:
        if key not in found:
            raise ValueError(f"expected {key}=")
    return Segment(frozenset(names), found, count)


def _field(verb: str, key: str, value: str) -> object:
    if verb == "peer" and "any" in value.split(":"):
        raise ValueError(f"{key} of a peer's segment cannot be `any`")
    if value == "none":
        if verb == "host" and key in ("mss", "wscale", "ts", "sackok"):
            return "none"
        raise ValueError(f"{key} cannot be `none`")
    if key in _NUMBER_FIELDS:
        return _number(value)
    if key == "sack":
        blocks = [block.split(":") for block in value.split(",")]
        if any(len(block) != 2 for block in blocks):
            raise ValueError(f"expected sack=LEFT:RIGHT,..., not {value!r}")
        return tuple((integer(left), integer(right)) for left, right in blocks)
    if key == "ts":
        val, colon, ecr = value.partition(":")
        if not colon:
            raise ValueError(f"expected ts=VALUE:ECHO, not {value!r}")
        return _number(val), _number(ecr)
    if key == "ecn":
        if value not in ECN:
            raise ValueError(f"expected ecn= one of {', '.join(ECN)}")
        return value
    if key == "raw" and verb == "peer":
        return bytes.fromhex(value)
    raise ValueError(f"{key} is no field of a segment")


def _call(name: str, words: list[str]) -> Call:
    expected = ""
    if "=>" in words:
        at = words.index("=>")
        if len(words) != at + 2:
            raise ValueError("expected one result after =>")
        expected, words = words[-1], words[:at]
    amount = 0
    if name in ("write", "read"):
        if not words:
            raise ValueError(f"expected `{name} BYTES`")
        amount = integer(words.pop(0))
    if name == "set":
        if len(words) != 2:
            raise ValueError("expected `set OPTION VALUE`")
        value = words[1]
        return Call(name, 0, {words[0]: integer(value) if value[0].isdigit() else value}, expected)
    given = {key: integer(value) for key, value in _pairs(words).items()}
    for key in given:
        known = {"listen": ("port", "backlog"), "connect": ("port",), "accept": ("port",)}
        if key not in known.get(name, ()) and not (key.isupper() and name in ("listen", "connect")):
            raise ValueError(f"{key} is nothing that {name} takes")
    return Call(name, amount, given, expected)


def _check(subject: str, words: list[str]) -> Check:
    key = ""
    if subject in ("info", "counter"):
        if not words:
            raise ValueError(f"expected `{subject} NAME OPERATOR VALUE`")
        key, words = words[0], words[1:]
    if len(words) != 2 or words[0] not in OPERATORS:
        raise ValueError(f"expected OPERATOR VALUE, an operator of {' '.join(OPERATORS)}")
    value = words[1]
    return Check(subject, key, words[0], integer(value) if value[0] in "-0123456789" else value)


def _quiet(words: list[str]) -> Quiet:
    if not words:
        return Quiet(None)
    if len(words) != 2 or words[0] != "until":
        raise ValueError("expected `nothing` or `nothing until TIME`")
    return Quiet(_when(words[1])[0])


def _icmp(words: list[str]) -> Icmp:
    pairs = {key: integer(value) for key, value in _pairs(words).items()}
    for key in pairs:
        if key not in ICMP_FIELDS:
            raise ValueError(f"expected fields of {', '.join(ICMP_FIELDS)}, not {key}")
    if "type" not in pairs or "seq" not in pairs:
        raise ValueError("expected type= and seq=, of the segment that the error is about")
    return Icmp(pairs)
