"""The commands that look at a lab that runs, in the words of ss, ping, ip and nstat.

docs/tools.md describes them. What takes long to import is imported by the command that needs it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from plywire.lab import nstat, views
from plywire.lab.rundir import LabError
from plywire.roles import IP, LAYERS, LINK

if TYPE_CHECKING:
    from plywire.lab.control import LabClient

FAILED = 1

_HOST = click.argument("host", default="")
_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.command()
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(0.0, 3600.0),
    default=0.5,
    show_default=True,
    help="Seconds that rates are taken over; 0: since the start.",
)
@_JSON
@click.pass_obj
def status(lab: str | None, interval: float, as_json: bool) -> int:
    """Show what runs. Exit code 1 when a layer is not well."""
    from plywire.lab import readings

    with _client(lab) as client:
        answer = client.status()
        before = readings.take(client, answer) if interval else []
        began = time.monotonic()
        if interval:
            time.sleep(interval)
            answer = client.status()
        now = readings.take(client, answer)
        rows = readings.layer_rows(now, before, time.monotonic() - began if interval else 0.0)
    if as_json:
        about = {"lab": answer.lab, "run_dir": answer.run_dir, "pid": answer.pid,
                 "uptime": round(answer.uptime, 3)}  # fmt: skip
        layers = []
        for reading, row in zip(now, rows, strict=True):
            runtime = reading.runtime or {"traffic": {}, "counters": {}}
            layers.append(
                {"host": reading.host, "layer": reading.layer, **row._asdict()}
                | {"state": reading.state, "drops_by_reason": nstat.drops(runtime["counters"])}
                | {"traffic": runtime["traffic"]}
            )
        click.echo(json.dumps(about | {"layers": layers}))
    else:
        for line in views.status_lines(answer, rows):
            click.echo(line)
    return 0 if all(row.health == "ok" for row in rows) else FAILED


@click.command()
@click.argument("name", metavar="[HOST]", default="")
@click.option("--host", default="", help="The same as HOST.")
@click.option("-l", "--listening", is_flag=True, help="Listening sockets only.")
@click.option("-a", "--all", "everything", is_flag=True, help="All sockets.")
@click.option("-i", "--info", is_flag=True, help="What TCP knows of each connection.")
@click.option("-o", "--options", "timers", is_flag=True, help="The timer that runs.")
@click.option("-e", "--extended", is_flag=True, help="The timer, and TCP's handle of the socket.")
@click.option("-H", "--no-header", is_flag=True, help="No first line.")
@click.option("-t", "--tcp", is_flag=True, help="TCP sockets: there are no others.")
@click.option("-n", "--numeric", is_flag=True, help="Numbers for names, as always here.")
@_JSON
@click.pass_obj
def ss(lab: str | None, name: str, host: str, as_json: bool, **letters: bool) -> None:
    """List TCP sockets as `ss -tn` does; `-i` tells more (ss -tin)."""
    from plywire.lab.sockets import sockets
    from plywire.lab.ss import Show, ss_json, ss_lines

    if name and host and name != host:
        raise click.UsageError("HOST and --host name two hosts: give one of them")
    show = Show(
        listening=letters["listening"], everything=letters["everything"], info=letters["info"],
        timers=letters["timers"], extended=letters["extended"], header=not letters["no_header"],
    )  # fmt: skip
    one = name or host
    with _client(lab) as client:
        rows = [row for item in _hosts(client, one) for row in sockets(client, item)]
    if as_json:
        click.echo(json.dumps(ss_json(rows, show)))
        return
    for line in ss_lines(rows, show, with_host=not one):
        click.echo(line)


@click.command()
@click.argument("host")
@click.argument("destination", metavar="DEST")
@click.option("-c", "--count", type=click.IntRange(1), help="Stop after so many (default: Ctrl-C).")
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(0.0, 3600.0),
    default=1.0,
    show_default=True,
    help="Seconds between two; 0: as fast as replies come.",
)
@click.option(
    "-s",
    "--size",
    type=click.IntRange(0, 65_507),
    default=56,
    show_default=True,
    help="Bytes of data.",
)
@click.option(
    "-W",
    "--timeout",
    type=click.FloatRange(0.001, 3500),
    default=10.0,
    show_default=True,
    help="Seconds to wait for a reply.",
)
@click.option("-w", "--deadline", type=click.FloatRange(0.001), help="Stop after so many seconds.")
@click.option("-q", "--quiet", is_flag=True, help="The first line and the summary only.")
@click.option("-O", "--outstanding", is_flag=True, help="Tell of requests without an answer yet.")
@click.option("-n", "--numeric", is_flag=True, help="Numbers for names, as always here.")
@click.option("--json", "json", is_flag=True, help="For programs: an object a line.")
@click.pass_obj
def ping(lab: str | None, host: str, destination: str, numeric: bool, **how: Any) -> int:
    """Ping DEST from HOST (ping h1 h2). Exit code 1 without a reply, 2 for another error."""
    from plywire.lab.ping import OTHER_ERROR, run_ping

    def say(text: str) -> None:
        click.echo(text)
        sys.stdout.flush()

    with _client(lab) as client:
        try:
            return run_ping(client, host, destination, say, **how)
        except LabError as error:
            click.echo(f"plywire: ping: {error}", err=True)
            return OTHER_ERROR


@click.command()
@_HOST
@_JSON
@click.pass_obj
def arp(lab: str | None, host: str, as_json: bool) -> None:
    """Show what the hosts, or HOST, know of their neighbours, as `ip neigh` does."""
    with _client(lab) as client:
        found = _describe(client, _hosts(client, host), LINK, "neighbours")
    if as_json:
        _say_json((name, views.neighbour_json(row)) for name, rows in found for row in rows)
        return
    lines = [(name, views.neighbour_line(row)) for name, rows in found for row in rows]
    for line in views.by_host(lines, with_host=not host):
        click.echo(line)


@click.command()
@_HOST
@click.option(
    "--table",
    type=click.Choice(["main", "local", "all"]),
    default="main",
    show_default=True,
    help="Routes to others, or to the hosts themselves.",
)
@click.option("--get", "address", metavar="ADDRESS", help="The way to one address.")
@_JSON
@click.pass_obj
def route(lab: str | None, host: str, table: str, address: str | None, as_json: bool) -> None:
    """Show the routes of the hosts, or of HOST, as `ip route` does."""
    with _client(lab) as client:
        names = _hosts(client, host)
        if address is not None:
            ways = [(name, client.ask(name, IP, "route", address)) for name in names]
        else:
            found = _describe(client, names, IP, "routes")
    if address is not None:
        if as_json:
            _say_json((name, {"dst": address, **way}) for name, way in ways)
            return
        lines = [(name, views.way_line(address, way)) for name, way in ways]
    else:
        tables = {"main": [False], "local": [True], "all": [True, False]}[table]
        chosen = [(name, row) for name, rows in found for local in tables
                  for row in views.routes_in_order(rows, local)]  # fmt: skip
        if as_json:
            _say_json((name, views.route_json(row)) for name, row in chosen)
            return
        lines = [(name, views.route_line(row)) for name, row in chosen]
    for line in views.by_host(lines, with_host=not host):
        click.echo(line)


@click.command()
@click.argument("layer", metavar="[HOST[.LAYER]]", default="")
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option("-z", "--zeros", is_flag=True, help="Counters at zero, too.")
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(0.001, 3600.0),
    help="What is counted in so many seconds, and the rate.",
)
@_JSON
@click.pass_obj
def counters(lab: str | None, layer: str, patterns: tuple[str, ...], zeros: bool,
             interval: float | None, as_json: bool) -> None:  # fmt: skip
    """Show the layers' counters as `nstat -a` does, drops by their reasons."""
    host, _, role = layer.partition(".")
    with _client(lab) as client:
        known = [item.name for item in client.status().hosts]
        if host and host not in known:  # `counters 'Tcp*'`: a pattern for all hosts
            if not any(letter in layer for letter in "*?["):
                raise LabError(_no_host(host, known))
            host, role, patterns = "", "", (layer, *patterns)
        if role and role not in LAYERS:
            raise LabError(f"no layer {role!r}; there are {', '.join(LAYERS)}")
        names = [host] if host else known
        roles = [role] if role else list(LAYERS)
        before = None
        began = time.monotonic()
        if interval:
            before = _counts(client, names, roles)
            time.sleep(interval)
        found = _counts(client, names, roles)
    rows = nstat.rows(
        found, zeros=zeros, patterns=patterns, before=before,
        seconds=time.monotonic() - began if interval else 0.0,
    )  # fmt: skip
    if as_json:
        click.echo(nstat.as_json(rows))
        return
    for line in nstat.lines(rows):
        click.echo(line)


@click.command()
@click.option("-f", "--file", type=click.Path(), help="The lab file that is meant to run.")
@_JSON
@click.pass_obj
def doctor(lab: str | None, file: str | None, as_json: bool) -> int:
    """Check this machine for what a lab needs. Exit code 1 when something is in the way."""
    from plywire.lab.doctor import FAIL, examine, finding_lines

    findings = examine(lab, file)
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings]))
    else:
        for line in finding_lines(findings):
            click.echo(line)
    return FAILED if any(finding.verdict == FAIL for finding in findings) else 0


@click.command()
@click.option("--listen", metavar="ADDRESS", help="Serve them over HTTP here, until Ctrl-C.")
@click.option("--connections", is_flag=True, help="rtt, cwnd and more of each connection, too.")
@click.pass_obj
def metrics(lab: str | None, listen: str | None, connections: bool) -> None:
    """Print the lab's metrics in Prometheus' text format, or serve them."""
    from plywire.lab import metrics

    with _client(lab) as client:
        if listen is None:
            click.echo(metrics.text(client, connections), nl=False)
        else:
            metrics.run(client, listen, click.echo)


def _client(lab: str | None) -> LabClient:
    from plywire.lab.control import find_lab

    return find_lab(lab or "default")


def _hosts(client: LabClient, host: str) -> list[str]:
    """The names of all hosts, or of the one that is meant."""
    known = [item.name for item in client.status().hosts]
    if host and host not in known:
        raise LabError(_no_host(host, known))
    return [host] if host else known


def _no_host(host: str, known: Iterable[str]) -> str:
    return f"no host {host!r} in this lab; there are {', '.join(known)}"


def _describe(client: LabClient, hosts: list[str], layer: str, topic: str) -> list[tuple[str, Any]]:
    answers = client.describe_many([(host, layer, topic) for host in hosts])
    for answer in answers:
        if isinstance(answer, LabError):
            raise answer
    return list(zip(hosts, answers, strict=True))


def _counts(client: LabClient, hosts: list[str], roles: list[str]) -> nstat.Counts:
    keys = [(host, role) for host in hosts for role in roles]
    answers = client.describe_many([(host, role, "counters") for host, role in keys])
    for answer in answers:
        if isinstance(answer, LabError):
            raise answer
    return dict(zip(keys, answers, strict=True))


def _say_json(rows: Iterable[tuple[str, dict[str, object]]]) -> None:
    click.echo(json.dumps([{"host": host, **row} for host, row in rows]))
