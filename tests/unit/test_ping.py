"""`plywire ping` against the words of ping(8), with a host that answers by a script."""

import json
import re

import pytest
from golden import check

from plywire.lab.ping import Options, _Run, error_text, time_text
from plywire.lab.rundir import LabError

MS = 1_000_000


class Scripted:
    """A lab whose h1 gets these answers to its pings, in order; None: no answer yet."""

    def __init__(self, *answers, duplicates=()):
        self.answers = list(answers)
        self.duplicates = list(duplicates)
        self.asked = []
        self.called_off = 0
        self.run = None

    def ask_later(self, then, host, layer, verb, *arguments, timeout):
        self.asked.append((host, layer, verb, *arguments))
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            then(answer)

        def cancel():
            self.called_off += 1

        return cancel

    def describe(self, host, layer, topic):
        assert (host, layer, topic) == ("h1", "ip", "echoes")
        rows = [{"identifier": self.run.identifier, **row} for row in self.duplicates]
        return {"waiting": 0, "duplicates": [{"identifier": -1, "serial": 9}, *rows]}


def reply(rtt, size=56, ttl=64):
    return {"from": "10.0.0.2", "bytes": size, "ttl": ttl, "rtt_ns": rtt}


UNREACHABLE = {"from": "10.0.0.1", "type": 3, "code": 1, "mtu": 0}
TIMEOUT = LabError("ETIMEDOUT: no echo reply")


def ping(lab, **options):
    """Run it as `plywire ping h1 h2` does; the run and its lines, times made 1 ms."""
    lines = []
    run = lab.run = _Run(lab, "h1", "h2", "10.0.0.2", lines.append, Options(**options))
    run.ping()
    run.call_off()
    run.summary()
    text = "\n".join(lines)
    return run, re.sub(r"time \d+ms$", "time 1ms", text, flags=re.M).splitlines()


def test_replies():
    lab = Scripted(reply(45_678), reply(1_234_567), reply(23_456_789), reply(345 * MS))
    run, lines = ping(lab, count=4, interval=0.0)
    check("ping.txt", lines)
    assert [item[4:] for item in lab.asked] == [
        (56, 10_000, run.identifier, number) for number in (1, 2, 3, 4)
    ]


def test_errors_losses_and_duplicates():
    second = {"serial": 1, "sequence": 1, **reply(3 * MS)}
    lab = Scripted(reply(2 * MS), UNREACHABLE, TIMEOUT, LabError("h1.ip does not answer"),
                   duplicates=[second])  # fmt: skip
    run, lines = ping(lab, count=4, interval=0.0)
    check("ping-errors.txt", sorted(lines, key=lambda line: "DUP" in line))
    assert (run.received, run.errors, run.duplicates) == (1, 2, 1)


def test_a_duplicate_is_told_once():
    second = {"serial": 4, "sequence": 1, **reply(3 * MS)}
    run, lines = ping(Scripted(*[reply(MS)] * 5, duplicates=[second]), count=5, interval=0.0)
    assert run.duplicates == 1
    assert sum("(DUP!)" in line for line in lines) == 1


def test_no_reply_at_all():
    run, lines = ping(Scripted(TIMEOUT, TIMEOUT), count=2, interval=0.0)
    assert lines[-1] == "2 packets transmitted, 0 received, 100% packet loss, time 1ms"
    assert run.received == 0


def test_nothing_was_sent():
    _, lines = ping(Scripted(), deadline=0.0)
    assert lines[-1] == "0 packets transmitted, 0 received, 0% packet loss, time 1ms"


def test_requests_without_an_answer_yet():
    lab = Scripted()
    _, lines = ping(lab, count=2, interval=0.001, timeout=0.001, deadline=0.02, outstanding=True)
    assert "no answer yet for icmp_seq=1" in lines
    assert lab.called_off == 2


def test_quiet():
    _, lines = ping(Scripted(reply(MS)), count=1, quiet=True)
    assert [line.split()[0] if line else "" for line in lines] == ["PING", "", "---", "1", "rtt"]


def test_json_is_an_object_a_line():
    lab = Scripted(reply(MS), UNREACHABLE)
    _, lines = ping(lab, count=2, interval=0.0, json=True)
    start, first, second, end = map(json.loads, lines)
    assert start == {"event": "start", "destination": "h2", "address": "10.0.0.2", "size": 56}
    assert first == {
        "event": "reply", "from": "10.0.0.2", "bytes": 64, "icmp_seq": 1, "ttl": 64,
        "time_ms": 1.0, "duplicate": False,
    }  # fmt: skip
    assert second["error"] == "Destination Host Unreachable"
    assert end["event"] == "statistics"
    assert (end["transmitted"], end["received"], end["errors"]) == (2, 1, 1)
    assert (end["loss_percent"], end["rtt_avg_ms"]) == (50.0, 1.0)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0.0421, "0.042"), (0.9994, "0.999"), (1.0, "1.00"), (9.994, "9.99"), (12.34, "12.3"),
     (123.4, "123"), (1234.5, "1234")],
)  # fmt: skip
def test_times_have_the_digits_of_ping(milliseconds, text):
    assert time_text(milliseconds) == text


@pytest.mark.parametrize(
    ("kind", "code", "text"),
    [
        (3, 0, "Destination Net Unreachable"), (3, 3, "Destination Port Unreachable"),
        (3, 4, "Frag needed and DF set (mtu = 1400)"), (3, 13, "Packet filtered"),
        (3, 77, "Dest Unreachable, Bad Code: 77"), (11, 0, "Time to live exceeded"),
        (11, 1, "Frag reassembly time exceeded"), (12, 0, "Parameter problem"),
        (40, 0, "Bad ICMP type: 40"),
    ],
)  # fmt: skip
def test_icmp_errors_in_the_words_of_ping(kind, code, text):
    assert error_text({"type": kind, "code": code, "mtu": 1400}) == text
