"""A link without Ethernet and ARP: IP packets, each in a UDP datagram."""

from services.link_tunnel.core import create

__all__ = ["create"]
