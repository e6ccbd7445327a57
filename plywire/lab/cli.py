"""The command `plywire`. docs/lab.md describes it.

Exit codes: 0 done; 1 it failed; 2 the command line is wrong; 3 no lab is up; 4 a lab is up already;
130 interrupted. Every error is one line on standard error. Modules that take long to import are
imported by the command that needs them.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from plywire.errors import ConfigError, SocketError
from plywire.lab.rundir import LabError, LabIsUp, NoLab

FAILED, USAGE, NO_LAB, IS_UP, INTERRUPTED = 1, 2, 3, 4, 130


def main() -> NoReturn:
    """Run the command line and exit."""
    try:
        code = cli(prog_name="plywire", standalone_mode=False) or 0
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "plywire"
        code = _complain(f"{error.format_message().rstrip('.')} (see `{path} --help`)", USAGE)
    except click.ClickException as error:
        code = _complain(error.format_message(), FAILED)
    except NoLab as error:
        code = _complain(str(error), NO_LAB)
    except LabIsUp as error:
        code = _complain(str(error), IS_UP)
    except (_EnoughRead, BrokenPipeError):  # the latter from the flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except (LabError, ConfigError, SocketError, OSError) as error:
        code = _complain(str(error), FAILED)
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    sys.exit(code)


ELSEWHERE: dict[str, str] = {
    "capture": "plywire.lab.capture.command:capture",
    "clock": "plywire.lab.clock:clock",
    "exp": "plywire.lab.exp.command:exp",
    "impair": "plywire.lab.impair:impair",
    "swap": "plywire.lab.swap_command:swap",
    **{
        name: f"plywire.lab.tools:{name}"
        for name in ("status", "ss", "ping", "arp", "route", "counters", "doctor", "metrics")
    },
}
"""Commands that have a module of their own, imported when they are used: name -> module:command."""


class _EnoughRead(Exception):
    """Nobody reads standard output any more, as in `plywire logs | head`: that is no failure."""


@contextmanager
def _readers_may_leave() -> Iterator[None]:
    """click itself would end the program with 1."""
    try:
        yield
    except BrokenPipeError:
        raise _EnoughRead from None


class _Group(click.Group):
    """A group that also has the commands of ELSEWHERE."""

    def make_context(self, *arguments: Any, **fields: Any) -> click.Context:
        with _readers_may_leave():  # --help is printed here
            return super().make_context(*arguments, **fields)

    def invoke(self, context: click.Context) -> Any:
        with _readers_may_leave():
            return super().invoke(context)

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({*super().list_commands(context), *ELSEWHERE})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in ELSEWHERE:
            return super().get_command(context, name)
        module, _, attribute = ELSEWHERE[name].partition(":")
        return getattr(importlib.import_module(module), attribute)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--lab", metavar="NAME", envvar="PLYWIRE_LAB", help="Which lab (PLYWIRE_LAB).")
@click.option("--target", metavar="ADDRESS",
              help="The lab whose control service is at HOST:PORT (PLYWIRE_TARGET).")  # fmt: skip
@click.version_option(package_name="plywire", message="%(package)s %(version)s")
@click.pass_context
def cli(context: click.Context, lab: str | None, target: str | None) -> None:
    """A TCP/IP stack whose layers are processes, joined by pipes that can be watched.

    A lab is a few hosts of four processes each (app, tcp, ip, link) on this machine.
    """
    named = context.get_parameter_source("lab") is click.core.ParameterSource.COMMANDLINE
    if target and named:
        raise click.UsageError("--lab and --target name two labs: give one of them")
    if target:
        os.environ["PLYWIRE_TARGET"] = target
    elif named:
        os.environ.pop("PLYWIRE_TARGET", None)
    context.obj = lab


_LOOK = (
    click.option("--bits", is_flag=True, help="TCP headers as a table with bit widths."),
    click.option("--width", type=click.IntRange(60, 300), help="Columns (default: the terminal)."),
)
_CAPTURE = (
    click.option("--every-hop", is_flag=True, help="Fold nothing: a line for each hop."),
    click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False),
                 help="Write the pcapng here."),
    click.option("--packets", is_flag=True, help="Capture the packets between ip and link too."),
)  # fmt: skip


def _with(options: Sequence[Callable]) -> Callable:
    """The decorators in `options`, all of them."""

    def decorate(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@cli.command()
@click.option("-f", "--file", type=click.Path(path_type=Path), help="The lab file (lab.toml).")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Start this host of the lab alone (may be repeated).",
)
@click.option("--metrics", metavar="ADDRESS", help="Serve metrics here (127.0.0.1:9464).")
@click.option("--foreground", is_flag=True, help="Stay, and end the lab on Ctrl-C.")
@click.pass_obj
def up(
    lab: str | None,
    file: Path | None,
    hosts: tuple[str, ...],
    metrics: str | None,
    foreground: bool,
) -> None:
    """Start a lab and return when it is ready."""
    from plywire.lab import daemon, views

    if target := os.environ.get("PLYWIRE_TARGET"):
        raise click.UsageError(
            f"every command is for the lab at {target} (PLYWIRE_TARGET): unset that to start one"
        )
    began = time.monotonic()

    def ready(config, directory: Path) -> None:
        seconds = time.monotonic() - began
        for line in views.up_lines(config, directory, seconds):
            click.echo(line)
        sys.stdout.flush()

    if foreground:
        daemon.run(file, lab, ready, hosts, metrics)
    else:
        ready(*daemon.start(file, lab, hosts, metrics))


@cli.command()
@click.pass_obj
def down(lab: str | None) -> None:
    """End the lab and wait until it is gone."""
    with _client(lab) as client:
        pid = client.shutdown()
    click.echo(f"lab {lab or 'default'} is down (was pid {pid})")


@cli.command()
@click.argument("host")
@click.argument("destination", metavar="DEST:PORT")
@_with(_LOOK + _CAPTURE)
@click.option("--timeout", type=click.FloatRange(min=0.0, min_open=True),
              help="Seconds to wait (default: as long as TCP tries).")  # fmt: skip
@click.pass_obj
def connect(lab: str | None, host: str, destination: str, **look: Any) -> int:
    """Connect from HOST to DEST:PORT and draw what happens (connect h1 h2:80)."""
    name, colon, port = destination.rpartition(":")
    if not colon or not name or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise click.UsageError(f"{destination!r} is not DEST:PORT, as in h2:80")
    from plywire.lab.story import run_connect

    with _client(lab) as client:
        return run_connect(client, host, name, int(port), **look)


@cli.command()
@_with(_LOOK + _CAPTURE)
def demo(**look: Any) -> int:
    """Fetch http://h2.lab/ in a lab of its own and draw all of it."""
    from plywire.lab.story import run_demo

    return run_demo(**look)


@cli.command()
@click.argument("trace_id", metavar="ID")
@_with(_LOOK)
@click.pass_obj
def trace(lab: str | None, trace_id: str, bits: bool, width: int | None) -> int:
    """Draw the events of one trace id that were observed lately."""
    try:
        number = int(trace_id, 0)
    except ValueError:
        number = -1
    if not 0 < number < 1 << 64:
        raise click.UsageError(f"{trace_id!r} is not a trace id, as in 123456 or 0x1e240")
    from plywire.lab.story import show_trace

    with _client(lab) as client:
        return show_trace(client, number, bits=bits, width=width)


@cli.command()
@click.argument("url")
@click.option("--host", help="The host that fetches (default: the lab's first).")
@click.option("--timeout", type=click.FloatRange(min=0.0, min_open=True), default=60.0,
              show_default=True, help="Seconds.")  # fmt: skip
@click.pass_obj
def get(lab: str | None, url: str, host: str | None, timeout: float) -> int:
    """Fetch an http:// URL over plywire; the body goes to standard output."""
    from plywire.lab.fetch import fetch

    with _client(lab) as client:
        target = client.target(host)
    response = fetch(target, url, timeout, sys.stdout.buffer)
    if response.status >= 400:
        return _complain(f"{url}: HTTP {response.status} {response.reason}", FAILED)
    return 0


@cli.command()
@click.argument("layer", metavar="[HOST[.LAYER]]", default="")
@click.option("-n", "--lines", type=click.IntRange(1, 100_000), default=100, show_default=True,
              help="The last lines of each layer.")  # fmt: skip
@click.option("-f", "--follow", is_flag=True, help="Go on with lines to come.")
@click.pass_obj
def logs(lab: str | None, layer: str, lines: int, follow: bool) -> None:
    """Show what the layers logged."""
    host, _, role = layer.partition(".")
    with _client(lab) as client:
        for line in client.logs(host, role, lines, follow):
            click.echo(line.text)
            if follow:
                sys.stdout.flush()


def _client(lab: str | None):
    from plywire.lab.control import find_lab

    return find_lab(lab or "default")


def _complain(text: str, code: int) -> int:
    click.echo(f"plywire: {' '.join(text.split())}", err=True)
    return code
