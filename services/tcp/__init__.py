"""TCP (RFC 9293) as a layer: a pure core."""

from __future__ import annotations

import random

from plywire.config import HostConfig
from plywire.errors import ConfigError
from plywire.trace import Tracer
from services.tcp.congestion import ALGORITHMS
from services.tcp.core import TcpLayer

__all__ = ["create"]


def create(host: HostConfig, rng: random.Random, tracer: Tracer) -> TcpLayer:
    """A host's TCP. Raises ConfigError for a congestion control that is not there."""
    if host.tcp.congestion not in ALGORITHMS:
        known = ", ".join(ALGORITHMS)
        reason = f"{host.tcp.congestion!r} is unknown; there are {known}"
        raise ConfigError(f"hosts.{host.name}.tcp.congestion", reason)
    return TcpLayer(host, rng, tracer)
