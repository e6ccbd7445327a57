"""Who the layers are, and which of them are joined by a pipe.

The lab (processes) and the simulator (objects) are both built from `PIPES`, top to bottom.
"""

from __future__ import annotations

Role = str

APP: Role = "app"
TCP: Role = "tcp"
IP: Role = "ip"
LINK: Role = "link"
WIRE: Role = "wire"  # not a process: what a link's devices hand in and take away

LAYERS: tuple[Role, ...] = (APP, TCP, IP, LINK)
PIPES: tuple[tuple[Role, Role], ...] = ((APP, TCP), (TCP, IP), (IP, LINK))

# Boundaries that carry packets drop when they are full, as a NIC ring does. The one that carries
# a byte stream never drops: credit bounds it.
LOSSLESS: frozenset[tuple[Role, Role]] = frozenset({(APP, TCP)})


def neighbours(role: Role) -> tuple[Role, ...]:
    """The layers that `role` shares a pipe with, the upper one first."""
    uppers = tuple(upper for upper, lower in PIPES if lower == role)
    lowers = tuple(lower for upper, lower in PIPES if upper == role)
    return uppers + lowers


def boundary(a: Role, b: Role) -> str:
    """The name of the boundary between two roles, the upper one first: `tcp/ip`, `link/wire`."""
    order = (*LAYERS, WIRE)
    upper, lower = sorted((a, b), key=order.index)
    return f"{upper}/{lower}"
