"""Every implementation of a role that the conformance suite must pass, by its name.

A new implementation of a layer is one line here. What one does not owe stands in NOT_OFFERED.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from foreign import ForeignLayer

from plywire.config import HostConfig
from plywire.layer import Factory, Layer, Program
from plywire.registry import find
from plywire.roles import Role
from tests.node import needs_node

IMPLEMENTATIONS: dict[str, dict[str, str]] = {
    "link": {
        "ethernet": "services.link:create",
        "raw": "services.link.raw:create",
        "tunnel": "services.link_tunnel:create",
    },
    "ip": {"ipv4": "services.ip:create", "ip_js": "services.ip_js:PROGRAM"},
    "tcp": {"tcp": "services.tcp:create", "tcp_lite": "services.tcp_lite:create"},
    "app": {"app": "services.app:create"},
}
"""`module:factory` by role and name."""

ON_SOCKETS: dict[str, str] = {"tcp_host": "services.tcp_host:create"}
"""Those of tcp that have no ip below them: they owe the app boundary alone."""

NOT_OFFERED: dict[str, dict[str, str]] = {
    "services.ip_js:PROGRAM": {
        "fragments": "packets are neither cut nor put together: too long is refused",
        "core": "a program has a clock and randomness of its own, and no snapshot",
    },
}
"""By implementation: the parts of its role that it leaves out, and why. A test that is about such a
part names it (`offering(role, part)`) and is not made for that implementation."""


def offering(role: Role, *parts: str) -> list:
    """The implementations of a role that have these parts, as parameters of a test."""
    return [
        pytest.param(spec, id=name, marks=[needs_node] if isinstance(find(spec), Program) else [])
        for name, spec in IMPLEMENTATIONS[role].items()
        if not set(parts) & set(NOT_OFFERED.get(spec, ()))
    ]


@contextmanager
def making(role: Role, spec: str) -> Iterator[Factory]:
    """The factory of an implementation. A program is started once for each host that is asked for,
    and ended with the block."""
    found = find(spec)
    if not isinstance(found, Program):
        yield found
        return
    running: dict[str, ForeignLayer] = {}

    def create(host: HostConfig, *_: object) -> Layer:
        if host.name not in running:
            running[host.name] = ForeignLayer(role, spec, found, host)
        return running[host.name]

    try:
        yield create
    finally:
        for layer in running.values():
            layer.close()
