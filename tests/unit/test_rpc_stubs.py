"""The stubs in plywire/rpc are what proto/ says: `make proto` was run after the last change."""

from __future__ import annotations

from pathlib import Path

import plywire.rpc
from plywire.lab.simulator import Host
from plywire.rpc import socket_pb2
from plywire.rpc.generate import generate

FOLDER = Path(plywire.rpc.__file__).parent
STREAMS = {"OpenSession", "Transfer"}
"""RPCs that live as long as a client: the simulator has sessions, and no second way for bytes."""


def test_the_stubs_are_fresh():
    fresh = generate()
    assert {path.name for path in FOLDER.glob("*_pb2*.py")} == fresh.keys()
    for name, text in fresh.items():
        assert (FOLDER / name).read_text() == text, f"{name} is stale: run `make proto`"


def test_the_simulator_has_every_operation_of_the_service():
    rpcs = {
        method.name for method in socket_pb2.DESCRIPTOR.services_by_name["SocketService"].methods
    }
    operations = {name for name, value in vars(Host).items() if callable(value)}
    for rpc in rpcs - STREAMS:
        name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in rpc)[1:]
        assert name in operations, rpc
    assert {"open_session", "close_session"} <= operations
