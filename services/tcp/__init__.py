"""TCP (RFC 9293) as a layer: a pure core."""

from __future__ import annotations

import random

from plywire.config import HostConfig
from plywire.trace import Tracer
from services.tcp.core import TcpLayer

__all__ = ["create"]


def create(host: HostConfig, rng: random.Random, tracer: Tracer) -> TcpLayer:
    """A host's TCP."""
    return TcpLayer(host, rng, tracer)
