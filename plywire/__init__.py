"""plywire: a TCP/IP stack whose layers are processes."""

__version__ = "0.1.0"
