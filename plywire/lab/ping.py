"""`plywire ping`: echo requests from a plywire host, told in the words of ping(8)."""

from __future__ import annotations

import json
import math
import queue
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from plywire.client import Stack
from plywire.lab.control import LabClient
from plywire.lab.rundir import LabError

NO_REPLY, OTHER_ERROR = 1, 2
"""Exit codes as ping(8) has them; 0 is a reply."""

_HEADERS = 28  # IPv4 and ICMP
_OUTSTANDING = 128
"""Requests that wait at once; the next one is sent when one of them is answered or given up."""
_FLOOD = 0.01  # with interval 0: as fast as replies come, or a hundred a second
_SLOWEST_LAST = 0.2  # seconds that the last reply has at least, however quick the others were

_UNREACHABLE = {
    0: "Destination Net Unreachable",
    1: "Destination Host Unreachable",
    2: "Destination Protocol Unreachable",
    3: "Destination Port Unreachable",
    5: "Source Route Failed",
    9: "Destination Net Prohibited",
    10: "Destination Host Prohibited",
    13: "Packet filtered",
}


class Options(NamedTuple):
    """interval, timeout (for one reply) and deadline (for all): seconds; size: bytes of data.

    count, deadline: None is no end. outstanding: tell of requests that have no answer when the next
    one goes out. json: an object a line instead of words.
    """

    count: int | None = None
    interval: float = 1.0
    size: int = 56
    timeout: float = 10.0
    deadline: float | None = None
    quiet: bool = False
    outstanding: bool = False
    json: bool = False


def run_ping(
    client: LabClient, host: str, destination: str, say: Callable[[str], object], **how: Any
) -> int:
    """Ping until an end that the options (`Options`) name, or Ctrl-C. Returns the exit code.

    Raises LabError for a host that the lab does not have, a name that nobody knows, a destination
    without a route.
    """
    with Stack(client.target(host)) as stack:
        try:
            address = stack.gethostbyname(destination)
        except OSError as error:
            raise LabError(f"{destination}: {error.strerror or error}") from None
    options = Options(**how)
    try:
        client.ask(host, "ip", "route", address)
    except LabError as error:
        if str(error).startswith("ENETUNREACH"):
            raise LabError(f"{destination}: Network is unreachable ({error})") from None
    run = _Run(client, host, destination, address, say, options)
    try:
        run.ping()
    except KeyboardInterrupt:
        pass  # as ping does: the summary follows
    finally:
        run.call_off()
    run.summary()
    enough = options.count if options.deadline is not None and options.count else 1
    return 0 if run.received >= enough else NO_REPLY


def time_text(milliseconds: float) -> str:
    """A round trip as ping(8) writes it: four digits, or three decimals below 1 ms."""
    for limit, decimals in ((1, 3), (10, 2), (100, 1)):
        if milliseconds < limit:
            return f"{milliseconds:.{decimals}f}"
    return f"{milliseconds:.0f}"


def error_text(answer: dict) -> str:
    """The words of ping(8) for an ICMP error: its type, code and mtu."""
    kind, code = answer["type"], answer["code"]
    if kind == 3 and code == 4:
        return f"Frag needed and DF set (mtu = {answer['mtu']})"
    if kind == 3:
        return _UNREACHABLE.get(code, f"Dest Unreachable, Bad Code: {code}")
    if kind == 11:
        return ("Time to live exceeded", "Frag reassembly time exceeded")[code == 1]
    if kind == 12:
        return "Parameter problem"
    return f"Bad ICMP type: {kind}"


class _Run:
    """One run of ping: what was sent, what came back."""

    def __init__(
        self,
        client: LabClient,
        host: str,
        destination: str,
        address: str,
        say: Callable[[str], object],
        options: Options,
    ) -> None:
        self.client = client
        self.host = host
        self.destination = destination
        self.address = address
        self.options = options
        self.identifier = random.SystemRandom().randrange(1 << 16)
        self.sent = self.received = self.duplicates = self.errors = 0
        self._say = say
        self._answers: queue.SimpleQueue[tuple[int, object]] = queue.SimpleQueue()
        self._waiting: dict[int, Callable[[], object]] = {}
        self._duplicate: int | None = 0  # serial number of the newest one that was told
        self._least = self._most = self._sum = self._squares = 0.0
        self._began = self._last = self._last_sent = time.monotonic()

    def ping(self) -> None:
        """Send and listen until it is done."""
        options = self.options
        self._tell(
            f"PING {self.destination} ({self.address}) {options.size}({options.size + _HEADERS})"
            " bytes of data.",
            event="start", destination=self.destination, address=self.address, size=options.size,
        )  # fmt: skip
        self._began = self._last = due = time.monotonic()
        end = math.inf if options.deadline is None else due + options.deadline
        while (now := time.monotonic()) < end:
            if self._done_sending():
                limit = self._last_chance()
                if not self._waiting or now >= limit:
                    break
                self._take(min(limit, end) - now)
            elif now >= due and len(self._waiting) < _OUTSTANDING:
                self._send()
                due = max(due + options.interval, now) if options.interval else now + _FLOOD
            else:
                answered = self._take(min(due if now < due else end, end, now + 1) - now)
                if answered and not options.interval and not self._waiting:
                    due = 0.0
        self._tell_duplicates()

    def call_off(self) -> None:
        """Wait for no answer any more."""
        for cancel in list(self._waiting.values()):
            cancel()

    def summary(self) -> None:
        """Say how it went."""
        lost = 100 * (self.sent - self.received) / self.sent if self.sent else 0.0
        milliseconds = round((self._last - self._began) * 1e3)
        words = [f"{self.sent} packets transmitted", f"{self.received} received"]
        if self.duplicates:
            words.append(f"+{self.duplicates} duplicates")
        if self.errors:
            words.append(f"+{self.errors} errors")
        words += [f"{lost:.6g}% packet loss", f"time {milliseconds}ms"]
        lines = ["", f"--- {self.destination} ping statistics ---", ", ".join(words)]
        fields: dict[str, object] = {
            "transmitted": self.sent,
            "received": self.received,
            "duplicates": self.duplicates,
            "errors": self.errors,
            "loss_percent": round(lost, 4),
            "time_ms": milliseconds,
        }
        if self.received:
            mean = self._sum / self.received
            deviation = math.sqrt(max(self._squares / self.received - mean * mean, 0.0))
            figures = (self._least, mean, self._most, deviation)
            lines.append(
                f"rtt min/avg/max/mdev = {'/'.join(f'{figure:.3f}' for figure in figures)} ms"
            )
            names = ("rtt_min_ms", "rtt_avg_ms", "rtt_max_ms", "rtt_mdev_ms")
            fields |= {name: round(figure, 6) for name, figure in zip(names, figures, strict=True)}
        self._tell("\n".join(lines), always=True, event="statistics", **fields)

    def _done_sending(self) -> bool:
        return self.options.count is not None and self.sent >= self.options.count

    def _last_chance(self) -> float:
        """Until when to wait after the last request: two round trips once it is known how long
        they take, as ping does."""
        if self.received:
            return self._last_sent + max(2 * self._most / 1e3, _SLOWEST_LAST)
        return self._last_sent + self.options.timeout + 1

    def _send(self) -> None:
        if self.options.outstanding and self.sent in self._waiting:
            self._tell(f"no answer yet for icmp_seq={self.sent & 0xFFFF}",
                       event="no_answer_yet", icmp_seq=self.sent & 0xFFFF)  # fmt: skip
        self._tell_duplicates()
        self.sent += 1
        number = self.sent
        options = self.options
        self._last = self._last_sent = time.monotonic()
        self._waiting[number] = self.client.ask_later(
            lambda answer: self._answers.put((number, answer)),
            self.host, "ip", "ping", self.address, options.size,
            max(1, round(options.timeout * 1e3)), self.identifier, number & 0xFFFF,
            timeout=options.timeout + 1,
        )  # fmt: skip

    def _take(self, patience: float) -> bool:
        """Wait for an answer, and tell it; False when none came."""
        try:
            number, answer = self._answers.get(timeout=max(patience, 0.0))
        except queue.Empty:
            return False
        self._waiting.pop(number, None)
        sequence = number & 0xFFFF
        if isinstance(answer, LabError):
            if not str(answer).startswith("ETIMEDOUT"):  # of which ping(8) says nothing
                self.errors += 1
                self._tell(f"From {self.host} icmp_seq={sequence} {answer}",
                           event="error", icmp_seq=sequence, error=str(answer))  # fmt: skip
            return True
        self._last = time.monotonic()
        if "type" in answer:
            self.errors += 1
            text = error_text(answer)
            self._tell(f"From {answer['from']} icmp_seq={sequence} {text}",
                       event="error", icmp_seq=sequence, error=text, **answer)  # fmt: skip
            return True
        milliseconds = answer["rtt_ns"] / 1e6
        self._least = min(self._least, milliseconds) if self.received else milliseconds
        self._most = max(self._most, milliseconds)
        self._sum += milliseconds
        self._squares += milliseconds * milliseconds
        self.received += 1
        self._reply(answer, sequence)
        return True

    def _reply(self, answer: dict, sequence: int, duplicate: bool = False) -> None:
        milliseconds = answer["rtt_ns"] / 1e6
        self._tell(
            f"{answer['bytes'] + 8} bytes from {answer['from']}: icmp_seq={sequence}"
            f" ttl={answer['ttl']} time={time_text(milliseconds)} ms"
            + " (DUP!)" * duplicate,
            event="reply", **{"from": answer["from"]}, bytes=answer["bytes"] + 8,
            icmp_seq=sequence, ttl=answer["ttl"], time_ms=milliseconds, duplicate=duplicate,
        )  # fmt: skip

    def _tell_duplicates(self) -> None:
        """Replies that came a second time: ip keeps them, and is asked once a request."""
        if self._duplicate is None or not self.sent:
            return
        try:
            kept = self.client.describe(self.host, "ip", "echoes")["duplicates"]
        except LabError:
            self._duplicate = None  # an ip of somebody else's, which does not keep them
            return
        for row in kept:
            if row["identifier"] == self.identifier and row["serial"] > self._duplicate:
                self._duplicate = row["serial"]
                self.duplicates += 1
                self._reply(row, row["sequence"], duplicate=True)

    def _tell(self, text: str, always: bool = False, **fields: object) -> None:
        """A line of words, or the same as JSON; with -q only what is said at all events."""
        if self.options.quiet and not always and fields["event"] != "start":
            return
        self._say(json.dumps(fields) if self.options.json else text)
