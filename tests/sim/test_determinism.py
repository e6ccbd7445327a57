"""Equal seeds, equal traces, byte for byte."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sim_programs import MS, Program, connected, exchange, two_hosts

from plywire.lab.simulator import World

WIRE = {
    "delay": 1 * MS,
    "jitter": 1 * MS,
    "loss": 0.1,
    "reorder": 0.1,
    "duplicate": 0.1,
    "corrupt": 0.05,
}


def digest(seed: int, **settings) -> str:
    """A whole lossy transfer, with a swap and a crash in it, as the hash of its trace."""
    world = World(seed, **settings)
    total = hashlib.sha256()
    world.observe(lambda event: total.update(repr(event).encode()))
    h1, h2 = two_hosts(world)
    client, server = connected(world, h1, h2)
    world.wire("lan", **WIRE)
    programs = Program(h1, client, b"u" * 60_000), Program(h2, server, b"d" * 40_000)
    world.advance(20 * MS)
    h1.replace("tcp")
    h2.crash("link")
    exchange(world, *programs)
    return total.hexdigest()


@pytest.mark.parametrize("settings", [{}, {"strict": True}, {"hop_delay": 50_000}])
def test_the_same_seed_gives_the_same_trace(settings):
    assert digest(42, **settings) == digest(42, **settings)


def test_the_same_seed_gives_the_same_trace_in_another_process():
    program = "import test_determinism; print(test_determinism.digest(42))"
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": str(Path(__file__).parent)}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == digest(42)


def test_another_seed_gives_another_trace():
    assert digest(42) != digest(43)


def test_the_envelope_changes_nothing():
    assert digest(42) == digest(42, strict=True)


def test_a_capture_of_the_same_seed_is_the_same_file(tmp_path):
    files = []
    for name in ("one", "two"):
        world = World(3)
        with world.capture(tmp_path / name):
            h1, h2 = two_hosts(world)
            connected(world, h1, h2)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def test_watching_changes_nothing():
    def frames(watched: bool) -> list:
        world = World(9)
        if watched:
            world.observe()
        h1, h2 = two_hosts(world)
        world.wire("lan", **WIRE)
        client, server = connected(world, h1, h2)
        exchange(world, Program(h1, client, b"x" * 30_000), Program(h2, server, b""))
        return world.wire("lan").take()

    assert frames(False) == frames(True)
