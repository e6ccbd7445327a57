"""What the user sees of a connection: its story as a live sequence diagram, and as a capture.

`Story` turns trace events into items, `Renderer` turns items into lines; both are pure. The
functions of the command line (`run_connect`, `run_demo`, `show_trace`) are imported when they are
called, because they need gRPC.
"""

from __future__ import annotations

from plywire.lab.story.focus import Focus
from plywire.lab.story.model import Story
from plywire.lab.story.render import Renderer

__all__ = ["Focus", "Renderer", "Story", "run_connect", "run_demo", "show_trace"]


def __getattr__(name: str) -> object:
    if name in ("run_connect", "run_demo", "show_trace"):
        from plywire.lab.story import commands

        return getattr(commands, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
