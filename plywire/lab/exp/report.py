"""`report.html`: what `compare` says, with plots, in one file that needs nothing else.

Plots over time are of one run of each cell: the one whose goodput is the median, or the next lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from plywire.lab.exp import svg
from plywire.lab.exp.compare import METRICS, CellResult, Comparison, verdict
from plywire.lab.exp.samples import read
from plywire.lab.exp.statistics import LEVEL
from plywire.lab.exp.svg import Plot, Point
from plywire.lab.rundir import LabError

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#b5579a", "#b58900", "#3a9ad9", "#7a5c3e", "#6b6b6b")
_SENT, _ACKED, _WINDOW, _AGAIN = "#0072b2", "#009e73", "#b58900", "#d55e00"
_STYLE = """
:root { --ink: #1d232a; --soft: #5b6670; --grid: #e4e8ec; --paper: #ffffff; --box: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #a4adb6; --grid: #343b43; --paper: #16191d; --box: #20252b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1360px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { margin-top: 2.4rem; }
h3 { margin: 1.4rem 0 .3rem; }
p.soft, figcaption { color: var(--soft); margin: .2rem 0 .6rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem 1.1rem .25rem 0; border-bottom: 1px solid var(--grid); }
td.n, th.n { text-align: right; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem 2rem; }
figure { margin: 0; flex: 0 1 640px; min-width: 0; }
svg.plot { max-width: 100%; height: auto; overflow: visible; }
svg.plot text { fill: var(--soft); font: 11.5px system-ui, sans-serif; }
svg.plot text.name { fill: var(--ink); font-size: 13px; }
svg.plot .grid { stroke: var(--grid); } svg.plot .axis, svg.plot .tick { stroke: var(--soft); }
.key { margin: 0 0 .2rem; } .key span { margin-right: 1.2rem; white-space: nowrap; }
.key i { display: inline-block; width: 22px; height: 0; border-top: 3px solid; margin-right: .4rem;
  vertical-align: middle; } .key i.dashed { border-top-style: dashed; }
.note { background: var(--box); padding: .5rem .8rem; border-radius: 6px; margin: .5rem 0; }
pre { background: var(--box); padding: .8rem; border-radius: 6px; overflow-x: auto;
  font-size: 13px; }
"""


class Trace(NamedTuple):
    """The samples of the run that stands for a cell. time: seconds."""

    cell: CellResult
    name: str
    color: str
    rows: list[dict[str, float | None]]

    @property
    def end(self) -> float:
        """The time of the last sample."""
        return self.rows[-1]["time_s"] or 0.0

    def line(self, column: str, unit: float) -> list[Point]:
        """A column over time, in a unit."""
        return [
            (row["time_s"], None if row[column] is None else row[column] / unit)
            for row in self.rows
        ]


def render(comparison: Comparison) -> str:
    """The whole page. Raises LabError when samples cannot be read."""
    experiment = comparison.experiment
    parts = [
        f"<h1>{escape(experiment.name)}</h1>",
        f'<p class="soft">{escape(experiment.about)}</p>' if experiment.about else "",
        f"<p>{escape(_summary(comparison))}</p>",
    ]
    parts += [f'<p class="note">{escape(note)}</p>' for note in comparison.notes]
    names = [variant.name for variant in experiment.variants]
    colors = {name: _COLORS[index % len(_COLORS)] for index, name in enumerate(names)}
    for impairment in experiment.impairments:
        cells = [cell for cell in comparison.cells if cell.impairment == impairment]
        parts.append(f"<h2>{escape(impairment)}</h2>")
        parts.append(_goodput(cells, colors))
        parts.append(_table(cells))
        parts.append(_verdicts(comparison, impairment))
        traces = [_trace(comparison.directory, cell, colors) for cell in cells if cell.records]
        traces = [trace for trace in traces if trace.rows]
        if traces:
            parts += [_over_time(traces), _sequences(traces)]
    parts.append(_origin(comparison))
    title = escape(f"{experiment.name}: plywire experiment")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _summary(comparison: Comparison) -> str:
    done = sum(len(cell.records) for cell in comparison.cells)
    expected = sum(cell.expected for cell in comparison.cells)
    where = {
        "simulator": "in the simulator, in virtual time",
        "lab": "in a lab of real processes",
    }[comparison.experiment.where]
    return f"{done} of {expected} runs, {where}."


def _goodput(cells: Sequence[CellResult], colors: dict[str, str]) -> str:
    rows = []
    for cell in cells:
        item = cell.intervals.get("goodput")
        shown = (item.median, item.low, item.high) if item else None
        rows.append((cell.variant, colors[cell.variant], cell.values.get("goodput", []), shown))
    plot = svg.intervals(rows, "goodput, Mbit/s", f"goodput of each variant: {_words(cells)}")
    return (
        f"<h3>Goodput</h3><figure>{plot}<figcaption>Each dot is a run, the stroke is the median,"
        f" the bar its {LEVEL:.0%} interval.</figcaption></figure>"
    )


def _words(cells: Sequence[CellResult]) -> str:
    return ", ".join(
        f"{cell.variant} {cell.intervals['goodput'].median:.4g}"
        for cell in cells
        if "goodput" in cell.intervals
    )


def _table(cells: Sequence[CellResult]) -> str:
    metrics = [name for name in METRICS if any(name in cell.intervals for cell in cells)]
    head = "".join(f'<th class="n">{name}, {METRICS[name][0]}</th>' for name in metrics)
    body = []
    for cell in cells:
        columns = []
        for metric in metrics:
            item = cell.intervals.get(metric)
            shown = f"{item.median:.4g} ({item.low:.4g} to {item.high:.4g})" if item else "-"
            columns.append(f'<td class="n">{shown}</td>')
        body.append(
            f"<tr><td>{escape(cell.variant)}</td><td>{cell.completed}/{cell.expected}</td>"
            f"{''.join(columns)}</tr>"
        )
    return f"<table><tr><th>variant</th><th>completed</th>{head}</tr>{''.join(body)}</table>"


def _verdicts(comparison: Comparison, impairment: str) -> str:
    pairs = [
        pair
        for pair in comparison.pairs
        if pair.impairment == impairment and pair.metric == "goodput"
    ]
    lines = "".join(f"<li>{escape(verdict(pair))}</li>" for pair in pairs)
    return f"<ul>{lines}</ul>" if lines else ""


def _trace(directory: Path, cell: CellResult, colors: dict[str, str]) -> Trace:
    ranked = sorted(cell.records, key=lambda record: record["results"]["goodput"])
    record = ranked[(len(ranked) - 1) // 2]
    path = directory / "runs" / record["name"] / "samples.csv"
    try:
        rows = list(read(path))
    except (ValueError, OSError) as error:
        raise LabError(f"{path} cannot be read: {error}") from None
    return Trace(cell, record["name"], colors[cell.variant], rows)


def _over_time(traces: Sequence[Trace]) -> str:
    """cwnd with ssthresh, and srtt with rto, of all variants together."""
    end = max(trace.end for trace in traces)
    windows = [y for trace in traces for _, y in trace.line("cwnd", 1000) if y is not None]
    found = []
    if windows:
        most = max(windows) * 1.08
        plot = Plot((0, end), (0, most), "seconds since connect()", "kB")
        for trace in traces:
            # Before the first loss it is as good as infinite: not drawn, nor is what leads there.
            line = [
                (x, y if y is not None and y <= most else None)
                for x, y in trace.line("ssthresh", 1000)
            ]
            plot.line(line, trace.color, dashed=True, width=1.2)
            plot.line(trace.line("cwnd", 1000), trace.color)
        found.append(_figure(plot.render("cwnd and ssthresh over time"), "cwnd and ssthresh",
                             _key(traces, "cwnd", "ssthresh")))  # fmt: skip
    times = [
        y
        for trace in traces
        for name in ("srtt_us", "rto_us")
        for _, y in trace.line(name, 1000)
        if y is not None
    ]
    if times:
        plot = Plot((0, end), (0, max(times) * 1.08), "seconds since connect()", "ms")
        for trace in traces:
            plot.line(trace.line("rto_us", 1000), trace.color, dashed=True, width=1.2)
            plot.line(trace.line("srtt_us", 1000), trace.color)
        found.append(_figure(plot.render("srtt and rto over time"), "srtt and rto",
                             _key(traces, "srtt", "rto")))  # fmt: skip
    return (
        "<h3>The sender over time</h3>"
        '<p class="soft">Of each variant the run with the median goodput, as the sending TCP keeps'
        f' it.</p><div class="plots">{"".join(found)}</div>'
    )


def _sequences(traces: Sequence[Trace]) -> str:
    """Time-sequence graphs, as tcptrace draws them from captures."""
    found = []
    for trace in traces:
        sent = trace.line("snd_nxt", 1000)
        window = [
            (row["time_s"],
             None if row["snd_wnd"] is None else (row["snd_una"] + row["snd_wnd"]) / 1000)
            for row in trace.rows
        ]  # fmt: skip
        again = [
            (row["time_s"], row["snd_una"] / 1000)
            for before, row in zip(trace.rows, trace.rows[1:], strict=False)
            if (row["retransmits"] or 0) > (before["retransmits"] or 0)
        ]
        most = max((y for _, y in sent if y is not None), default=1.0)
        plot = Plot((0, trace.end), (0, most * 1.05), "seconds since connect()", "kB of the stream")
        plot.line(window, _WINDOW, width=1.2)
        plot.line(sent, _SENT)
        plot.line(trace.line("snd_una", 1000), _ACKED)
        plot.crosses(again, _AGAIN)
        found.append(_figure(plot.render(f"time-sequence graph of {trace.name}"), trace.name, ""))
    key = "".join(
        _entry(name, color)
        for name, color in (
            ("sent (snd_nxt)", _SENT),
            ("acknowledged (snd_una)", _ACKED),
            ("window (snd_una + snd_wnd)", _WINDOW),
            ("crosses: sent again since the sample before", _AGAIN),
        )
    )
    return (
        "<h3>Time and sequence</h3>"
        f'<p class="key">{key}</p><div class="plots">{"".join(found)}</div>'
    )


def _figure(plot: str, caption: str, key: str) -> str:
    key = f'<p class="key">{key}</p>' if key else ""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{key}{plot}</figure>"


def _key(traces: Sequence[Trace], solid: str, dashed: str) -> str:
    own = "".join(_entry(trace.cell.variant, trace.color) for trace in traces)
    return own + _entry(solid, "currentColor") + _entry(dashed, "currentColor", dashed=True)


def _entry(name: str, color: str, *, dashed: bool = False) -> str:
    kind = ' class="dashed"' if dashed else ""
    return f'<span><i{kind} style="border-color:{color}"></i>{escape(name)}</span>'


def _origin(comparison: Comparison) -> str:
    """Where the numbers come from."""
    record = next(cell.records[0] for cell in comparison.cells if cell.records)
    machine = record["machine"]
    rows = [
        ("commit", str(record["commit"] or "not of a git checkout")),
        ("versions", ", ".join(f"{key} {value}" for key, value in record["versions"].items())),
        ("machine", f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"),
        ("first run", record["started"]),
    ]
    body = "".join(f"<tr><td>{key}</td><td>{escape(value)}</td></tr>" for key, value in rows)
    text = (comparison.directory / "experiment.toml").read_text(encoding="utf-8")
    return (
        f"<h2>Where this comes from</h2><table>{body}</table><h3>The experiment file</h3>"
        f"<pre>{escape(text)}</pre>"
    )
