"""What tshark says of a capture: nothing malformed, no bad checksum, no unexpected expert note."""

from __future__ import annotations

import subprocess
from pathlib import Path

_NOTE = 4194304
_KERNEL_ZERO = "ip.src == 10.77.0.1 && tcp.checksum == 0xffff"
"""Linux writes a checksum of 0 as 0xffff at times, and tshark minds: its packet, not ours."""
_CHECKS = ("ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE")
_BAD = (
    "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 ||"
    " icmp.checksum.status == 0 || arp.duplicate-address-detected || _ws.expert.severity >= 8388608"
)
"""Malformed, a wrong checksum, or an expert note that is an error."""

EXPECTED = (
    "Connection reset (RST)",  # refusals and aborts are what some tests are about
    "Connection finish (FIN)",
    "This frame initiates the connection closing",
    "This frame undergoes the connection closing",
    "TCP window specified by the receiver is now completely full",  # a slow reader
    "TCP Zero Window segment",
    "TCP window update",
)
"""Expert warnings and notes that a good connection may bring about."""

REPEATS = (
    "This frame is a (suspected) retransmission",
    "This frame is a (suspected) fast retransmission",
    "This frame is a (suspected) spurious retransmission",
    "This frame is a (suspected) out-of-order segment",
    "Duplicate ACK (#",
    "D-SACK Sequence",
)
"""What a wire that loses or reorders also brings about."""

LOST = ("Previous segment(s) not captured", "ACKed segment that wasn't captured")
"""What a capture at the kernel's end lacks when the wire there loses frames."""

TAIL_PROBES = (
    "This frame is a (suspected) retransmission",
    "This frame is a (suspected) spurious retransmission",
    "Duplicate ACK (#1)",
    "D-SACK Sequence",
)
"""What a tail loss probe brings about that went out while the answer was on its way (RFC 8985 7.2:
after two round trips; many connections at once make some take longer than those before them)."""

PROBES = (
    "TCP Zero Window Probe",
    "ACK to a TCP Zero Window Probe",
    "TCP keep-alive",
    "ACK to a TCP keep-alive",
)
"""What a reader that stops also brings about."""


def fields(path: Path, display_filter: str, *names: str) -> list[list[str]]:
    """The fields of the packets that a display filter lets through."""
    command = [
        "tshark",
        "-n",
        "-r",
        str(path),
        "-Y",
        display_filter,
        "-T",
        "fields",
        "-E",
        "aggregator=|",
    ]
    command += ["-d", "tcp.port==5201,data"]  # iperf3's: random bytes look like many a protocol
    for check in _CHECKS:
        command += ["-o", check]
    for name in names:
        command += ["-e", name]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split("\t") for line in result.stdout.splitlines()]


def judge(path: Path, also_expected: tuple[str, ...] = ()) -> None:
    """Raise AssertionError when a packet in the capture is not what it should be."""
    bad = fields(
        path, f"({_BAD}) && !({_KERNEL_ZERO})", "frame.number", "_ws.expert.message", "_ws.col.Info"
    )
    assert bad == [], f"{path}: {bad[:20]}"
    notes = fields(
        path,
        f"(_ws.expert.severity == 6291456 || _ws.expert.severity == 4194304) && !({_KERNEL_ZERO})",
        "frame.number", "_ws.expert.message", "_ws.expert.severity", "_ws.col.Info",
    )  # fmt: skip
    expected = EXPECTED + also_expected
    unexpected = [
        (frame, message, info)
        for frame, messages, severities, info in notes
        for message, severity in zip(messages.split("|"), severities.split("|"), strict=True)
        if int(severity) >= _NOTE and not any(message.startswith(words) for words in expected)
    ]
    assert unexpected == [], f"{path}: {unexpected[:20]}"
