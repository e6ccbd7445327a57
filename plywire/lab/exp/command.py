"""`plywire exp`: run experiments, and say what they show."""

from __future__ import annotations

import json
import sys
import time
import tomllib
from pathlib import Path

import click

from plywire.errors import ConfigError
from plywire.lab.exp import compare as comparing
from plywire.lab.exp.compare import METRICS
from plywire.lab.exp.file import LAB, SIMULATOR, parse
from plywire.lab.exp.folder import Folder, write_text
from plywire.lab.exp.report import render
from plywire.lab.exp.runner import clock, run_all


@click.group()
def exp() -> None:
    """Experiments: variants compared, run after run, with numbers at the end."""


@exp.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("-o", "--output", metavar="DIR", type=click.Path(path_type=Path, file_okay=False),
              help="Where the runs go (default: exp/NAME).")  # fmt: skip
@click.option("--where", type=click.Choice((SIMULATOR, LAB)), help="Instead of what FILE says.")
def run(file: Path, output: Path | None, where: str | None) -> None:
    """Do the runs of FILE that are not in DIR yet.

    Interrupted, the same command goes on where it was.
    """
    try:
        text = file.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(str(file), f"not TOML: {error}") from None
    experiment = parse(data, str(file), where or "")
    directory = output or Path("exp") / experiment.name
    began = time.monotonic()
    progress = _Progress()
    try:
        with Folder(directory, experiment, text) as folder:
            count = run_all(experiment, folder, progress.say)
    except KeyboardInterrupt:
        progress.end()
        click.echo("plywire: interrupted; the same command goes on with the rest", err=True)
        raise
    finally:
        progress.end()
    click.echo(f"{count} runs in {clock(time.monotonic() - began)}; now: plywire exp compare"
               f" {directory}")  # fmt: skip


@exp.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--metric", type=click.Choice(tuple(METRICS)), default="goodput", show_default=True,
              help="What is compared.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Every metric, as JSON.")
def compare(directory: Path, metric: str, as_json: bool) -> None:
    """Say what the runs in DIR show, and draw it: DIR/report.html."""
    found = comparing.load(directory)
    if as_json:
        click.echo(json.dumps(comparing.as_json(found), indent=2))
        return
    report = directory / "report.html"
    write_text(report, render(found))
    for line in comparing.lines(found, metric):
        click.echo(line)
    click.echo(f"\nplots: {report}")


class _Progress:
    """Lines on standard error: one that changes on a terminal, one after the other elsewhere."""

    def __init__(self) -> None:
        self._changing = sys.stderr.isatty()
        self._open = False

    def say(self, line: str) -> None:
        if self._changing:
            click.echo(f"\r\x1b[K{line}", err=True, nl=False)
            self._open = True
        else:
            click.echo(line, err=True)

    def end(self) -> None:
        """Leave the last line as it is."""
        if self._open:
            click.echo(err=True)
            self._open = False
