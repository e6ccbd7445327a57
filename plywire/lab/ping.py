"""`plywire ping`: echo requests from a plywire host, told in the words of ping(8)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from plywire.client import Stack
from plywire.lab.control import LabClient
from plywire.lab.rundir import LabError

_HEADERS = 28  # IPv4 and ICMP


def run_ping(
    client: LabClient,
    host: str,
    destination: str,
    say: Callable[[str], object],
    *,
    count: int | None,
    interval: float,
    size: int,
    timeout: float,
) -> int:
    """Ping until `count` or Ctrl-C. Returns 0 when a reply came, else 1.

    interval and timeout: seconds; size: bytes of data. Raises LabError for an unknown host, OSError
    for an unknown name.
    """
    with Stack(client.target(host)) as stack:
        address = stack.gethostbyname(destination)
    say(f"PING {destination} ({address}) {size}({size + _HEADERS}) bytes of data.")
    started = time.monotonic()
    times: list[float] = []
    sent = 0
    try:
        while count is None or sent < count:
            sent += 1
            due = started + sent * interval
            line = _one(client, host, address, size, timeout, sent, times)
            say(line)
            if sent != count:
                time.sleep(max(0.0, due - time.monotonic()))
    except KeyboardInterrupt:
        pass  # as ping does: the summary follows
    for line in _summary(destination, sent, times, time.monotonic() - started):
        say(line)
    return 0 if times else 1


def _one(
    client: LabClient,
    host: str,
    address: str,
    size: int,
    timeout: float,
    sequence: int,
    times: list[float],
) -> str:
    """Send one request; its line. The time of a reply is added to `times`, in ms."""
    milliseconds = max(1, round(timeout * 1e3))
    try:
        answer = client.ask(host, "ip", "ping", address, size, milliseconds, timeout=timeout + 1)
    except LabError as error:
        return f"From {host} icmp_seq={sequence} {error}"
    taken = answer["rtt_ns"] / 1e6
    times.append(taken)
    return (
        f"{answer['bytes'] + 8} bytes from {answer['from']}: icmp_seq={sequence}"
        f" ttl={answer['ttl']} time={taken:.3f} ms"
    )


def _summary(destination: str, sent: int, times: list[float], seconds: float) -> list[str]:
    lost = 100 * (sent - len(times)) / sent if sent else 0
    lines = [
        "",
        f"--- {destination} ping statistics ---",
        f"{sent} packets transmitted, {len(times)} received, {lost:g}% packet loss,"
        f" time {seconds * 1e3:.0f}ms",
    ]
    if times:
        mean = sum(times) / len(times)
        deviation = math.sqrt(sum((item - mean) ** 2 for item in times) / len(times))
        figures = "/".join(f"{item:.3f}" for item in (min(times), mean, max(times), deviation))
        lines.append(f"rtt min/avg/max/mdev = {figures} ms")
    return lines
