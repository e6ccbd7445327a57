"""What it costs that connections and sockets outlive kill -9: the same work with and without, in
turns.

`python -m benchmarks.survival` prints both and their ratio. Other load on the machine hits both
alike, because the turns alternate; the processor time of the tcp and app processes hardly feels it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import median

import click

from benchmarks.measure import cpu_seconds, measure_bulk, measure_connect, program
from plywire.lab.supervisor import Lab
from plywire.runtime.config import load_lab

WITHOUT, WITH = False, True


def lab(survive: bool) -> Lab:
    """The default lab, with or without regions of tcp and app."""
    config = load_lab()
    hosts = {
        name: replace(
            host, tcp=replace(host.tcp, survive=survive), app=replace(host.app, survive=survive)
        )
        for name, host in config.hosts.items()
    }
    return Lab(replace(config, hosts=hosts))


def measure_echo(lab: Lab, count: int) -> float:
    """Seconds from a byte's way there and back, the median."""
    with (
        program("echo", lab.target("h2"), "7003", wait=True),
        program("ask", lab.target("h1"), "10.0.0.2", "7003", str(count), wait=False) as client,
    ):
        return median(json.loads(client.stdout.readline())["times"])


def turn(survive: bool, connects: int, megabytes: int) -> dict[str, float]:
    """All measurements once, in a lab of their own."""
    with lab(survive) as running:
        pids = {role: [status.pid for status in running.status() if status.role == role]
                for role in ("tcp", "app")}  # fmt: skip
        connect = measure_connect(running, connects)["p50"]
        echo = measure_echo(running, connects)
        size = megabytes * 1_000_000
        before = {role: cpu_seconds(each) for role, each in pids.items()}
        rate = measure_bulk(running, size)
        used = {f"{role} processor time a byte": (cpu_seconds(each) - before[role]) / size
                for role, each in pids.items()}  # fmt: skip
    return {"connect": connect, "echo": echo, "bulk": rate, **used}


def compare(turns: int, connects: int, megabytes: int) -> dict[str, tuple[float, float]]:
    """Medians without and with, by what was measured."""
    found: dict[bool, list[dict[str, float]]] = {WITHOUT: [], WITH: []}
    for number in range(turns):
        for survive in (WITHOUT, WITH) if number % 2 else (WITH, WITHOUT):
            found[survive].append(turn(survive, connects, megabytes))
    return {
        what: tuple(median(each[what] for each in found[survive]) for survive in (WITHOUT, WITH))
        for what in found[WITH][0]
    }


def report(figures: dict[str, tuple[float, float]]) -> None:
    """Print a table of `compare`."""
    units = {"connect": (1e3, "ms"), "echo": (1e3, "ms"), "bulk": (8e-6, "Mbit/s")}
    click.echo(f"{'survival':28} {'without':>16} {'with':>16} {'change':>8}  goal")
    for what, (without, kept) in figures.items():
        factor, unit = units.get(what, (1e9, "ns"))
        change = kept / without - 1
        click.echo(f"{what:28} {f'{without * factor:.2f} {unit}':>16} "
                   f"{f'{kept * factor:.2f} {unit}':>16} {change:>+8.1%}  within 10 %")  # fmt: skip


@click.command()
@click.option("--turns", default=5, show_default=True, help="How often each.")
@click.option("--connects", default=300, show_default=True, help="How many connect() calls.")
@click.option("--megabytes", default=30, show_default=True, help="The size of the bulk transfer.")
def main(turns: int, connects: int, megabytes: int) -> None:
    """Measure what survival costs."""
    report(compare(turns, connects, megabytes))


if __name__ == "__main__":
    main()
