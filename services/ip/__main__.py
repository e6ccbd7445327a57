"""The ip layer as a process."""

from plywire.runtime.process import main

main("ip")
