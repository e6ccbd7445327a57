"""`make bench`: plywire beside the floor of its own pipes, both measured in this run.

Prints a table, and with --json FILE writes the figures. Absolute numbers are this machine's; the
ratios are what carries over.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks import chain, rpc, survival
from benchmarks.measure import cpu_seconds, measure_bulk, measure_connect, percentile
from benchmarks.workload import PAUSE
from plywire.lab.supervisor import Lab

CONNECT_HOPS = 12
"""SYN down four layers and up four, SYN+ACK back: what a connect() must cross."""


def measure_idle(lab: Lab, seconds: float) -> float:
    """The share of one core that all layers and their supervisor use when nothing happens."""
    pids = [status.pid for status in lab.status()]
    own = time.process_time()
    before, start = cpu_seconds(pids), time.perf_counter()
    time.sleep(seconds)
    used = cpu_seconds(pids) - before + time.process_time() - own
    return used / (time.perf_counter() - start)


def measure_up() -> float:
    """Seconds that `plywire up` takes until the lab is ready."""
    with tempfile.TemporaryDirectory(prefix="plywire-bench-") as folder:
        environment = {**os.environ, "PLYWIRE_RUN_DIR": folder}
        command = [str(Path(sys.executable).parent / "plywire")]
        start = time.perf_counter()
        subprocess.run([*command, "up"], env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        subprocess.run([*command, "down"], env=environment, check=True, stdout=subprocess.DEVNULL)
    return seconds


@click.command()
@click.option("--connects", default=1000, show_default=True, help="How many connect() calls.")
@click.option("--megabytes", default=100, show_default=True, help="The size of the bulk transfer.")
@click.option("--json", "path", type=click.Path(dir_okay=False), help="Write the figures there.")
def main(connects: int, megabytes: int, path: str | None) -> None:
    """Measure plywire beside its floors."""
    click.echo(f"plywire bench: {platform.machine()}, {os.cpu_count()} cores, Python "
               f"{platform.python_version()}")  # fmt: skip
    hops = chain.hop_latency(CONNECT_HOPS, connects, PAUSE)
    calls = rpc.unary_latency(connects, PAUSE)
    single = chain.throughput(batch=1)
    batched = chain.throughput(batch=chain.BATCH)
    with Lab() as lab:
        connect = measure_connect(lab, connects)
        bulk = measure_bulk(lab, megabytes * 1_000_000)
        idle = measure_idle(lab, 10.0)
    up = measure_up()
    floor50 = percentile(hops, 0.5) + percentile(calls, 0.5)
    floor99 = percentile(hops, 0.99) + percentile(calls, 0.99)
    rows = [
        ("connect p50", f"{connect['p50'] * 1e3:.2f} ms", "12 raw hops + 1 gRPC call",
         f"{floor50 * 1e3:.2f} ms", f"{connect['p50'] / floor50:.2f} x", "<= 3 x"),
        ("connect p99", f"{connect['p99'] * 1e3:.2f} ms", "the same, p99",
         f"{floor99 * 1e3:.2f} ms", f"{connect['p99'] / floor99:.2f} x", ""),
        ("bulk", f"{bulk * 8e-6:.0f} Mbit/s", "8 raw hops, 1 packet a message",
         f"{single * 8e-6:.0f} Mbit/s", f"{bulk / single:.0%}", ">= 15 %"),
        ("bulk", f"{bulk * 8e-6:.0f} Mbit/s", f"8 raw hops, {chain.BATCH} packets a message",
         f"{batched * 8e-6:.0f} Mbit/s", f"{bulk / batched:.0%}", ""),
        ("idle lab", f"{idle:.2%} of a core", "", "", "", "< 1 %"),
        ("plywire up", f"{up:.2f} s", "", "", "", "<= 3 s"),
    ]  # fmt: skip
    click.echo(f"{'what':12} {'plywire':>16}  {'floor':34} {'':>12} {'ratio':>8}  goal")
    for what, mine, name, floor, ratio, goal in rows:
        click.echo(f"{what:12} {mine:>16}  {name:34} {floor:>12} {ratio:>8}  {goal}")
    cost = survival.compare(3, 200, 30)
    survival.report(cost)
    if path:
        figures = {
            "connect_p50_s": connect["p50"], "connect_p99_s": connect["p99"],
            "floor_p50_s": floor50, "floor_p99_s": floor99, "bulk_bytes_per_s": bulk,
            "chain_single_bytes_per_s": single, "chain_batched_bytes_per_s": batched,
            "idle_core_share": idle, "up_s": up,
            "survival": {what: {"without": a, "with": b} for what, (a, b) in cost.items()},
        }  # fmt: skip
        Path(path).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
