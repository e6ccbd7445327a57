"""The language itself: what it refuses to read, and what it notices when it runs."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from services.tcp import create

from .__main__ import main
from .catalogue import FOLDER
from .language import ScriptError, duration, integer, read_text
from .runner import ScriptFailure, run

HEAD = "scenario a-name\nabout RFC 9293\n"


def read(text: str):
    return read_text(text, Path("area.ply"))


def fails(body: str, head: str = HEAD + "given active mss=1000\n") -> str:
    """Run a body that must fail; the report."""
    (scenario,) = read(head + body)
    with pytest.raises(ScriptFailure) as caught:
        run(scenario, create)
    return str(caught.value)


def passes(body: str, head: str = HEAD + "given active mss=1000\n") -> str:
    (scenario,) = read(head + body)
    return run(scenario, create)


# --- wrong text -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "area.ply:1: expected `scenario NAME`, found nothing"),
        ("about RFC 1\n", "area.ply:1: expected `scenario NAME` first"),
        ("scenario\n", "area.ply:1: expected `scenario NAME`"),
        ("scenario Upper\n", "area.ply:1: expected `scenario NAME`"),
        ("scenario a\n connect\n", "area.ply:1: area/a: expected an `about` line"),
        (HEAD, "area.ply:1: area/a-name: expected at least one event"),
        (HEAD + "given active\n", "expected at least one event"),
        (HEAD + "base some\n connect\n", "area.ply:3: expected `base any` or `base full`"),
        (HEAD + "base any\n info rto == 1\n", "area.ply:4: `info` is of one TCP only"),
        (HEAD + "base any\nhost iss=1\n connect\n", "`host iss=` expects `base full`"),
        (HEAD + "host nonsense=1\n connect\n", "area.ply:3: nonsense is no setting"),
        (HEAD + "host sack=1\n connect\n", "expected sack=yes or sack=no"),
        (HEAD + "host rto_min=fast\n connect\n", "expected a number"),
        (HEAD + "host profile=vms\n connect\n", "expected a profile of linux, bsd"),
        (HEAD + "host mtu\n connect\n", "expected KEY=VALUE, not 'mtu'"),
        (HEAD + "peer iss=x\n connect\n", "expected a number"),
        (HEAD + "peer mood=good\n connect\n", "expected iss=NUMBER or ts=auto"),
        (HEAD + "tolerance 3\n connect\n", "expected a time such as 40ms"),
        (HEAD + "given halfway\n connect\n", "expected `given active`"),
        (HEAD + "given\n connect\n", "expected `given active`"),
        (HEAD + "given active colour=1\n connect\n", "not colour"),
        (HEAD + "whatever 1\n", "area.ply:3: expected scenario, about, base"),
        (HEAD + " connect\nhost mtu=1500\n", "area.ply:4: expected an indented event"),
        (HEAD + " 10ms\n", "area.ply:3: expected something to happen after the time"),
        (HEAD + " 10 connect\n", "expected a time such as 40ms, 1.2s or 2h, not '10'"),
        (HEAD + " 10ms~x connect\n", "expected a time"),
        (HEAD + " dance\n", "area.ply:3: expected one of peer, host, nothing"),
        (HEAD + " peer\n", "expected flags such as SYN,ACK"),
        (HEAD + " peer SIN seq=0\n", "expected flags of FIN, SYN"),
        (HEAD + " peer SYN\n", "expected seq="),
        (HEAD + " host ACK seq=1\n", "expected ack="),
        (HEAD + " peer ACK seq=any ack=1\n", "seq of a peer's segment cannot be `any`"),
        (HEAD + " peer ACK seq=1 ack=1 win=any\n", "win of a peer's segment cannot be `any`"),
        (HEAD + " peer ACK seq=1 ack=1 ts=1:any\n", "ts of a peer's segment cannot be `any`"),
        (HEAD + " peer SYN seq=0 ecn=yes\n", "expected ecn= one of not, ect1, ect0, ce"),
        (HEAD + " peer SYN seq=0 mss\n", "expected KEY=VALUE or sackok"),
        (HEAD + " peer SYN seq=0 mss=none\n", "mss cannot be `none`"),
        (HEAD + " peer SYN seq=0 colour=1\n", "colour is no field of a segment"),
        (HEAD + " host SYN seq=0 raw=01\n", "raw is no field of a segment"),
        (HEAD + " host SYN seq=0 corrupt\n", "only a peer's segment may be corrupt"),
        (HEAD + " peer SYN seq=0 ts=1\n", "expected ts=VALUE:ECHO"),
        (HEAD + " peer ACK seq=0 ack=1 sack=1\n", "expected sack=LEFT:RIGHT"),
        (HEAD + " peer x* SYN seq=0\n", "expected a number"),
        (HEAD + " peer SYN seq=1,5\n", "expected `first,+step`"),
        (HEAD + " peer SYN seq=0 raw=xyz\n", "area.ply:3: "),
        (HEAD + " nothing soon\n", "expected `nothing` or `nothing until TIME`"),
        (HEAD + " icmp code=4\n", "expected type= and seq="),
        (HEAD + " icmp type=3 seq=1 colour=1\n", "expected fields of type, code"),
        (HEAD + " write\n", "expected `write BYTES`"),
        (HEAD + " write 10 =>\n", "expected one result after =>"),
        (HEAD + " set TCP_NODELAY\n", "expected `set OPTION VALUE`"),
        (HEAD + " listen prot=80\n", "prot is nothing that listen takes"),
        (HEAD + " close SO_LINGER=0\n", "SO_LINGER is nothing that close takes"),
        (HEAD + " state ESTABLISHED\n", "expected OPERATOR VALUE"),
        (HEAD + " state = ESTABLISHED\n", "expected OPERATOR VALUE"),
        (HEAD + " info\n", "expected `info NAME OPERATOR VALUE`"),
        (HEAD + " connect\n" + HEAD + " connect\n", "the name area/a-name is used twice"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_file_and_line(text: str, words: str) -> None:
    with pytest.raises(ScriptError) as caught:
        read(text)
    assert str(caught.value).startswith("area.ply:")
    assert words in str(caught.value)


def test_numbers_and_times() -> None:
    assert integer("1+10*1460-1") == 14_600
    assert integer("-14_600") == -14_600
    assert duration("1.5ms") == 1_500_000
    assert duration("2h") == 7200 * 10**9
    assert duration("0") == 0
    for text in ("", "1+", "1 2", "0x10", "1.5"):
        with pytest.raises(ValueError, match="expected a number"):
            integer(text)


# --- wrong expectations ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (" write 100\n host ACK seq=2 ack=1 len=100\n", "seq: 2 expected, 1 got"),
        (" write 100\n host ACK seq=1 ack=2 len=100\n", "ack: 2 expected, 1 got"),
        (" write 100\n host ACK seq=1 ack=1\n", "len: 0 expected, 100 got"),
        (" write 100\n host FIN,ACK seq=1 ack=1 len=100\n", "flags: FIN,ACK expected, PSH,ACK got"),
        (" write 100\n host ACK seq=1 ack=1 len=100 win=7\n", "win: 7 expected"),
        (" write 100\n host ACK seq=1 ack=1 len=100 port=9\n", "port: 9 expected, 80 got"),
        (" write 100\n host ACK seq=1 ack=1 len=100 ts=1:1\n", "ts: 1:1 expected, none got"),
        (" write 100\n host ACK seq=1 ack=1 len=100 sack=1:2\n", "sack: 1:2 expected, none got"),
        (" write 100\n host ACK seq=1 ack=1 len=100 mss=1\n", "mss: 1 expected, none got"),
        (" write 100\n host ACK seq=1 ack=1 len=100 sackok\n", "sackok: True expected, none got"),
        (" write 9\n host ACK seq=1 ack=1 len=9 ecn=ect0\n", "ecn: ect0 expected, not got"),
        (" write 2000\n host 2* ACK seq=1,+1001 ack=1 len=1000\n", "seq: 1002 expected, 1001 got"),
        (" host ACK seq=1 ack=1\n", "got: nothing until"),
        (" write 100\n", "expected: nothing more"),
        (" write 100\n close\n", "expected: nothing before `close`"),
        (" write 100\n nothing\n", "expected: nothing\n"),
        (" write 100\n host ACK seq=1 ack=1 len=100\n nothing until 5s\n", "expected: nothing\n"),
        (" state == CLOSED\n", "expected: state == CLOSED\n        !  got: ESTABLISHED"),
        (" state > 3\n", "got: ESTABLISHED"),
        (" info snd_cwnd == 9\n", "got: 10"),
        (" info colour == 9\n", "colour is nothing that tcp_info"),
        (" counter tcp_timeouts == 1\n", "got: 0"),
        (" read 10\n", "expected: read => 10\n        !  got: => EAGAIN"),
        (" write 10 => EPIPE\n", "got: => 10"),
        (" accept\n", "got: => EINVAL"),
        (" connect => EISCONN\n", "got: => ok"),
        (" 5s nothing\n 1s nothing\n", "expected: a time after 5.0000s"),
        (" peer ACK seq=101 ack=1 len=5\n host ACK seq=1 ack=1 sack=101:106\n", "sack: 101:106"),
    ],
)  # fmt: skip
def test_what_happens_otherwise_fails(body: str, words: str) -> None:
    assert words in fails(body)


@pytest.mark.parametrize(("at", "why"), [("290ms", "got: nothing until"), ("310ms", "-10.000 ms")])
def test_a_segment_at_another_time_fails(at: str, why: str) -> None:
    head = HEAD + "given active mss=1000 rtt=100ms\n"
    body = " write 100\n host ACK seq=1 ack=1 len=100\n {} host ACK seq=1 ack=1 len=100\n"
    passes(body.format("300ms"), head)
    assert why in fails(body.format(at), head)
    passes(body.format(at + "~15ms"), head)


def test_the_tolerance_can_be_said_for_all_lines() -> None:
    head = HEAD + "tolerance {}\ngiven active mss=1000 rtt=100ms\n"
    body = " write 100\n host ACK seq=1 ack=1 len=100\n 303ms host ACK seq=1 ack=1 len=100\n"
    passes(body, head.format("5ms"))
    fails(body, head.format("2ms"))


def test_times_count_from_the_end_of_the_handshake_or_from_the_line_before() -> None:
    passes(
        " 10ms nothing\n +5ms write 100\n host ACK seq=1 ack=1 len=100\n"
        " 20ms peer ACK seq=1 ack=101\n nothing until +1s\n 1020ms nothing\n",
        HEAD + "given active mss=1000 rtt=300ms\n",
    )


def test_the_peer_speaks_to_the_port_that_listens() -> None:
    passes(" listen port=8080\n peer SYN seq=0\n host SYN,ACK seq=0 ack=1\n", HEAD)
    report = fails(" listen port=8080\n peer RST seq=0\n host SYN,ACK seq=0 ack=1\n", HEAD)
    assert "got: nothing until" in report


def test_other_bytes_than_were_written_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data of every segment is compared, not only its length."""
    from . import host

    whole = host.pattern
    monkeypatch.setattr(host, "pattern", lambda at, size: bytes(size) if at else whole(at, size))
    report = fails(" write 100\n host ACK seq=1 ack=1 len=100\n peer ACK seq=1 ack=101\n"
                   " write 50\n host ACK seq=101 ack=1 len=50\n")  # fmt: skip
    assert "its data is not what the program has written there" in report


def test_a_failure_shows_the_script_with_what_happened() -> None:
    report = fails(" 5ms write 100\n host ACK seq=2 ack=1 len=100\n state == CLOSED\n")
    lines = [line.strip() for line in report.splitlines()]
    assert lines[0] == "area.ply:1: area/a-name"
    assert "4  5ms write 100" in lines
    assert any(line.endswith("0.0050s  write => 100") for line in lines)
    assert any("host PSH,ACK seq=1 ack=1 len=100" in line for line in lines)
    assert "!  expected: host ACK seq=2 ack=1 len=100 port=80 at 0.0050s" in lines
    at = lines.index("!  expected: host ACK seq=2 ack=1 len=100 port=80 at 0.0050s")
    assert lines[at - 1].startswith(">")
    assert lines[-1] == ".    6  state == CLOSED"  # not reached


# --- the command ----------------------------------------------------------------------------------

GOOD = HEAD + "given active\n 0 close\n host FIN,ACK seq=1 ack=1\n"


def test_the_command_shows_the_exchange(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "area.ply"
    path.write_text(GOOD)
    assert main([str(path)]) == 0
    shown = capsys.readouterr().out
    assert "area/a-name" in shown
    assert "host FIN,ACK seq=1 ack=1" in shown
    assert main([str(path), "a-name", "--impl", "lite"]) == 0


def test_the_command_says_what_went_wrong(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "area.ply"
    path.write_text(GOOD.replace("seq=1", "seq=2"))
    assert main([str(path)]) == 1
    assert "seq: 2 expected, 1 got" in capsys.readouterr().out
    assert main([str(path), "another"]) == 2
    assert "there are a-name" in capsys.readouterr().err
    path.write_text(GOOD.replace("host FIN", "hots FIN"))
    assert main([str(path)]) == 2
    assert f"{path}:5: expected one of peer, host" in capsys.readouterr().err
    assert main([str(tmp_path / "none.ply")]) == 2


def test_damaged_scripts_are_read_or_refused_and_nothing_else() -> None:
    """Every kind of line, with words left out or changed: a ScriptError, or a script."""
    rng = random.Random(1)
    texts = [
        "scenario " + text
        for path in sorted(FOLDER.glob("*.ply"))
        for text in path.read_text().split("scenario ")[1:]
    ]
    words = [*" ".join(texts).split(), "", "=", "+", "~", "1*", ",", ":"]
    told = []
    for _ in range(2000):
        parts = rng.choice(texts).split(" ")
        parts[rng.randrange(len(parts))] = rng.choice(words)
        try:
            read(" ".join(parts))
        except ScriptError as error:
            told.append(str(error))
    assert len(told) > 500
    assert [text for text in told if not re.match(r"area\.ply:\d+: ", text)] == []
