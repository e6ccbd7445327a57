"""`plywire capture`. docs/capture.md describes it."""

from __future__ import annotations

import ipaddress
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from plywire.lab.capture import points as at
from plywire.lab.capture.filters import Filter, FilterError, parse
from plywire.lab.capture.lines import Printer
from plywire.lab.capture.outputs import FileOutput, Output, StandardOutput
from plywire.lab.capture.recording import Recording
from plywire.lab.capture.serve import serve as serve_readers
from plywire.lab.capture.session import STALLED, Plan, Session, Sink
from plywire.lab.capture.wakeups import Wakeups
from plywire.lab.control import LabClient, find_lab
from plywire.lab.rundir import LabError
from plywire.rpc import control_pb2 as pb

_TWICE = 0.3
"""Seconds after which a second signal means it; `timeout` sends each of them twice at once."""


@click.command()
@click.argument("words", metavar="[HOST[,HOST...]] [FILTER...]", nargs=-1)
@click.option("--all", "everywhere", is_flag=True, help="On all hosts of the lab.")
@click.option("--at", "where", metavar="LAYERS", default="link", show_default=True,
              help="Below which layers: link, ip, tcp.")  # fmt: skip
@click.option("-o", "-w", "--output", metavar="FILE", help="Write pcapng here; - is the output.")
@click.option("--serve", metavar="PORT", type=click.IntRange(0, 65_535),
              help="Write pcapng to whoever connects to 127.0.0.1:PORT.")  # fmt: skip
@click.option("--print", "prints", is_flag=True, help="Print packets too, as tcpdump -n does.")
@click.option("-c", "--count", type=click.IntRange(1), help="Stop after so many packets.")
@click.pass_obj
def capture(
    lab: str | None,
    words: tuple[str, ...],
    everywhere: bool,
    where: str,
    output: str | None,
    serve: int | None,
    prints: bool,
    count: int | None,
) -> None:
    """Capture packets between the layers of hosts, until Ctrl-C.

    Prints them unless told to write them. FILTER is a part of tcpdump's: host A, port N, src,
    dst, tcp, udp, icmp, arp, ip, and, or, not, ( ).

    \b
      plywire capture h1 tcp port 80
      plywire capture h1 --at link,ip,tcp -o h1.pcapng
      plywire capture --all -o - | wireshark -k -i -
      plywire capture h1 --serve 19000
    """
    roles = at.layers(where)
    if serve is not None and (output is not None or prints or count):
        raise click.UsageError("--serve goes with none of -o, --print and -c: readers decide that")
    if output == "-":
        if prints:
            raise click.UsageError("-o - and --print both want the output: give -o a file")
        if sys.stdout.isatty():
            raise click.UsageError("-o - is for a pipe, as in -o - | wireshark -k -i -")
    if not words and not everywhere:
        raise click.UsageError("which host? name one or several (h1,h2), or give --all")
    with find_lab(lab or "default") as client:
        known = client.status().hosts
        names = [item.name for item in known]
        hosts = names if everywhere else _hosts(words[0], names)
        text = " ".join(words if everywhere else words[1:])
        places = at.find(client, hosts, roles)
        plan = Plan(places, _filter(text, known) if text.strip() else None, count or 0)
        if serve is not None:
            serve_readers(client, plan, serve, _say)
            return
        _capture(client, plan, _Files(places, output, prints or output is None))


class _Files:
    """What a capture writes to. They are opened when the lab is ready, and not touched before."""

    def __init__(self, points: Sequence[at.Point], output: str | None, prints: bool) -> None:
        self.prints = prints
        self._points = points
        self._output = output
        self._open: list[Output] = []
        self.to_stdout = prints or output == "-"

    def open(self) -> list[Sink]:
        """Open them and write what stands first in them."""
        sinks: list[Sink] = []
        if self._output is not None:
            output = StandardOutput() if self._output == "-" else FileOutput(Path(self._output))
            self._open.append(output)
            sinks.append(Recording(output, self._points))
        if self.prints:
            sinks.append(Printer(StandardOutput(), self._points))
        return sinks

    def close(self, captured: int, failed: bool) -> None:
        """Close them; a file that has nothing in it because of a failure is removed."""
        for output in self._open:
            if failed and not captured and isinstance(output, FileOutput):
                output.discard()
            output.close()


def _capture(client: LabClient, plan: Plan, files: _Files) -> None:
    """Capture until there is enough, or a signal, or nobody reads any more."""
    where = ", ".join(f"{point.name} ({point.what})" for point in plan.points)
    with Wakeups() as wakeups:
        session = Session(
            client, plan, files.open, reads=files.prints,
            ready=lambda: _say(f"listening on {where}"), ended=wakeups.wake,
        )  # fmt: skip
        session.start()
        _attend(session, wakeups, files.to_stdout)
    failed = session.error is not None
    files.close(session.captured, failed)
    if session.captured or not failed:
        _say(session.summary)
    if failed:
        raise session.error


def _attend(session: Session, wakeups: Wakeups, to_stdout: bool) -> None:
    """Wait until the session is over. Raises LabError when it cannot come to its end."""
    poll = select.poll()
    poll.register(wakeups.fd, select.POLLIN)
    if to_stdout:
        poll.register(StandardOutput.fd, 0)  # tells nothing but that its reader has gone
    stopped, patience = 0.0, None
    still, progress = 0, -1
    while not session.over:
        found = poll.poll(patience)
        still = still + 1 if not found and progress == session.progress else 0
        if still > STALLED:
            raise LabError("who reads the capture does not take its end: it is cut off")
        for fd, _ in found:
            if fd == StandardOutput.fd:
                poll.unregister(fd)
                session.cancel()
            elif wakeups.stops():
                if stopped and time.monotonic() - stopped > _TWICE:
                    raise KeyboardInterrupt
                if not stopped:
                    session.stop()
                    stopped, patience = time.monotonic(), 1000
        progress = session.progress
    session.join()


def _hosts(text: str, known: Sequence[str]) -> list[str]:
    """The hosts that "h1,h2" names, each once. Raises LabError for one that is not there."""
    hosts = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in hosts:
        if name not in known:
            raise LabError(f"no host {name!r} in this lab; there are {', '.join(known)}")
    return hosts


def _filter(text: str, known: Sequence[pb.Host]) -> Filter:
    """The filter in words. Raises click.UsageError."""

    def addresses(name: str) -> list[bytes]:
        try:
            return [ipaddress.IPv4Address(name).packed]
        except ValueError:
            pass  # a name, then
        return [
            ipaddress.IPv4Interface(address).packed
            for item in known
            if name in (item.name, f"{item.name}.lab")
            for address in item.addresses
        ]

    try:
        return parse(text, addresses)
    except FilterError as error:
        raise click.UsageError(str(error)) from None


def _say(text: str) -> None:
    click.echo(text, err=True)
