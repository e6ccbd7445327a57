"""Log lines and the files of bounded size that collect them."""

from __future__ import annotations

import subprocess
import sys

from plywire.runtime.logs import LINE_MAX, LogFile, tail


def test_format_of_a_line():
    program = "import logging; from plywire.runtime import logs; logs.set_up('h1.tcp');"
    program += "logging.getLogger('x').warning('%d things', 3)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    stamp, rest = done.stderr.split(" ", 1)
    assert rest == "h1.tcp WARNING 3 things\n"
    assert len(stamp) == len("2026-11-20T13:00:00.123")


def test_lines_are_put_together_from_pieces(tmp_path):
    log = LogFile(tmp_path / "log")
    assert log.feed(b"on") == []
    assert log.feed(b"e\ntwo\nth") == ["one", "two"]
    assert log.last == "two"
    log.close()
    assert tail(log.path, 10) == ["one", "two", "th"]


def test_last_line_is_not_a_blank_one(tmp_path):
    log = LogFile(tmp_path / "log")
    log.feed(b"KeyError: 'x'\n\n  \n")
    assert log.last == "KeyError: 'x'"


def test_endless_line_is_cut(tmp_path):
    log = LogFile(tmp_path / "log")
    assert [len(line) for line in log.feed(b"x" * (LINE_MAX + 1))] == [LINE_MAX]


def test_bytes_that_are_not_text(tmp_path):
    log = LogFile(tmp_path / "log")
    assert log.feed(b"\xff\n") == ["\N{REPLACEMENT CHARACTER}"]


def test_size_is_bounded_and_the_newest_lines_stay(tmp_path):
    log = LogFile(tmp_path / "log", max_bytes=1000)
    for number in range(500):
        log.write(f"line {number}")
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size <= 2000
    assert tail(log.path, 3) == ["line 497", "line 498", "line 499"]
    assert len(tail(log.path, 10_000)) > 50


def test_disk_that_cannot_be_written_costs_lines_only(tmp_path):
    log = LogFile(tmp_path / "log")
    log._file.close()
    log._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    assert log.feed(b"one\n") == ["one"]
    assert log.lost == 1


def test_tail_of_a_log_that_is_not_there(tmp_path):
    assert tail(tmp_path / "no", 5) == []
