"""The libraries that a process of plywire runs with, for who looks after this machine."""

from __future__ import annotations

import zmq


def libzmq_version() -> str:
    """The version of the ZeroMQ library behind pyzmq."""
    return zmq.zmq_version()


def ipc_works() -> bool:
    """That library can use unix sockets, which a lab's pipes are."""
    return bool(zmq.has("ipc"))
