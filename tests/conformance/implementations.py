"""Every implementation of a role that the conformance suite must pass, by its name.

A new implementation of a layer is one line here.
"""

from __future__ import annotations

IMPLEMENTATIONS: dict[str, dict[str, str]] = {
    "link": {
        "ethernet": "services.link:create",
        "raw": "services.link.raw:create",
        "tunnel": "services.link_tunnel:create",
    },
    "ip": {"ipv4": "services.ip:create"},
    "tcp": {"tcp": "services.tcp:create", "tcp_lite": "services.tcp_lite:create"},
    "app": {"app": "services.app:create"},
}
"""`module:factory` by role and name."""

ON_SOCKETS: dict[str, str] = {"tcp_host": "services.tcp_host:create"}
"""Those of tcp that have no ip below them: they owe the app boundary alone."""
