"""A lab whose hosts run different TCPs, as processes: the lab file names the other one."""

from __future__ import annotations

import tomllib

import pytest

from plywire.config import parse
from plywire.lab.supervisor import Lab
from tests.process.programs import digest
from tests.process.running import program

LAB = """
[wires.lan]

[hosts.h1]
interfaces = [{ address = "10.0.0.1/24" }]
implementations = { tcp = "services.tcp_lite:create" }

[hosts.h2]
interfaces = [{ address = "10.0.0.2/24" }]
"""
SIZE = 200_000


@pytest.fixture(scope="module")
def mixed():
    with Lab(parse(tomllib.loads(LAB), "lite.toml")) as lab:
        yield lab


def test_the_lab_says_which_tcp_is_which(mixed):
    assert mixed.layer("h1", "tcp").implementation == "services.tcp_lite:create"
    assert mixed.layer("h2", "tcp").implementation == "services.tcp:create"


@pytest.mark.parametrize(("sender", "receiver"), [("h1", "h2"), ("h2", "h1")])
def test_bytes_arrive_as_they_were_sent(mixed, sender, receiver):
    address = {"h1": "10.0.0.1", "h2": "10.0.0.2"}[receiver]
    with program("receiver", mixed.target(receiver), 0, 1) as taking:
        port = taking.expect("listening")["port"]
        with program("sender", mixed.target(sender), address, port, SIZE) as giving:
            giving.expect("connected")
            taking.expect("progress")
            assert taking.expect("end") == {"bytes": SIZE, "sha256": digest(SIZE)}
            giving.expect("sent")
            giving.expect("closed")
