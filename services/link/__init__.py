"""The link layer: frames on a wire below, datagrams to and from ip above."""

from services.link.core import create

__all__ = ["create"]
