"""A story while it happens: events from the lab's control service, lines to a terminal."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self, TextIO

import grpc

from plywire.lab.control import LabClient, from_proto
from plywire.lab.rundir import LabError
from plywire.lab.story.capture import Capture
from plywire.lab.story.items import Item, Summary
from plywire.lab.story.model import Story
from plywire.lab.story.render import ASCII, UNICODE, Renderer
from plywire.rpc import control_pb2 as pb
from plywire.trace import Event

READY_LIMIT = 10.0
"""Seconds that the layers may take to begin to trace."""
_WIDTH = 100
_WIDEST = 140


def wants_color(*, terminal: bool, environment: Mapping[str, str]) -> bool:
    """Colour is for a terminal, unless NO_COLOR (https://no-color.org) is set or it cannot."""
    return terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


@dataclass(frozen=True)
class Look:
    """How a story is drawn. width: 0 for 100, or what the terminal has; bits: the bit tables;
    every_hop: fold nothing; out: where to."""

    width: int = 0
    bits: bool = False
    every_hop: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)

    def renderer(self, hosts: tuple[str, ...]) -> Renderer:
        """A renderer for these hosts that suits the output."""
        terminal = self.out.isatty()
        columns = shutil.get_terminal_size((_WIDTH, 24)).columns if terminal else _WIDTH
        encoding = (getattr(self.out, "encoding", None) or "ascii").lower()
        return Renderer(
            hosts,
            width=self.width or min(columns, _WIDEST),
            color=wants_color(terminal=terminal, environment=os.environ),
            glyphs=UNICODE if encoding.startswith("utf") else ASCII,
            bits=self.bits,
        )

    def say(self, *lines: str) -> None:
        """Print at once: who watches wants to see it now."""
        for line in lines:
            self.out.write(line + "\n")
        self.out.flush()


class Player:
    """Feeds a story and prints what it yields."""

    def __init__(self, story: Story, look: Look) -> None:
        self.story = story
        self._look = look
        self._renderer = look.renderer(story.hosts)
        look.say(*self._renderer.head())

    def take(self, event: Event) -> None:
        """Draw what this event adds."""
        self._draw(self.story.feed(event))

    def finish(self) -> Summary:
        """Draw the end."""
        items = self.story.finish()
        self._draw(items)
        return items[-1]

    def _draw(self, items: list[Item]) -> None:
        for item in items:
            self._look.say(*self._renderer.lines(item))


class Feed:
    """The events of a lab as they happen; a context manager, entered when all layers trace.

    Iterating waits for events. It ends when `stop` was called, or its time has come: from another
    thread or in advance.
    """

    def __init__(self, lab: LabClient, hosts: tuple[str, ...] = ()) -> None:
        self.lost = 0
        """Events that the lab had to drop because this listener was too slow."""
        self.stopped = False
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._ends = 0.0
        self._call = lab.stub.Observe(pb.ObserveRequest(hosts=hosts))

    def __enter__(self) -> Self:
        self.stop(after=READY_LIMIT)
        try:
            first = next(self._responses(), None)
        except BaseException:
            self._call.cancel()
            raise
        if first is None or not first.ready:
            raise LabError(f"not every layer traces after {READY_LIMIT:g} s: see `plywire status`")
        self._keep_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._keep_on()
        self._call.cancel()

    def __iter__(self) -> Iterator[Event]:
        for response in self._responses():
            if response.WhichOneof("item") == "event":
                yield from_proto(response.event)
            self.lost += response.dropped

    def stop(self, after: float = 0.0) -> None:
        """End the iteration, at once or in so many seconds; the earliest word counts."""
        end = time.monotonic() + after
        with self._lock:
            if self._timer is not None and end >= self._ends:
                return
            self._drop_timer()
            self._ends = end
            self._timer = threading.Timer(after, self._end)
            self._timer.daemon = True
            self._timer.start()

    def _keep_on(self) -> None:
        with self._lock:
            self._drop_timer()

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self.stopped = True
        self._call.cancel()

    def _responses(self) -> Iterator[pb.ObserveResponse]:
        try:
            yield from self._call
        except grpc.RpcError as error:
            if not self.stopped:
                raise LabError(f"the lab stopped telling: {error.details()}") from None


@contextlib.contextmanager
def capture_file(wanted: str | Path, look: Look) -> Iterator[tuple[BinaryIO, Path]]:
    """An open file for a capture: the one wanted, else one in a temporary directory, which is said.

    Raises LabError when neither can be written.
    """
    path, file = Path(wanted).absolute(), None
    try:
        file = path.open("wb")
    except OSError as error:
        look.say(f"{path} cannot be written ({error.strerror}): the capture goes elsewhere")
    if file is None:
        try:
            number, name = tempfile.mkstemp(prefix="plywire-", suffix=".pcapng")
        except OSError as error:
            raise LabError(f"no place for the capture: {error}; name one with -o") from None
        path, file = Path(name), os.fdopen(number, "wb")
    with file:
        yield file, path


def capture_to(file: BinaryIO, *, packets: bool = False) -> Capture:
    """A capture whose times are those of the day; the lab's clock counts from the boot."""
    return Capture(file, offset=time.time_ns() - time.monotonic_ns(), packets=packets)
