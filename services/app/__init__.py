"""The app layer: descriptors, blocking calls and names, in front of TCP."""

from __future__ import annotations

import random

from plywire.config import HostConfig
from plywire.trace import Tracer
from services.app.core import AppLayer


def create(host: HostConfig, rng: random.Random, tracer: Tracer) -> AppLayer:
    """The socket layer of `host`."""
    return AppLayer(host, rng, tracer)
