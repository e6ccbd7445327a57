"""Hosts of four layers in one process and in virtual time; docs/simulator.md is the tour."""

from __future__ import annotations

from plywire.lab.simulator.host import Host
from plywire.lab.simulator.wire import Sent, Wire
from plywire.lab.simulator.world import World

__all__ = ["Host", "Sent", "Wire", "World"]
