"""Layers that are killed are started again, and the lab goes on; none outlives its supervisor."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

import pytest
from exchange import works_again

from plywire.lab.rundir import supervisor_of
from plywire.lab.supervisor import Lab
from plywire.roles import LAYERS


@pytest.fixture(scope="module")
def lab():
    with Lab() as lab:
        yield lab


def healthy(lab: Lab) -> bool:
    return all(layer.state == "up" for layer in lab.status())


@pytest.mark.parametrize("role", LAYERS)
def test_killed_layer_comes_back_and_works(lab, role):
    before = lab.layer("h1", role)
    os.kill(before.pid, signal.SIGKILL)
    assert lab.wait_for(lambda lab: lab.layer("h1", role).restarts == before.restarts + 1)
    assert lab.wait_for(healthy)
    works_again(lab, 1000 + LAYERS.index(role))


def test_all_layers_killed_at_once(lab):
    restarts = sum(layer.restarts for layer in lab.status())
    for layer in lab.status():
        os.kill(layer.pid, signal.SIGKILL)
    assert lab.wait_for(
        lambda lab: sum(layer.restarts for layer in lab.status()) == restarts + 8 and healthy(lab),
        20,
    )
    works_again(lab, 2000)


def test_all_eight_die_with_their_supervisor(tmp_path):
    program = (
        "import sys; from plywire.lab.supervisor import Lab\n"
        "lab = Lab(directory=sys.argv[1]); lab.start()\n"
        "print(*[layer.pid for layer in lab.status()], flush=True); sys.stdin.read()"
    )
    directory = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        pids = [int(word) for word in holder.stdout.readline().split()]
        assert len(pids) == 8
        watched = [os.pidfd_open(pid) for pid in pids]
        holder.kill()
    deadline = time.monotonic() + 5
    for pidfd in watched:
        assert select.select([pidfd], [], [], max(0, deadline - time.monotonic()))[0]
        os.close(pidfd)
    assert supervisor_of(directory) is None
    with Lab(directory=directory) as lab:  # what it left is in nobody's way
        assert healthy(lab)
