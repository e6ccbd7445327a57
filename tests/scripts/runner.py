"""Runs a scenario in virtual time, line by line, and says what differed."""

from __future__ import annotations

import operator
import struct
from typing import NamedTuple

from plywire import seq
from plywire.messages import PacketError
from plywire.messages import Segment as Packet
from plywire.roles import IP
from plywire.wire import tcp as wire
from plywire.wire.tcp import FLAG_NAMES, SYN, Options, TcpHeader

from .host import LOCAL, REMOTE, START, Host, pattern
from .language import ANYTHING, ECN, Call, Check, Event, Icmp, Number, Quiet, Scenario, Segment

_OPERATORS = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
              ">": operator.gt, ">=": operator.ge}  # fmt: skip
_COMPARED = (
    "seq",
    "ack",
    "len",
    "win",
    "urg",
    "mss",
    "wscale",
    "sackok",
    "ts",
    "sack",
    "ecn",
    "port",
)
_ROUTER = bytes((10, 0, 0, 254))


class ScriptFailure(Exception):
    """A scenario that went otherwise; its text has the script and what happened beside it."""


class Got(NamedTuple):
    """A segment of the host with the numbers of the script; `wrong` says what its data should
    have been."""

    at: int
    flags: frozenset[str]
    fields: dict
    wrong: str = ""

    def __str__(self) -> str:
        return f"host {_words(self.flags, self.fields)}"


class Flow:
    """The numbers of one connection, by the peer's port: those of the wire begin there."""

    def __init__(self, peer_iss: int, local_port: int) -> None:
        self.peer_iss, self.local_port = peer_iss, local_port
        self.host_iss = 0  # until the host has sent a SYN
        self.clock: int | None = None  # the host's first timestamp
        self.echo = 0  # its last one, for a peer with ts=auto


class Run:
    """One run of one scenario with a TCP made by `create`. swap: a new layer before every line."""

    def __init__(self, scenario: Scenario, create, swap: bool = False) -> None:
        self.scenario = scenario
        self.host = Host(scenario, create)
        self.swap = swap
        self.origin = START
        self.base = START  # the time of the last line
        self.flows: dict[int, Flow] = {}
        self.main = 0  # the peer's port where a line names none
        self.listening = 80  # the host's, where the peer begins
        self.queue: list[Got] = []
        self.log: dict[int, list[str]] = {}  # what happened, by event

    def run(self) -> str:
        """Run it; returns the exchange as text. Raises ScriptFailure."""
        events = self.scenario.events
        for index, event in enumerate(events):
            if index == self.scenario.given:
                self.origin = self.base = self.host.now
            self.index = index
            try:
                if self.swap and index:
                    self.host.swap()
                self._one(event)
            except AssertionError as error:
                raise ScriptFailure(self.report(event, str(error))) from None
            except Exception as error:  # a bug of the layer: say where the script was
                error.add_note(self.report(event, repr(error)))
                raise
        if self.queue:
            raise ScriptFailure(self.report(None, f"expected: nothing more\ngot: {self._left()}"))
        return self.report()

    # --- one line ---------------------------------------------------------------------------------

    def _one(self, event: Event) -> None:
        what = event.what
        host = self.host
        at = self.base
        if event.when is not None:
            at = event.when.ns + (self.base if event.when.relative else self.origin)
        assert at >= self.base, f"expected: a time after {self._time(self.base)}"
        self.base = at
        if isinstance(what, Segment) and event.verb == "host":
            for repeat in range(what.count):
                self._expect(what, repeat, at, event.tolerance)
            return
        host.advance(at)
        self._read()
        if isinstance(what, Check):
            self._check(what)
            return
        if isinstance(what, Quiet):
            self._quiet(what)
            return
        assert not self.queue, f"expected: nothing before `{event.text}`\ngot: {self._left()}"
        if isinstance(what, Segment):
            for repeat in range(what.count):
                self._inject(what, repeat)
        elif isinstance(what, Call):
            self._call(what)
        elif isinstance(what, Icmp):
            self._icmp(what)
        self._read()

    def _quiet(self, what: Quiet) -> None:
        if what.until is not None:
            until = what.until
            self.base = until.ns + (self.base if until.relative else self.origin)
            self.host.advance(self.base)
            self._read()
        assert not self.queue, f"expected: nothing\ngot: {self._left()}"
        self._say("nothing")

    def _call(self, what: Call) -> None:
        if what.name == "connect":
            self.main = what.fields.get("port", 80)
        elif what.name == "listen":
            self.listening = what.fields.get("port", 80)
        result = self.host.call(what.name, what.amount, what.fields)
        usual = str(what.amount) if what.name in ("write", "read") else "ok"
        expected = what.expected or usual
        self._say(f"{what.name} => {result}")
        assert result == expected, f"expected: {what.name} => {expected}\ngot: => {result}"
        if what.name == "accept" and self.host.socket is not None and result == "ok":
            self.main = self.host.socket.port

    def _check(self, what: Check) -> None:
        value = self._value(what)
        name = f"{what.subject} {what.key}".strip()
        comparable = isinstance(value, type(what.value)) or what.operator in ("==", "!=")
        holds = comparable and _OPERATORS[what.operator](value, what.value)
        assert holds, f"expected: {name} {what.operator} {what.value}\ngot: {value}"
        self._say(f"{name} is {value}")

    def _value(self, what: Check) -> int | str:
        host = self.host
        if what.subject == "counter":
            return host.layer.describe("counters", host.now).get(what.key, 0)
        rows = host.rows()
        if what.subject == "connections":
            return len(rows)
        flow = self.flows.get(self.main)
        row = next((row for row in rows if flow and row["remote_port"] == self.main), None)
        if what.subject == "state":
            return row["state"] if row else "CLOSED"
        if what.subject == "info":
            assert row, f"expected: a connection that `info {what.key}` is of\ngot: none"
            known = {**row, **row["tcp_info"]}
            assert what.key in known, f"{what.key} is nothing that tcp_info or ss has"
            return known[what.key]
        socket = host.socket
        assert socket, "expected: a socket, by listen, connect or accept"
        if what.subject == "unread":
            return socket.unread
        if what.subject == "eof":
            return "yes" if socket.ended else "no"
        return socket.status

    # --- segments of the peer ---------------------------------------------------------------------

    def _flow(self, port: int) -> Flow:
        if port not in self.flows:
            self.flows[port] = Flow(self.scenario.peer_iss, self.listening)
        return self.flows[port]

    def _inject(self, what: Segment, repeat: int) -> None:
        numbers = {
            key: value.at(repeat) for key, value in what.fields.items() if isinstance(value, Number)
        }
        port = numbers.get("port", self.main or 40_000)
        self.main = self.main or port
        flow = self._flow(port)
        flags = sum(1 << FLAG_NAMES.index(name) for name in what.flags)
        number = seq.add(flow.peer_iss, numbers["seq"])
        ack = seq.add(flow.host_iss, numbers["ack"]) if "ack" in numbers else 0
        text = numbers["seq"] - (0 if flags & SYN else 1)
        data = pattern(text, numbers.get("len", 0))
        options = what.fields.get("raw")
        if options is None:
            options = self._options(what.fields, numbers, flow)
        header = TcpHeader(port, flow.local_port, number, ack, flags, numbers.get("win", 65_535),
                           numbers.get("urg", 0), options)  # fmt: skip
        payload = wire.encode(header, data, REMOTE, LOCAL)
        if "corrupt" in what.fields:
            payload = payload[:4] + bytes((payload[4] ^ 1,)) + payload[5:]
        shown = {
            **numbers,
            **{key: what.fields[key] for key in ("sack", "ecn") if key in what.fields},
        }
        tos = ECN.index(what.fields.get("ecn", "not"))
        self._say(f"peer {_words(what.flags, shown)}")
        self.host.give(Packet(5, 6, REMOTE, LOCAL, tos, 64, 0, payload), IP)
        self._read()

    def _options(self, given: dict, numbers: dict, flow: Flow) -> bytes:
        stamps = None
        if "ts" in given:
            val, ecr = (item.first for item in given["ts"])
            stamps = (val, seq.add(flow.clock or 0, ecr))
        elif self.scenario.peer_ts:
            stamps = ((self.host.now - START) // 1_000_000 + 1000, flow.echo)
        blocks = tuple(
            (seq.add(flow.host_iss, left), seq.add(flow.host_iss, right))
            for left, right in given.get("sack", ())
        )
        options = Options(numbers.get("mss"), numbers.get("wscale"), "sackok" in given, blocks,
                          stamps)  # fmt: skip
        return wire.build_options(options)

    def _icmp(self, what: Icmp) -> None:
        fields = what.fields
        port = fields.get("port", self.main)
        flow = self._flow(port)
        number = seq.add(flow.host_iss, fields["seq"])
        quote = struct.pack("!HHI", flow.local_port, port, number)
        local = fields.get("local", 0)
        self._say("icmp " + " ".join(f"{key}={value}" for key, value in fields.items()))
        self.host.give(PacketError(0, 6, local, _ROUTER, fields["type"], fields.get("code", 0),
                                   fields.get("mtu", 0), LOCAL, REMOTE, quote), IP)  # fmt: skip

    # --- segments of the host ---------------------------------------------------------------------

    def _read(self) -> None:
        """Take what the host has sent into the queue, with the script's numbers."""
        for at, packet in self.host.sent:
            got = self._translate(at, packet)
            self.queue.append(got)
            self._say(str(got), at)
        self.host.sent.clear()

    def _translate(self, at: int, packet: Packet) -> Got:
        header, data = wire.decode(packet.payload, packet.src, packet.dst)
        options = wire.parse_options(header.options)
        self.main = self.main or header.dst_port
        flow = self._flow(header.dst_port)
        flow.local_port = header.src_port
        if header.flags & SYN:
            if header.seq != flow.host_iss:
                flow.clock = None
            flow.host_iss = header.seq
        fields: dict = {"seq": seq.sub(header.seq, flow.host_iss), "len": len(data),
                        "win": header.window, "port": header.dst_port}  # fmt: skip
        if header.flags & wire.ACK:
            fields["ack"] = seq.sub(header.ack, flow.peer_iss)
        if packet.tos & 3:
            fields["ecn"] = ECN[packet.tos & 3]
        if header.urgent:
            fields["urg"] = header.urgent
        for key, value in (("mss", options.mss), ("wscale", options.window_scale)):
            if value is not None:
                fields[key] = value
        if options.sack_permitted:
            fields["sackok"] = True
        if options.timestamps is not None:
            val, ecr = options.timestamps
            flow.clock = val if flow.clock is None else flow.clock
            flow.echo = val
            fields["ts"] = (seq.sub(val, flow.clock), ecr)
        if options.sack:
            fields["sack"] = tuple(
                (seq.sub(left, flow.peer_iss), seq.sub(right, flow.peer_iss))
                for left, right in options.sack
            )
        names = frozenset(name for bit, name in enumerate(FLAG_NAMES) if header.flags >> bit & 1)
        wrong = ""
        if data and data != pattern(fields["seq"] - 1, len(data)):
            wrong = "its data is not what the program has written there"
        return Got(at, names, fields, wrong)

    def _expect(self, what: Segment, repeat: int, at: int, tolerance: int) -> None:
        """The next segment of the host is this one, and comes now."""
        host = self.host
        expected = self._expected(what, repeat)
        text = f"host {_words(what.flags, expected)} at {self._time(at)}"
        if not self.queue:
            host.advance_until_sent(at + tolerance)
            self._read()
        if not self.queue:
            host.advance(at + tolerance)
        assert self.queue, f"expected: {text}\ngot: nothing until {self._time(at + tolerance)}"
        got = self.queue.pop(0)
        differ = self._differences(what, expected, got)
        if abs(got.at - at) > tolerance:
            late = (got.at - at) / 1_000_000
            differ.append(f"it came {late:+.3f} ms from there, {tolerance / 1e6:g} ms are allowed")
        if got.wrong:
            differ.append(got.wrong)
        assert not differ, f"expected: {text}\ngot: {got} at {self._time(got.at)}\n" + "\n".join(
            differ
        )

    def _expected(self, what: Segment, repeat: int) -> dict:
        found = {
            key: value.at(repeat) if isinstance(value, Number) else value
            for key, value in what.fields.items()
        }
        found.setdefault("len", 0)
        found.setdefault("port", self.main)
        found.setdefault("urg", 0)
        found.setdefault("sack", ())
        return found

    def _differences(self, what: Segment, expected: dict, got: Got) -> list[str]:
        differ = []
        # PSH is the sender's choice but at the end of a buffer: it is compared where it is named.
        flags = got.flags if "PSH" in what.flags else got.flags - {"PSH"}
        if flags != what.flags:
            differ.append(f"flags: {_flags(what.flags)} expected, {_flags(got.flags)} got")
        for key in _COMPARED:
            if key not in expected or (wanted := expected[key]) is ANYTHING:
                continue
            value = got.fields.get(key, {"urg": 0, "sack": (), "ecn": "not"}.get(key, "none"))
            same = wanted == value
            if key == "ts" and wanted != "none":
                pairs = zip(wanted, value, strict=True) if value != "none" else ((Number(0), None),)
                same = all(item is ANYTHING or item.first == other for item, other in pairs)
                wanted = tuple("any" if item is ANYTHING else item.first for item in wanted)
            if not same:
                differ.append(f"{key}: {_value(wanted)} expected, {_value(value)} got")
        return differ

    # --- what is shown ----------------------------------------------------------------------------

    def _time(self, at: int) -> str:
        return f"{(at - self.origin) / 1e9:.4f}s"

    def _left(self) -> str:
        return "; ".join(f"{item} at {self._time(item.at)}" for item in self.queue)

    def _say(self, text: str, at: int | None = None) -> None:
        when = self.host.now if at is None else at
        self.log.setdefault(self.index, []).append(f"{self._time(when):>11}  {text}")

    def report(self, failed: Event | None = None, why: str = "") -> str:
        """The script, each line with what happened below it, and what went wrong where."""
        scenario = self.scenario
        lines = [f"{scenario.path}:{scenario.line}: {scenario.name}", f"  {scenario.about}", ""]
        reached = False
        for index, event in enumerate(scenario.events):
            mark = " "
            if event is failed:
                mark, reached = ">", True
            elif reached:
                mark = "."
            lines.append(f"{mark} {event.line:>4}  {event.text}")
            lines += [f"           |{text}" for text in self.log.get(index, ())]
            if event is failed:
                lines += [f"        !  {text}" for text in why.splitlines()]
        if failed is None and why:
            lines += ["> the end"] + [f"        !  {text}" for text in why.splitlines()]
        return "\n".join(lines)


def _flags(names: frozenset[str]) -> str:
    return ",".join(name for name in FLAG_NAMES if name in names) or "none"


def _value(value: object) -> str:
    if isinstance(value, tuple):
        if value and isinstance(value[0], tuple):
            return ",".join(f"{left}:{right}" for left, right in value)
        return ":".join(map(str, value)) or "none"
    return "any" if value is ANYTHING else str(value)


def _words(names: frozenset[str], fields: dict) -> str:
    parts = [_flags(names)]
    for key in _COMPARED:
        value = fields.get(key, "")
        if value == "" or value == () or (key in ("len", "urg") and value == 0):
            continue
        if key == "ts" and value != "none" and isinstance(value[0], Number | None):
            value = tuple(item if item is ANYTHING else item.first for item in value)
        parts.append(key if value is True else f"{key}={_value(value)}")
    return " ".join(parts)


def run(scenario: Scenario, create, swap: bool = False) -> str:
    """Run a scenario; returns the exchange. Raises ScriptFailure."""
    return Run(scenario, create, swap).run()
