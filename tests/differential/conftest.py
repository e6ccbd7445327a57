import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from worlds import World

from plywire.client import Stack
from plywire.lab.supervisor import Lab
from plywire.runtime.config import load_lab

HOST_LAB = Path(__file__).resolve().parents[2] / "examples/host.toml"


@pytest.fixture(scope="session")
def host_stacks():
    """A client's Stack on each host of a lab whose TCP is the operating system's, by name."""
    with Lab(load_lab(HOST_LAB)) as lab, ExitStack() as opened:
        yield {name: opened.enter_context(Stack(lab.target(name))) for name in lab.config.hosts}


@pytest.fixture(params=["kernel", "plywire", "tcp_host"])
def world(request):
    if request.param == "kernel":
        world = World("kernel", socket, socket, "127.0.0.1")
    elif request.param == "tcp_host":
        stacks = request.getfixturevalue("host_stacks")
        world = World("tcp_host", stacks["h1"], stacks["h2"], "10.0.0.2")
    else:
        stacks = request.getfixturevalue("stacks")
        world = World("plywire", stacks["h1"], stacks["h2"], "10.0.0.2")
    yield world
    world.close()
