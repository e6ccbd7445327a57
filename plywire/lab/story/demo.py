"""`plywire demo`: a lab of its own, a server and a client program, and what happens between."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from plywire.lab.control import LabClient
from plywire.lab.rundir import LabError
from plywire.lab.service import Service
from plywire.lab.story.live import Feed, Look, Player, capture_file, capture_to
from plywire.lab.story.model import Story
from plywire.lab.supervisor import Lab
from plywire.roles import APP, LAYERS

CLIENT, SERVER, PORT = "h1", "h2", 80
CAPTURE = "demo.pcapng"
URL = "http://h2.lab/"
_PROGRAMS = "plywire.lab.story.programs"
_MAX_LINES = 40
_AFTER_END = 0.2
_CLOSE_LIMIT = 3.0
_LEAVE_LIMIT = 5.0


def run_demo(
    *,
    bits: bool = False,
    width: int | None = None,
    every_hop: bool = False,
    output: str | Path | None = None,
    packets: bool = False,
) -> int:
    """Start the default lab, fetch http://h2.lab/ on h1 from a program on h2, show it. Exit code.

    bits, width, every_hop: as in `Look`; output: the capture (None: demo.pcapng), which goes to a
    temporary file when it cannot be written; packets: also capture ip/link. Everything that was
    started is ended again, also after Ctrl-C. Raises LabError when the lab or a program fails.
    """
    look = Look(width or 0, bits, every_hop)
    started = time.monotonic()
    try:
        with (
            capture_file(output or CAPTURE, look) as (file, path),
            Lab() as lab,
            Service(lab),
            LabClient(lab.directory) as client,
            Feed(client, (CLIENT, SERVER)) as feed,
        ):
            _banner(look, client, time.monotonic() - started)
            capture = capture_to(file, packets=packets)
            with _Program("http_server", lab.target(SERVER), str(PORT)) as server:
                _serve(feed, server, look)
                story = Story((CLIENT, SERVER), every_hop=look.every_hop, capture=capture.take)
                with _Program("http_client", lab.target(CLIENT), URL) as program:
                    failed = _fetch(feed, program, story, look)
    except KeyboardInterrupt:
        look.say("", "interrupted; the lab and its programs have been ended")
        return 130
    if story.measure.called is not None:
        look.say(f"  capture: {path} ({capture.frames} frames): wireshark {path.name}")
    return failed


def _banner(look: Look, client: LabClient, seconds: float) -> None:
    hosts = client.status().hosts
    names = " and ".join(f"{host.name} ({host.addresses[0]})" for host in hosts)
    count = sum(len(host.layers) for host in hosts)
    look.say(
        f"plywire demo: {names}, up after {seconds:.1f} s.",
        f"One process for each layer ({', '.join(LAYERS)}) of each host: {count} in all.",
        f"A server program on {SERVER} is to listen on port {PORT}; then a client program on"
        f" {CLIENT} fetches {URL}",
        "",
    )


def _serve(feed: Feed, server: _Program, look: Look) -> None:
    """Show the server's calls until it listens."""
    player = Player(Story((CLIENT, SERVER)), look)
    server.on_end(feed.stop)
    for event in feed:
        player.take(event)
        if event.host == SERVER and event.layer == APP and event.after.get("state") == "LISTEN":
            return
    raise LabError(f"the server program ended: {server.last_words()}")


def _fetch(feed: Feed, program: _Program, story: Story, look: Look) -> int:
    """Show the client's story to its end; 0 when it got its page."""
    look.say("")
    player = Player(story, look)
    program.on_end(lambda: feed.stop(after=_CLOSE_LIMIT))
    begun = False
    for event in feed:
        begun = begun or event.host == CLIENT
        if begun:  # what is left of the server's calls was before its time
            player.take(event)
        if story.over:
            feed.stop(after=_AFTER_END)
    player.finish()
    look.say("", f"  the program on {CLIENT} got:", *(f"    {line}" for line in program.lines))
    return program.code


class _Program:
    """A program in a process of its own; a context manager that ends it.

    lines: what it has printed. It is told to end by the end of its standard input, so it also ends
    when this process dies.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self.lines: list[str] = []
        self._command = [sys.executable, "-P", "-m", f"{_PROGRAMS}.{module}", *arguments]
        self._then: Callable[[], None] | None = None
        self._reader = threading.Thread(target=self._read, name=module, daemon=True)
        self._leaving = False

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for the demo, which then ends its programs
        )
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving = True
        self._process.stdin.close()
        try:
            self._process.wait(_LEAVE_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    @property
    def ended(self) -> bool:
        """It has printed its last line."""
        return not self._reader.is_alive()

    @property
    def code(self) -> int:
        """0 when it has ended well, 1 when not (or not at all)."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return 1 if self._process.wait(_LEAVE_LIMIT) else 0
        return 1

    def on_end(self, then: Callable[[], None]) -> None:
        """Call `then` when it ends by itself; at once when it has."""
        self._then = then
        if self.ended:
            then()

    def last_words(self) -> str:
        """The last line it printed, for an error message."""
        return self.lines[-1] if self.lines else "it said nothing"

    def _read(self) -> None:
        for line in self._process.stdout:
            if len(self.lines) < _MAX_LINES:
                self.lines.append(line.rstrip())
        if self._then is not None and not self._leaving:
            self._then()
