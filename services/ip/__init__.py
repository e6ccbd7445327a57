"""The IP layer: IPv4, ICMP, fragments, routes and forwarding."""

from __future__ import annotations

from services.ip.core import IpLayer as IpLayer
from services.ip.core import create as create
