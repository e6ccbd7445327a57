"""The tcp layer as a process."""

from plywire.runtime.process import main

main("tcp")
