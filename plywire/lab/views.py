"""The tables that the command line prints, as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from plywire.config import LabConfig
from plywire.roles import LAYERS
from plywire.runtime import config as places


class SocketRow(NamedTuple):
    """A socket as `ss` shows it. state: RFC 9293's name; local and peer: `address:port`."""

    host: str
    state: str
    recv_q: int
    send_q: int
    local: str
    peer: str


_SS_NAMES = {"ESTABLISHED": "ESTAB", "SYN-RECEIVED": "SYN-RECV", "CLOSED": "UNCONN"}
_SS_LISTENING = frozenset({"LISTEN", "CLOSED"})
# Linux's ss leaves these out too unless it is asked for all.
_SS_HIDDEN = frozenset({"LISTEN", "CLOSED", "TIME-WAIT", "SYN-RECEIVED"})


def up_lines(config: LabConfig, directory: Path, seconds: float) -> list[str]:
    """What `plywire up` says: addresses, API targets, the time it took."""
    count = len(config.hosts) * len(LAYERS)
    rows = [
        [
            name,
            ", ".join(
                f"{IPv4Address(interface.address)}/{interface.prefix_length}"
                for interface in host.interfaces
            ),
            host.app.listen or f"unix:{places.api_path(directory, name)}",
        ]
        for name, host in config.hosts.items()
    ]
    head = f"lab {config.name} is up: {count} layers, ready in {seconds:.1f} s"
    return [head, *table(["HOST", "ADDRESS", "SOCKET API"], rows)]


def status_lines(status) -> list[str]:
    """A GetStatusResponse for people."""
    head = (
        f"lab {status.lab}, up {_duration(status.uptime)}, supervisor pid {status.pid},"
        f" in {status.run_dir}"
    )
    rows = [
        [
            f"{host.name}.{layer.role}",
            layer.implementation,
            str(layer.pid or "-"),
            _duration(layer.uptime) if layer.pid else "-",
            layer.state,
            str(layer.restarts),
        ]
        for host in status.hosts
        for layer in host.layers
    ]
    columns = ["LAYER", "IMPLEMENTATION", "PID", "UPTIME", "STATE", "RESTARTS"]
    return [head, *table(columns, rows)]


def ss_lines(
    rows: Iterable[SocketRow], listening: bool, everything: bool, with_host: bool
) -> list[str]:
    """Sockets as `ss -tn` shows them: the connected ones, the listening ones, or all."""
    shown = []
    for row in rows:
        if listening:
            wanted = row.state in _SS_LISTENING
        else:
            wanted = everything or row.state not in _SS_HIDDEN
        if wanted:
            cells = [_SS_NAMES.get(row.state, row.state), str(row.recv_q), str(row.send_q),
                     row.local, row.peer]  # fmt: skip
            shown.append([row.host, *cells] if with_host else cells)
    columns = ["State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port"]
    return table(["Host", *columns] if with_host else columns, shown)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns two spaces apart, as wide as their widest cell."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (columns, *rows)
    ]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
