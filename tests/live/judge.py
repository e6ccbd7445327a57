"""What tshark says of a capture: nothing malformed, no bad checksum, no unexpected expert note."""

from __future__ import annotations

import subprocess
from pathlib import Path

_CHECKS = ("ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE")
_BAD = (
    "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 ||"
    " icmp.checksum.status == 0 || arp.duplicate-address-detected || _ws.expert.severity >= 8388608"
)
"""Malformed, a wrong checksum, or an expert note that is an error."""

EXPECTED_WARNINGS = (
    "Connection reset (RST)",  # refusals and aborts are what some tests are about
    "This frame is a (suspected) out-of-order segment",  # of a capture with several threads
    "D-SACK Sequence",
    "TCP window specified by the receiver is now completely full",  # a slow reader
    "TCP Zero Window segment",
    "TCP window update",
)


def fields(path: Path, display_filter: str, *names: str) -> list[list[str]]:
    """The fields of the packets that a display filter lets through."""
    command = ["tshark", "-r", str(path), "-Y", display_filter, "-T", "fields"]
    for check in _CHECKS:
        command += ["-o", check]
    for name in names:
        command += ["-e", name]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split("\t") for line in result.stdout.splitlines()]


def judge(path: Path, also_expected: tuple[str, ...] = ()) -> None:
    """Raise AssertionError when a packet in the capture is not what it should be."""
    assert fields(path, _BAD, "frame.number", "_ws.expert.message", "_ws.col.Info") == []
    warnings = fields(
        path, "_ws.expert.severity == 6291456", "frame.number", "_ws.expert.message", "_ws.col.Info"
    )
    expected = EXPECTED_WARNINGS + also_expected
    unexpected = [row for row in warnings if not any(words in row[1] for words in expected)]
    assert unexpected == []
