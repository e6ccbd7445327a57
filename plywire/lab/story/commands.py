"""The commands that tell stories of a lab that is up: `plywire connect` and `plywire trace`."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

from plywire.client import Stack
from plywire.lab.control import LabClient
from plywire.lab.rundir import LabError
from plywire.lab.story.demo import run_demo
from plywire.lab.story.focus import Focus
from plywire.lab.story.live import Feed, Look, Player, capture_file, capture_to, wants_color
from plywire.lab.story.model import Story
from plywire.rpc import socket_pb2 as pb

__all__ = ["Look", "run_connect", "run_demo", "show_trace", "wants_color"]

_AFTER_END = 0.2
"""Seconds in which the last messages of a connection that has ended may still come."""
_CLOSE_LIMIT = 3.0
"""Seconds that the other side may take to close, too."""
_OPEN_LIMIT = 2.0
"""Seconds from the return of connect() until the other side, too, is ESTABLISHED, if it is seen."""


def run_connect(
    lab: LabClient,
    host: str,
    destination: str,
    port: int,
    *,
    bits: bool = False,
    width: int | None = None,
    every_hop: bool = False,
    output: str | Path | None = None,
    packets: bool = False,
    timeout: float | None = None,
) -> int:
    """Connect from `host` to a name or address and a port, show it live, close. The exit code.

    bits, width, every_hop: as in `Look`; output: the pcapng file (None: no capture); packets:
    also capture the boundary ip/link; timeout: of connect(), in seconds. 0 when the connection was
    made, 1 when not, 130 after Ctrl-C. Raises LabError.
    """
    look = Look(width or 0, bits, every_hop)
    hosts, target = _hosts(lab, host, destination)
    focus = Focus(host, name=destination)
    interrupted = False
    with contextlib.ExitStack() as closing:
        capture = path = None
        if output:
            file, path = closing.enter_context(capture_file(output, look))
            capture = capture_to(file, packets=packets)
        stack = closing.enter_context(Stack(target))
        feed = closing.enter_context(Feed(lab))
        story = Story(hosts, focus, every_hop=look.every_hop, capture=capture and capture.take)
        program = _Program(stack, feed, focus, destination, port, timeout)
        player = Player(story, look)
        program.start()
        try:
            _play(feed, player, program)
        except KeyboardInterrupt:
            interrupted = True
        player.finish()
    if program.connected.is_set() and not story.over:
        look.say("  the other side has not closed: its program need not have finished")
    if feed.lost:
        look.say(f"  {feed.lost} events were lost: the terminal is slower than the connection")
    if story.measure.called is not None:
        look.say(f"  trace of connect(): plywire trace {story.measure.called.trace}")
    if capture is not None:
        look.say(f"  capture: {path} ({capture.frames} frames)")
    if interrupted:
        look.say("interrupted")
        return 130
    if program.error is not None:
        look.say(f"connect to {destination}:{port} failed: {_reason(program.error)}")
    return 0 if program.connected.is_set() else 1


def show_trace(lab: LabClient, trace: int, *, bits: bool = False, width: int | None = None) -> int:
    """Draw what the lab kept of one trace id. The exit code; LabError when that is nothing."""
    look = Look(width or 0, bits, every_hop=True)
    events = sorted(lab.trace(trace), key=lambda event: event.time)
    if not events:
        raise LabError(
            f"the lab has kept nothing of trace {trace}: layers trace only while somebody observes"
            " (`plywire connect`), and the newest 100,000 events are kept"
        )
    hosts = tuple(dict.fromkeys(event.host for event in events))[:2]
    player = Player(Story(hosts, every_hop=look.every_hop), look)
    for event in events:
        player.take(event)
    player.finish()
    return 0


class _Program(threading.Thread):
    """The program whose connection is shown: resolve, socket, connect, close."""

    def __init__(
        self,
        stack: Stack,
        feed: Feed,
        focus: Focus,
        destination: str,
        port: int,
        timeout: float | None,
    ) -> None:
        super().__init__(name="program", daemon=True)
        self.connected = threading.Event()
        self.seen = threading.Event()
        """The connection has been seen to be ESTABLISHED on both sides: it may be closed."""
        self.error: OSError | None = None
        self._stack = stack
        self._feed = feed
        self._focus = focus
        self._destination = destination
        self._port = port
        self._timeout = timeout

    def run(self) -> None:
        try:
            address = self._stack.gethostbyname(self._destination)
            with self._stack.socket() as sock:
                self._focus.watch(self._stack.host, self._descriptor())
                sock.settimeout(self._timeout)
                sock.connect((address, self._port))
                self.connected.set()
                self.seen.wait(_OPEN_LIMIT)
        except OSError as error:
            self.error = error
        finally:
            self._feed.stop(after=_AFTER_END if self.error else _CLOSE_LIMIT)

    def _descriptor(self) -> int:
        """The number of this program's socket, the only one of its session."""
        api, session = self._stack.api, self._stack.session()
        sockets = api.call(api.stub.ListSockets, pb.ListSocketsRequest()).sockets
        return next(item.descriptor for item in sockets if item.session == session.name)


def _play(feed: Feed, player: Player, program: _Program) -> None:
    """Draw until the connection has ended on both sides, or nothing more can be expected."""
    for event in feed:
        player.take(event)
        if player.story.tabled:
            program.seen.set()
        if player.story.over:
            feed.stop(after=_AFTER_END)


def _hosts(lab: LabClient, host: str, destination: str) -> tuple[tuple[str, ...], str]:
    """The hosts to draw, the caller's first, and the target of the caller's API."""
    known = {item.name: item for item in lab.status().hosts}
    if host not in known:
        raise LabError(f"no host {host!r} in this lab; there are {', '.join(known)}")
    name = destination.lower().rstrip(".").removesuffix(".lab")
    for item in known.values():
        if destination in (address.partition("/")[0] for address in item.addresses):
            name = item.name
    shown = (host, name) if name in known and name != host else (host,)
    return shown, known[host].api


def _reason(error: OSError) -> str:
    """What an exception says to people: `Connection refused (h1 tcp: RST received)`."""
    text = error.strerror or str(error)
    if isinstance(error, TimeoutError | socket.gaierror):
        text = str(error.args[-1])
    notes = getattr(error, "__notes__", ())
    return f"{text} ({'; '.join(notes)})" if notes else text
