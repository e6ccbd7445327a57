"""A TCP that is none: the operating system's own sockets, on its loopback addresses."""

from services.tcp_host.core import create

__all__ = ["create"]
