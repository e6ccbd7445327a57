"""Implementations that go wrong in one way each, for exchanges that must fail."""

from __future__ import annotations

import services.app
import services.tcp
from services.ip import create


def raises(host, rng, tracer):
    raise ValueError("cannot be made on a Saturday")


def cannot_read(host, rng, tracer):
    """Says that it reads ip's snapshots, and does not."""
    layer = create(host, rng, tracer)

    def restore(state, now):
        raise KeyError("routes")

    layer.restore = restore
    return layer


def talks(host, rng, tracer):
    """Prints, as a program does whose author wants to know something."""
    print("a word of its own")
    return create(host, rng, tracer)


def of_another_kind(host, rng, tracer):
    """Its snapshots are its own; ip's state can be made anew."""
    layer = create(host, rng, tracer)
    layer.state_format = "ip/another"
    return layer


def dies_at_work(host, rng, tracer):
    """Takes over, and fails as soon as it works."""
    return _dying(create(host, rng, tracer))


def tcp_dies_at_work(host, rng, tracer):
    """A tcp that does."""
    return _dying(services.tcp.create(host, rng, tracer))


def app_dies_at_work(host, rng, tracer):
    """An app that does."""
    return _dying(services.app.create(host, rng, tracer))


def _dying(layer):
    def outputs():
        raise RuntimeError("not what I expected")

    layer.outputs = outputs
    return layer
