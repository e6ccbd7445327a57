"""A second TCP: stop-and-wait, no options but MSS. Other choices, the same rules (RFC 9293)."""

from __future__ import annotations

import random

from plywire.config import HostConfig
from plywire.trace import Tracer
from services.tcp_lite.core import TcpLite

__all__ = ["create"]


def create(host: HostConfig, rng: random.Random, tracer: Tracer) -> TcpLite:
    """A host's TCP."""
    return TcpLite(host, rng, tracer)
