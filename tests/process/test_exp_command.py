"""`plywire exp`: runs in the simulator and in a real lab, Ctrl-C, a full disk, and wrong input."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest
from commanded import PLYWIRE, Commands

SMALL = """
[experiment]
name = "small"
repetitions = {repetitions}
[workload]
bytes = {bytes}
[options.cubic]
sender.tcp.congestion = "cubic"
[options.newreno]
sender.tcp.congestion = "newreno"
[impairments.lossy]
delay = 0.005
loss = 0.02
"""


@pytest.fixture
def plywire(tmp_path):
    base = tmp_path / "labs"
    base.mkdir()
    return Commands(base)


def file(tmp_path: Path, text: str = SMALL, **values: int) -> str:
    path = tmp_path / "small.toml"
    values = {"repetitions": 2, "bytes": 40_000} | values
    path.write_text(text.format(**values))
    return str(path)


def test_run_and_compare(plywire, tmp_path):
    out = str(tmp_path / "out")
    done = plywire("exp", "run", file(tmp_path), "-o", out)
    assert done.returncode == 0, done.stderr
    progress = done.stderr.splitlines()
    assert progress[0] == "4 runs"
    assert progress[1].startswith("1/4 cubic@lossy-001: ")
    assert progress[4].startswith("4/4 newreno@lossy-002: ")
    assert progress[4].endswith("; 0:00 left")
    assert done.stdout.startswith("4 runs in 0:0")
    again = plywire("exp", "run", file(tmp_path), "-o", out)
    assert again.stderr == "4 runs, 4 of them are there already\n"
    said = plywire.do("exp", "compare", out)
    assert "goodput in Mbit/s" in said
    assert "newreno and cubic: no difference shown (p=" in said
    assert "note: too few runs for 95%" in said
    report = tmp_path / "out" / "report.html"
    assert said.endswith(f"plots: {report}\n")
    assert report.read_text().endswith("</html>\n")
    found = json.loads(plywire.do("exp", "compare", out, "--json"))
    assert [(cell["variant"], cell["completed"]) for cell in found["cells"]] == [
        ("cubic", 2), ("newreno", 2)]  # fmt: skip
    assert "retransmissions in segments" in plywire.do(
        "exp", "compare", out, "--metric", "retransmissions"
    )


def test_the_folder_is_named_after_the_experiment(plywire, tmp_path):
    text = file(tmp_path, repetitions=1, bytes=10)
    done = subprocess.run(
        [PLYWIRE, "exp", "run", text], cwd=tmp_path, env=plywire.environment, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert "plywire exp compare exp/small" in done.stdout
    assert (tmp_path / "exp" / "small" / "runs" / "newreno@lossy-001" / "run.json").is_file()


def test_in_a_real_lab_with_a_layer_exchanged(plywire, tmp_path):
    text = """
[experiment]
name = "real"
where = "lab"
repetitions = 1
limit = 60
[workload]
bytes = 400_000
[options.exchanged]
sender.socket.TCP_NODELAY = 1
swaps = [{{ layer = "tcp", after = 0.1, set = {{ congestion = "newreno" }} }}]
[impairments.slow]
delay = 0.005
rate = 400_000
loss = 0.01
"""
    out = tmp_path / "out"
    done = plywire("exp", "run", file(tmp_path, text), "-o", str(out))
    assert done.returncode == 0, done.stderr
    place = out / "runs" / "exchanged@slow-001"
    record = json.loads((place / "run.json").read_text())
    results = record["results"]
    assert (record["where"], results["completed"], results["error"]) == ("lab", True, "")
    assert results["delivered"] == 400_000
    assert results["duration"] > 400_000 * 8 / 400_000  # the rate held
    assert results["retransmissions"] > 0
    (swap,) = results["swaps"]
    assert (swap["end"], swap["layer"], results["late"]) == ("sender", "tcp", 0)
    assert 0 < swap["at"] < swap["at"] + swap["pause"] < results["duration"]
    assert results["pause"] == swap["pause"]
    with (place / "samples.csv").open() as samples:
        rows = list(csv.DictReader(samples))
    assert len(rows) >= 5
    assert rows[-1]["bytes_received"] == "400000"
    assert [float(row["time_s"]) for row in rows] == sorted(float(row["time_s"]) for row in rows)
    frames = (place / "capture.pcapng").stat().st_size
    assert frames > 400_000  # both directions, as the sender saw them
    assert "exchanged" in plywire.do("exp", "compare", str(out))


def test_requests_in_a_real_lab(plywire, tmp_path):
    text = """
[experiment]
name = "asked"
repetitions = 1
limit = 60
[workload]
kind = "requests"
count = 10
writes = [4, 200]
[options.no-nagle]
sender.socket.TCP_NODELAY = 1
[impairments.near]
sender.delay = 0.01
receiver.delay = 0.03
"""
    out = tmp_path / "out"
    plywire.do("exp", "run", file(tmp_path, text), "--where", "lab", "-o", str(out))
    record = json.loads((out / "runs" / "no-nagle@near-001" / "run.json").read_text())
    assert record["results"]["completed"]
    assert record["results"]["latency"] >= 0.04


def test_ctrl_c_leaves_whole_runs_and_the_same_command_goes_on(plywire, tmp_path):
    out = tmp_path / "out"
    command = [PLYWIRE, "exp", "run", file(tmp_path, repetitions=40), "-o", str(out)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=plywire.environment)  # fmt: skip
    for line in running.stderr:
        if line.startswith("3/80 "):
            break
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=60)
    assert (running.returncode, stdout) == (130, "")
    assert "interrupted; the same command goes on" in stderr
    names = os.listdir(out / "runs")
    assert 3 <= len(names) < 80
    for name in names:
        assert "results" in json.loads((out / "runs" / name / "run.json").read_text())
    done = plywire("exp", "run", file(tmp_path, repetitions=40), "-o", str(out))
    assert done.stderr.startswith(f"80 runs, {len(names)} of them are there already\n")
    assert done.stdout.startswith(f"{80 - len(names)} runs in ")


def test_a_file_that_cannot_grow_ends_the_run_with_a_clear_line(plywire, tmp_path):
    """As on a full disk: the capture of a run does not fit."""
    out = tmp_path / "out"
    done = subprocess.run(
        [PLYWIRE, "exp", "run", file(tmp_path, bytes=400_000), "-o", str(out)],
        capture_output=True, text=True, env=plywire.environment, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("plywire: ")
    assert "File too large" in last
    assert str(out) in last
    assert os.listdir(out / "runs") == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("exp", "run"), 2, "Missing argument 'FILE'"),
        (("exp", "run", "nowhere.toml"), 1, "nowhere.toml"),
        (("exp", "run", "{good}", "--where", "moon"), 2, "moon"),
        (("exp", "run", "{good}", "-o", "{good}"), 2, "is a file"),
        (("exp", "run", "{good}", "-o", "/proc/nowhere/x"), 1, "/proc/nowhere"),
        (("exp", "run", "{bad}"), 1, "experiment.repetition: unknown key"),
        (("exp", "run", "{broken}"), 1, "not TOML"),
        (("exp", "compare"), 2, "Missing argument 'DIR'"),
        (("exp", "compare", "{tmp}"), 1, "is not the folder of an experiment"),
        (("exp", "compare", "{tmp}", "--metric", "beauty"), 2, "beauty"),
        (("exp", "dance"), 2, "No such command"),
    ],
)
def test_wrong_input_is_one_clear_line(plywire, tmp_path, arguments, code, words):
    good = file(tmp_path)
    bad, broken = tmp_path / "bad.toml", tmp_path / "broken.toml"
    bad.write_text('[experiment]\nname = "x"\nrepetition = 3')
    broken.write_text("[experiment")
    values = {"good": good, "bad": bad, "broken": broken, "tmp": tmp_path}
    said = plywire.refused(*(word.format(**values) for word in arguments), code=code)
    assert words in said
