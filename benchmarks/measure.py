"""Measurements of a running lab, with programs that are processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from plywire.lab.supervisor import Lab


@contextmanager
def program(*arguments: str, wait: bool) -> Iterator[subprocess.Popen]:
    """A process of benchmarks.workload; with wait, one that has said that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.workload", *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if wait and process.stdout.readline() != "ready\n":
            raise click.ClickException(f"the program {arguments[0]} did not start")
        yield process
    finally:
        process.kill()
        process.communicate()


def percentile(times: list[float], share: float) -> float:
    return times[min(len(times) - 1, int(len(times) * share))]


def measure_connect(lab: Lab, count: int) -> dict[str, float]:
    with (
        program("accept", lab.target("h2"), "7001", wait=True),
        program("connect", lab.target("h1"), "10.0.0.2", "7001", str(count), wait=False) as client,
    ):
        times = json.loads(client.stdout.readline())["times"]
    return {"p50": percentile(times, 0.5), "p99": percentile(times, 0.99)}


def measure_bulk(lab: Lab, size: int) -> float:
    """Bytes a second, host to host, as the receiving program counts them."""
    with (
        program("receive", lab.target("h2"), "7002", wait=True) as receiver,
        program("send", lab.target("h1"), "10.0.0.2", "7002", str(size), wait=False),
    ):
        result = json.loads(receiver.stdout.readline())
    return result["bytes"] / result["seconds"]


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
