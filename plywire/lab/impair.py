"""`plywire impair`: delay, loss and worse on the wires of a running lab.

What goes from A to B is impaired by A's link as it sends. For a TAP, the far end is the kernel's
interface by its name, and both directions are the link's that has it.
"""

from __future__ import annotations

import json
import re
from fractions import Fraction
from typing import Any, NamedTuple

import click

from plywire.lab.control import LabClient, find_lab
from plywire.lab.rundir import LabError
from plywire.lab.views import table

_TIMES = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_RATES = {"bit": 1, "kbit": 1_000, "mbit": 1_000_000, "gbit": 1_000_000_000}
_HIGHEST = 1 << 62
_CHANCES = {
    "loss": "loss",
    "ecn_mark": "ecn-mark",
    "duplicate": "dup",
    "reorder": "reorder",
    "corrupt": "corrupt",
}


class Line(NamedTuple):
    """One direction between two stations, and the host whose link sees to it."""

    sender: str
    receiver: str
    host: str
    peer: str
    direction: str

    def __str__(self) -> str:
        return f"{self.sender}>{self.receiver}"


class _Quantity(click.ParamType):
    """A number with a unit, as a whole number of the smallest unit."""

    def __init__(self, name: str, units: dict[str, int], example: str) -> None:
        self.name = name
        self._units = units
        self._example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]*)", value.strip().lower())
        number = Fraction(match[1]) if match else None
        if number is None or (match[2] not in self._units and number):
            units = ", ".join(self._units)
            self.fail(f"{value!r} is not a number with a unit ({units}): {self._example}")
        whole = round(number * self._units.get(match[2], 1))
        if whole >= _HIGHEST:
            self.fail(f"{value!r} is too much")
        return whole


class _Chance(click.ParamType):
    name = "percent"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)%", value.strip())
        if not match or Fraction(match[1]) > 100:
            self.fail(f"{value!r} is not from 0% to 100%, with the sign")
        return float(Fraction(match[1]) / 100)


_TIME = _Quantity("time", _TIMES, "20ms")
_RATE = _Quantity("rate", _RATES, "10mbit")
_CHANCE = _Chance()


@click.group()
def impair() -> None:
    """Delay, lose, repeat, reorder and corrupt frames between two stations.

    LINK is h1-h2 for both directions, 'h1>h2' (in quotes) for one. The far end of a TAP is the
    kernel's interface: h1-tap0.
    """


@impair.command("set")
@click.argument("link")
@click.option("--delay", type=_TIME, help="Time from station to station: 20ms.")
@click.option("--jitter", type=_TIME, help="Up to so much more, in order.")
@click.option("--loss", type=_CHANCE, help="Frames lost: 1%.")
@click.option("--ecn-mark", type=_CHANCE, help="ECN-capable packets marked CE instead: 1%.")
@click.option("--dup", "duplicate", type=_CHANCE, help="Frames that arrive twice.")
@click.option("--reorder", type=_CHANCE, help="Frames that later ones overtake.")
@click.option("--reorder-by", type=_TIME, help="How long those are held back at most (5ms).")
@click.option("--corrupt", type=_CHANCE, help="Frames with one bit flipped.")
@click.option("--rate", type=_RATE, help="Bits a second: 10mbit; 0 for no limit.")
@click.option("--queue", type=click.IntRange(0, 10_000), help="Frames that wait for it (1000).")
@click.option("--ecn-queue", type=click.IntRange(0, 10_000),
              help="Mark while more frames than this wait for it; 0 for never.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1),
              help="Of all chances: equal seeds, equal fates.")  # fmt: skip
@click.pass_obj
def set_(lab: str | None, link: str, seed: int | None, **options: Any) -> None:
    """Change what is named, and leave the rest as it is."""
    changes = {name: value for name, value in options.items() if value is not None}
    if not changes and seed is None:
        raise click.UsageError("nothing to set: --delay, --loss, --rate, ... ")
    with find_lab(lab or "default") as client:
        lines = resolve(client, link)
        for line in lines:
            client.ask(line.host, "link", "impair", "set", line.peer, line.direction, changes, seed)
        for row in _rows(client, lines):
            click.echo(f"{_name(row)} {_settings(row['settings'])}, seed {row['seed']}")


@impair.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def show(lab: str | None, as_json: bool) -> None:
    """What is set, and what became of the frames since."""
    with find_lab(lab or "default") as client:
        rows = _rows(client)
    for line in json.dumps(rows, indent=2).splitlines() if as_json else show_lines(rows):
        click.echo(line)


@impair.command()
@click.argument("link", default="")
@click.pass_obj
def reset(lab: str | None, link: str) -> None:
    """Impair nothing any more, on LINK or anywhere. Frames under way still arrive."""
    with find_lab(lab or "default") as client:
        if link:
            lines = resolve(client, link)
            count = sum(
                client.ask(line.host, "link", "impair", "reset", line.peer, line.direction)
                for line in lines
            )
        else:
            hosts = [host.name for host in client.status().hosts]
            count = sum(client.ask(host, "link", "impair", "reset") for host in hosts)
    click.echo(f"{count} {'line' if count == 1 else 'lines'} reset")


@impair.command("drop-next")
@click.argument("link")
@click.argument("count", type=click.IntRange(1, 1_000_000), default=1)
@click.pass_obj
def drop_next(lab: str | None, link: str, count: int) -> None:
    """Lose the next COUNT frames for certain (1), in each direction that is named."""
    with find_lab(lab or "default") as client:
        for line in resolve(client, link):
            client.ask(line.host, "link", "impair", "drop_next", line.peer, line.direction, count)
            click.echo(f"{line} loses the next {count}")


def resolve(client: LabClient, link: str) -> list[Line]:
    """The directions that LINK names. Raises click.UsageError, or LabError when there are none."""
    hosts = [host.name for host in client.status().hosts]
    if ">" in link:
        sender, _, receiver = link.partition(">")
        return [_line(client, hosts, sender.strip(), receiver.strip())]
    words = link.split("-")
    splits = [("-".join(words[:at]), "-".join(words[at:])) for at in range(1, len(words))]
    ends = [pair for pair in splits if all(end in hosts for end in pair)]
    ends = ends or [pair for pair in splits if any(end in hosts for end in pair)]
    if len(ends) != 1:
        raise click.UsageError(
            f"{link!r} is not a link, as in h1-h2 or 'h1>h2'; hosts are {', '.join(hosts)}"
        )
    ((a, b),) = ends
    return [_line(client, hosts, a, b), _line(client, hosts, b, a)]


def show_lines(rows: list[dict]) -> list[str]:
    """The table of `show`."""
    if not rows:
        return ["nothing is impaired"]
    counts = ("sent", "lost", "ecn_marked", "duplicated", "reordered", "corrupted")
    names = [name.upper().replace("_", "-") for name in counts]
    cells = []
    for row in rows:
        have = row["counts"]
        full = have.get("queue_full", 0) + have.get("held_full", 0)
        asked = str(have.get("dropped_on_request", 0))
        if row["drop_next"]:
            asked += f" (+{row['drop_next']})"
        numbers = [str(have.get(name, 0)) for name in counts]
        cells.append([_name(row), *numbers, str(full), asked, str(row["held"]), str(row["seed"]),
                      _settings(row["settings"])])  # fmt: skip
    columns = ["LINK", *names, "QUEUE-FULL", "DROP-NEXT", "HELD",
               "SEED", "SETTINGS"]  # fmt: skip
    return table(columns, cells)


def _line(client: LabClient, hosts: list[str], sender: str, receiver: str) -> Line:
    if sender in hosts:
        line = Line(sender, receiver, sender, receiver, "out")
    elif receiver in hosts:
        line = Line(sender, receiver, receiver, sender, "in")
    else:
        raise click.UsageError(f"neither of {sender}>{receiver} is a host: {', '.join(hosts)}")
    peers = dict(client.ask(line.host, "link", "impair", "peers"))
    if line.peer not in peers:
        known = f"there are {', '.join(sorted(peers))}" if peers else "there is nobody"
        raise LabError(f"{line.peer!r} is not on a wire of {line.host}; {known}")
    if line.direction not in peers[line.peer]:
        raise LabError(
            f"{line.peer} is not plywire: what it sends cannot be impaired, only"
            f" '{line.host}>{line.peer}'"
        )
    return line


def _rows(client: LabClient, lines: list[Line] | None = None) -> list[dict]:
    if lines is None:
        hosts = [host.name for host in client.status().hosts]
    else:
        hosts = list(dict.fromkeys(line.host for line in lines))
    rows = [row for host in hosts for row in client.ask(host, "link", "impair", "show")]
    wanted = None if lines is None else {str(line) for line in lines}
    return [row for row in rows if wanted is None or _name(row) in wanted]


def _name(row: dict) -> str:
    return f"{row['from']}>{row['to']}"


def _settings(settings: dict) -> str:
    """Settings as the options that make them."""
    words = [f"{name} {_time(settings[name])}" for name in ("delay", "jitter") if settings[name]]
    for name, word in _CHANCES.items():
        if settings[name]:
            words.append(f"{word} {settings[name] * 100:g}%")
    if settings["reorder"]:
        words.append(f"reorder-by {_time(settings['reorder_by'])}")
    if settings["rate"]:
        words += [f"rate {_scaled(settings['rate'], _RATES)}", f"queue {settings['queue']}"]
    if settings["ecn_queue"]:
        words.append(f"ecn-queue {settings['ecn_queue']}")
    return " ".join(words) or "none"


def _time(nanoseconds: int) -> str:
    return _scaled(nanoseconds, _TIMES)


def _scaled(value: int, units: dict[str, int]) -> str:
    """In the largest unit that leaves 1 or more."""
    unit = max((unit for unit in units if units[unit] <= max(value, 1)), key=units.__getitem__)
    return f"{value / units[unit]:g}{unit}"
