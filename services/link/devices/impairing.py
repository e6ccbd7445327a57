"""Impairments of a real wire: what a port does to the frames that it sends to one station.

Each direction between two stations is a line of its own, with its own seed and counts. They are
asked for through the link's control socket (`answer`), kept in a file beside it, so that a link
that is started again goes on with them, and live by the lab's clock.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, Protocol

from plywire.errors import ConfigError
from plywire.impair import Impairer, Impairments
from plywire.messages import Frame
from plywire.runtime.clock import REAL_CLOCK, Clock
from plywire.runtime.shell import Shell

HELD_MAX = 16_384
HELD_BYTES_MAX = 64 << 20
"""Frames, and their bytes, that one port holds back at most; what comes then is lost, counted as
`held_full`."""
DROP_NEXT_MAX = 1_000_000

OUT, IN = "out", "in"

log = logging.getLogger(__name__)


class Line:
    """One direction between this port and a station: what is done to its frames."""

    __slots__ = ("impairer", "seed")

    def __init__(self, seed: int, name: str) -> None:
        self.seed = seed
        self.impairer = Impairer(Impairments(), random.Random(f"{seed} {name}"))


class Impairable(Protocol):
    """A port that impairs."""

    impairing: Impairing

    def peers(self) -> dict[str, tuple[str, ...]]:
        """The stations it knows, by host, and the directions that it can impair."""


def answer(shell: Shell, arguments: Sequence[Any]) -> object:
    """The link's verb `impair`, for the ports of `shell`:

    `show`; `peers`; `set PEER DIRECTION CHANGES SEED` (a map of Impairments' fields, a seed or
    None); `drop_next PEER DIRECTION COUNT`; `reset PEER DIRECTION`, or `reset` for all. Raises
    ConfigError for a peer that no port knows, and for settings that cannot be.
    """
    ports: list[Impairable] = [port for port in shell.ports.values() if hasattr(port, "impairing")]
    what, *rest = arguments
    if what == "show":
        return [row for port in ports for row in port.impairing.describe()]
    if what == "peers":
        return [
            [peer, list(directions)]
            for port in ports
            for peer, directions in sorted(port.peers().items())
        ]
    if what == "reset":
        return sum(port.impairing.reset(*rest) for port in ports)
    if what not in ("set", "drop_next"):
        raise KeyError(what)
    peer, direction, *rest = rest
    knowing = [port for port in ports if direction in port.peers().get(peer, ())]
    if not knowing:
        known = sorted({name for port in ports for name in port.peers()})
        there = f"there are {', '.join(known)}" if known else "there is nobody"
        raise ConfigError(f"impair {peer}", f"not a station on this host's wires; {there}")
    for port in knowing:
        (port.impairing.change if what == "set" else port.impairing.drop_next)(
            peer, direction, *rest
        )
    return len(knowing)


class Impairing:
    """The lines of one port, and the frames that they hold back.

    host: whose port this is, by name; path: the file that remembers the lines, None for none.
    """

    def __init__(self, host: str = "", clock: Clock = REAL_CLOCK, path: Path | None = None) -> None:
        self.lines: dict[tuple[str, str], Line] = {}
        """By (peer, OUT or IN); empty is the common case, and what a port looks at first."""
        self._host = host
        self._clock = clock
        self._path = path
        self._held: list[tuple[int, int, object, Frame]] = []
        self._order = 0
        self._bytes = 0
        self._recall()

    @property
    def held(self) -> int:
        """Frames that are held back now."""
        return len(self._held)

    def apply(
        self, peer: str, direction: str, where: object, frames: Sequence[Frame]
    ) -> Sequence[Frame]:
        """The frames that go on at once, changed or not; others are lost or held back.

        where: given back with a frame that was held.
        """
        line = self.lines.get((peer, direction))
        if line is None:
            return frames
        now = self._clock.now()
        at_once: list[Frame] = []
        impair = line.impairer.apply
        for message in frames:
            for at, data in impair(message.frame, now):
                late = message if data is message.frame else message._replace(frame=data)
                if at <= now:
                    at_once.append(late)
                elif len(self._held) < HELD_MAX and self._bytes < HELD_BYTES_MAX:
                    self._order += 1
                    self._bytes += len(data)
                    heappush(self._held, (at, self._order, where, late))
                else:
                    line.impairer.counts["held_full"] += 1
        return at_once

    def deadline(self) -> int | None:
        """When the next frame goes on, in monotonic time; None also while the lab stands still."""
        return self._clock.real(self._held[0][0]) if self._held else None

    def take_due(self) -> list[tuple[object, Frame]]:
        """The frames whose time has come, each with its `where`, in order."""
        due: list[tuple[object, Frame]] = []
        if not self._held:
            return due
        now = self._clock.now()
        while self._held and self._held[0][0] <= now:
            _, _, where, message = heappop(self._held)
            self._bytes -= len(message.frame)
            due.append((where, message))
        return due

    def change(
        self, peer: str, direction: str, changes: Mapping[str, Any], seed: int | None
    ) -> None:
        """Change what is done to a line's frames from now on. Raises ConfigError."""
        self._change(peer, direction, changes, seed)
        self._remember()

    def reset(self, peer: str = "", direction: str = "") -> int:
        """Forget a line, or all of them; what they hold back still comes at its time.

        Returns how many there were.
        """
        gone = [key for key in self.lines if not peer or key == (peer, direction)]
        for key in gone:
            del self.lines[key]
        self._remember()
        return len(gone)

    def drop_next(self, peer: str, direction: str, count: int) -> None:
        """Lose the next `count` frames of a line for certain."""
        if type(count) is not int or not 1 <= count <= DROP_NEXT_MAX:
            raise ConfigError("drop-next", f"{count!r} is not from 1 to {DROP_NEXT_MAX}")
        if (peer, direction) not in self.lines:
            self.change(peer, direction, {}, None)
        self.lines[peer, direction].impairer.drop_next(count)

    def _change(
        self, peer: str, direction: str, changes: Mapping[str, Any], seed: int | None
    ) -> None:
        line = self.lines.get((peer, direction))
        settings = (line.impairer.settings if line else Impairments()).changed(**changes)
        ends = (self._host, peer) if direction == OUT else (peer, self._host)
        name = ">".join(ends)
        if line is None:
            line = Line(random.SystemRandom().getrandbits(32) if seed is None else seed, name)
            self.lines[peer, direction] = line
        elif seed is not None:
            line.seed = seed
            line.impairer.reseed(random.Random(f"{seed} {name}"))
        line.impairer.settings = settings

    def describe(self) -> list[dict[str, object]]:
        """Each line for people: settings, seed and counts."""
        rows: list[dict[str, object]] = []
        for (peer, direction), line in self.lines.items():
            ends = (self._host, peer) if direction == OUT else (peer, self._host)
            rows.append(
                {
                    "from": ends[0],
                    "to": ends[1],
                    "settings": asdict(line.impairer.settings),
                    "seed": line.seed,
                    "drop_next": line.impairer.dropping,
                    "counts": dict(line.impairer.counts),
                    "held": self.held,
                }
            )
        return rows

    def _remember(self) -> None:
        if self._path is None:
            return
        rows = [
            [*key, asdict(line.impairer.settings), line.seed] for key, line in self.lines.items()
        ]
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(rows), encoding="utf-8")
        fresh.replace(self._path)

    def _recall(self) -> None:
        """Go on as the process before this one did."""
        if self._path is None or not self._path.exists():
            return
        try:
            for row in json.loads(self._path.read_text(encoding="utf-8")):
                self._change(*row)
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s cannot be read, so nothing is impaired: %s", self._path, error)
