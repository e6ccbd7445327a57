"""Matrices in virtual time: the same numbers every time, resumed where they were, and compared."""

from __future__ import annotations

import csv
import json
import shutil
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from plywire.lab.exp import compare, runner, simulated
from plywire.lab.exp.file import Experiment, parse
from plywire.lab.exp.folder import Folder
from plywire.lab.exp.report import render
from plywire.lab.exp.samples import COLUMNS, SAMPLES_MAX, Samples
from plywire.lab.rundir import LabError

SMALL = """
[experiment]
name = "small"
repetitions = 2
seed = 7
[workload]
bytes = 60_000
[options.cubic]
sender.tcp.congestion = "cubic"
[options.newreno]
sender.tcp.congestion = "newreno"
[impairments.lossy]
delay = 0.01
jitter = 0.002
loss = 0.03
rate = 10_000_000
"""


def read(text: str = SMALL) -> Experiment:
    return parse(tomllib.loads(text), "small.toml")


def run(directory: Path, text: str = SMALL, said: list[str] | None = None) -> int:
    experiment = read(text)
    say = (lambda _: None) if said is None else said.append
    with Folder(directory, experiment, text) as folder:
        return runner.run_all(experiment, folder, say)


def files(directory: Path) -> dict[str, bytes]:
    """What must be the same every time, by path."""
    found = {}
    for path in sorted((directory / "runs").rglob("*")):
        if path.is_file():
            key = str(path.relative_to(directory))
            found[key] = path.read_bytes()
            if path.name == "run.json":
                record = json.loads(found[key])
                found[key] = repr((record["results"], record["config"], record["seed"])).encode()
    return found


def test_the_same_numbers_every_time(tmp_path):
    assert run(tmp_path / "one") == run(tmp_path / "other") == 4
    one, other = files(tmp_path / "one"), files(tmp_path / "other")
    assert len(one) == 4 * 3
    assert one == other
    # and other numbers from another seed
    seeds = {name.rpartition("-")[0]: [] for name in one}
    for name, data in one.items():
        if name.endswith("samples.csv"):
            seeds[name.rpartition("-")[0]].append(data)
    assert all(len(set(data)) == 2 for data in seeds.values() if data)


def test_a_run_leaves_what_it_was_and_what_came_of_it(tmp_path):
    run(tmp_path)
    place = tmp_path / "runs" / "newreno@lossy-002"
    record = json.loads((place / "run.json").read_text())
    assert (record["seed"], record["option"], record["impairment"]) == (8, "newreno", "lossy")
    wire = record["config"]["impairments"]
    assert (wire["sender"]["loss"], wire["receiver"]["loss"]) == (0.03, 0.03)
    assert 'congestion = "newreno"' in record["config"]["lab"]
    assert {"python", "plywire"} <= set(record["versions"])
    assert record["machine"]["cores"] >= 1
    results = record["results"]
    assert (results["completed"], results["error"], results["delivered"]) == (True, "", 60_000)
    assert results["goodput"] == pytest.approx(60_000 * 8 / results["duration"])
    with (place / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    last = rows[-1]
    assert float(last["time_s"]) == pytest.approx(results["duration"], abs=1e-6)
    assert (last["state"], last["bytes_received"]) == ("ESTABLISHED", "60000")
    assert int(last["snd_una"]) == int(last["bytes_acked"]) + 1  # relative: the SYN is 0
    assert int(last["retransmits"]) == results["retransmissions"]
    assert all(int(row["snd_una"]) <= int(row["snd_nxt"]) <= 60_001 for row in rows)
    assert (place / "capture.pcapng").read_bytes()[:4] == b"\n\r\r\n"


def test_runs_that_are_there_are_not_run_again(tmp_path, monkeypatch):
    run(tmp_path)
    before = files(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")}
    shutil.rmtree(tmp_path / "runs" / "cubic@lossy-002")
    broken = tmp_path / "runs" / "newreno@lossy-001" / "run.json"
    broken.write_text('{"format": 1, "na')
    (tmp_path / "runs" / "cubic@lossy-001" / "samples.csv").unlink()
    (tmp_path / "runs" / ".part-newreno@lossy-002").mkdir()
    said = []
    assert run(tmp_path, said=said) == 3
    assert said[0] == "4 runs, 1 of them are there already"
    assert said[-1].startswith("4/4 newreno@") or said[-1].startswith("4/4 cubic@lossy-002")
    assert said[-1].endswith("0:00 left")
    assert files(tmp_path) == before
    kept = tmp_path / "runs" / "newreno@lossy-002" / "run.json"
    assert kept.stat().st_mtime_ns == times[kept]
    assert run(tmp_path) == 0


def test_interrupted_in_a_run_nothing_of_that_run_is_left_and_the_rest_is_done_later(
    tmp_path, monkeypatch
):
    whole = tmp_path / "whole"
    run(whole)
    real, count = simulated.run, 0

    def interrupted(experiment, one, folder):
        nonlocal count
        count += 1
        outcome = real(experiment, one, folder)  # its capture is there by now
        if count == 3:
            raise KeyboardInterrupt
        return outcome

    monkeypatch.setattr(runner.simulated, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    names = sorted(path.name for path in (tmp_path / "cut" / "runs").iterdir())
    assert names == ["cubic@lossy-001", "newreno@lossy-001"]
    monkeypatch.setattr(runner.simulated, "run", real)
    assert run(tmp_path / "cut") == 2
    assert files(tmp_path / "cut") == files(whole)


@pytest.mark.parametrize(
    "change", [("0.03", "0.04"), ("60_000", "50_000"), ("seed = 7", "seed = 8"), ("= 2", "= 3")]
)
def test_a_changed_file_is_refused_and_nothing_is_touched(tmp_path, change):
    run(tmp_path)
    before = files(tmp_path)
    with pytest.raises(LabError, match="holds runs of another file"):
        run(tmp_path, SMALL.replace(*change))
    assert files(tmp_path) == before


def test_a_comment_is_no_change(tmp_path):
    run(tmp_path)
    assert run(tmp_path, "# the same\n" + SMALL) == 0


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(LabError, match="no experiment: name another folder"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_at_once_are_refused(tmp_path):
    experiment = read()
    with (
        Folder(tmp_path, experiment, SMALL),
        pytest.raises(LabError, match="is running this experiment"),
    ):
        run(tmp_path)


def test_a_transfer_that_takes_too_long_ends_at_the_limit(tmp_path):
    text = SMALL.replace('"small"', '"small"\nlimit = 2').replace("loss = 0.03", "loss = 1")
    run(tmp_path, text)
    found = compare.load(tmp_path)
    record = found.cells[0].records[0]["results"]
    assert (record["completed"], record["error"]) == (False, "not done within the limit")
    assert (record["duration"], record["delivered"], record["goodput"]) == (2.0, 0, 0)
    assert "4 runs were not completed" in found.notes[0]
    assert found.pairs[0].chance == 1.0  # nothing against nothing


def test_a_connection_that_is_refused_says_why(tmp_path):
    text = SMALL + "[options.short]\nsender.tcp = { rto_initial = 0.01, syn_retries = 1 }\n"
    text = text.replace("loss = 0.03", "loss = 1")
    run(tmp_path, text)
    short = compare.load(tmp_path).cells[2]
    assert "ETIMEDOUT" in short.records[0]["results"]["error"]


def test_requests_are_timed_one_by_one(tmp_path):
    text = """
[experiment]
name = "ping"
repetitions = 1
[workload]
kind = "requests"
count = 20
writes = [3, 5]
response = 11
[options.nodelay]
both.socket.TCP_NODELAY = 1
[impairments.far]
delay = 0.01
"""
    run(tmp_path, text)
    results = compare.load(tmp_path).cells[0].records[0]["results"]
    assert results["completed"]
    assert results["delivered"] == 20 * (8 + 11)
    assert results["latency"] == pytest.approx(0.02, abs=1e-4)
    assert results["duration"] == pytest.approx(21 * 0.02, rel=0.01)  # and a handshake


def test_one_direction_is_impaired_by_itself(tmp_path):
    """What the sender sends is slow by its rate; what comes back is only late."""
    text = """
[experiment]
name = "one-way"
repetitions = 1
[workload]
bytes = 100000
[impairments.up]
sender.rate = 1000000
[impairments.down]
receiver.rate = 1000000
[impairments.late]
receiver.delay = 0.05
"""
    run(tmp_path, text)
    results = {cell.impairment: cell.records[0]["results"] for cell in compare.load(tmp_path).cells}
    assert results["up"]["duration"] > 0.8  # 100 kB at 1 Mbit/s
    assert results["down"]["duration"] < 0.2  # acknowledgements: 60 of them, of 66 bytes
    assert 0.05 < results["late"]["duration"] < 1


def test_layers_are_exchanged_in_mid_transfer_and_every_byte_arrives(tmp_path, monkeypatch):
    text = (
        SMALL
        + """
[options.exchanged]
swaps = [
  { layer = "tcp", after = 0.3, set = { rto_min = 0.3 } },
  { end = "receiver", layer = "ip", after = 0.5 },
  { end = "receiver", layer = "tcp", after = 0.5 },
]
"""
    )
    exchanged = []
    replace = simulated.Host.replace

    def noted(host, role, spec=None, settings=()):
        exchanged.append((host.name, role, dict(settings)))
        replace(host, role, spec, settings)
        if settings:
            assert host.config.tcp.rto_min == 300_000_000
            assert host.layer("tcp").stack.cfg.rto_min == 300_000_000

    monkeypatch.setattr(simulated.Host, "replace", noted)
    run(tmp_path, text)
    each = [("h1", "tcp", {"rto_min": 300_000_000}), ("h2", "ip", {}), ("h2", "tcp", {})]
    assert exchanged == each * 2
    cell = compare.load(tmp_path).cells[2]
    assert (cell.variant, cell.completed) == ("exchanged", 2)
    for record in cell.records:
        swaps = record["results"]["swaps"]
        assert [item["layer"] for item in swaps] == ["tcp", "ip", "tcp"]
        assert 0 < swaps[0]["at"] < swaps[1]["at"] <= swaps[2]["at"] < record["results"]["duration"]
        assert record["results"]["late"] == 0


def test_an_exchange_that_was_not_made_is_said(tmp_path):
    text = SMALL.replace("loss = 0.03", "loss = 1").replace('"small"', '"small"\nlimit = 1')
    run(tmp_path, text + "[options.exchanged]\nswaps = [{ layer = 'tcp', after = 0.5 }]\n")
    found = compare.load(tmp_path)
    assert found.cells[2].records[0]["results"]["late"] == 1
    assert any("in 2 runs exchanges of layers came after" in note for note in found.notes)


def test_a_difference_is_shown_where_there_is_one_and_not_where_there_is_none(tmp_path):
    text = (
        SMALL.replace("repetitions = 2", "repetitions = 6")
        + """
[options.tiny-buffer]
sender.tcp.send_buffer = 2920
[options.cubic-again]
sender.tcp.congestion = "cubic"
"""
    )
    run(tmp_path, text)
    found = compare.load(tmp_path)
    goodput = {
        (pair.one, pair.other): pair for pair in found.pairs if pair.metric == "goodput"
    }  # fmt: skip
    assert len(goodput) == 6
    same = goodput["cubic", "cubic-again"]
    assert (same.differs, same.ratio, same.chance) == (False, 1.0, 1.0)
    slow = goodput["cubic", "tiny-buffer"]
    assert slow.differs
    assert slow.ratio < 0.7
    said = "\n".join(compare.lines(found, "goodput"))
    assert "cubic-again and cubic: no difference shown (p=1)" in said
    assert f"tiny-buffer has {slow.ratio - 1:+.1%} against cubic" in said
    cell = next(cell for cell in found.cells if cell.variant == "cubic")
    item = cell.intervals["goodput"]
    values = cell.values["goodput"]
    assert (item.low, item.high, item.count) == (min(values), max(values), 6)
    assert item.confidence == pytest.approx(0.96875)
    assert found.notes == [] or found.notes == [
        "runs were made with sources that differ from their commit"
    ]
    json.dumps(compare.as_json(found), allow_nan=False)


def test_what_is_not_done_yet_is_said(tmp_path):
    run(tmp_path)
    shutil.rmtree(tmp_path / "runs" / "cubic@lossy-002")
    found = compare.load(tmp_path)
    assert "1 runs are not done yet" in found.notes[0]
    assert any("too few runs for 95%" in note for note in found.notes)
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(LabError, match=r"no run in .* is done yet"):
        compare.load(tmp_path)


def test_samples_are_bounded():
    samples = Samples(1000)
    row = {"snd_una": 5, "snd_nxt": 9, "iss": 4, "state": "ESTABLISHED"}
    taken = 0
    time = 0
    while samples.interval < 8000:
        samples.take(time, row, 0)
        time += samples.interval
        taken += 1
        assert len(samples.rows) <= SAMPLES_MAX
    times = [float(item[0]) for item in samples.rows]
    assert taken > 2 * SAMPLES_MAX
    assert times == sorted(times)
    assert times[0] == 0.0


class Page(HTMLParser):
    """Every element with its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes) -> None:
        self.found.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.words += data


def test_the_report_is_one_file_with_every_plot(tmp_path):
    text = SMALL.replace('"small"', '"small"\nabout = "a <b> & c"')
    text += "[options.lite]\nsender.tcp.congestion = 'newreno'\n[impairments.clean]\n"
    run(tmp_path, text)
    source = render(compare.load(tmp_path))
    page = Page(source)
    for tag, attributes in page.found:
        assert tag not in ("script", "link", "img", "iframe", "object")
        assert not {"src", "href", "xlink:href"} & set(attributes)
    assert "url(" not in source
    assert "http" not in source
    plots = [item["aria-label"] for tag, item in page.found if item.get("class") == "plot"]
    for label in ("goodput of each variant", "cwnd and ssthresh", "srtt and rto"):
        assert sum(plot.startswith(label) for plot in plots) == 2  # one for each wire
    assert sum(plot.startswith("time-sequence graph of ") for plot in plots) == 2 * 3
    assert "a <b> & c" in page.words
    assert "6 runs" not in page.words
    assert "12 of 12 runs, in the simulator" in page.words
    assert "no difference shown" in page.words
    assert "delay = 0.01" in page.words  # the file itself


def test_a_tcp_without_a_congestion_window_has_a_report_too(tmp_path):
    text = SMALL.split("[options")[0] + "[implementations.lite]\n"
    text += 'both.tcp = "services.tcp_lite:create"\n'
    run(tmp_path, text)
    found = compare.load(tmp_path)
    assert found.cells[0].completed == 2
    plots = [item["aria-label"] for _, item in Page(render(found)).found if "aria-label" in item]
    assert not any(plot.startswith("cwnd") for plot in plots)
    assert any(plot.startswith("srtt") for plot in plots)


def test_samples_that_are_none_are_refused_by_name(tmp_path):
    run(tmp_path)
    for path in tmp_path.rglob("samples.csv"):
        path.write_text("time,what\n1,2\n")
    with pytest.raises(LabError, match=r"samples\.csv cannot be read"):
        render(compare.load(tmp_path))
