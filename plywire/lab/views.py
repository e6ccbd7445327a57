"""The tables that the command line prints, as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, NamedTuple

from plywire.config import LabConfig, address
from plywire.roles import LAYERS
from plywire.runtime import config as places


class LayerRow(NamedTuple):
    """A layer as `plywire status` shows it.

    uptime: seconds, 0 without a process; rate: messages a second that came in; queue: messages that
    wait for a neighbour; cpu: share of one processor; health: `ok`, or what is wrong in words.
    """

    name: str
    implementation: str
    pid: int
    uptime: float
    rate: float
    queue: int
    drops: int
    cpu: float
    restarts: int
    health: str


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
    lines = [head, *table(["HOST", "ADDRESS", "SOCKET API"], rows)]
    if config.metrics:
        lines.append(f"metrics at {metrics_url(config.metrics)}")
    return lines


def metrics_url(listen: str) -> str:
    """Where a browser on this machine finds the metrics that are served at HOST:PORT."""
    host, port = address(listen)
    host = "127.0.0.1" if host in ("", "0.0.0.0") else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"


def status_lines(status, rows: Iterable[LayerRow]) -> list[str]:
    """A GetStatusResponse, and what the layers say of themselves, for people."""
    head = (
        f"lab {status.lab}, up {_duration(status.uptime)}, supervisor pid {status.pid},"
        f" in {status.run_dir}"
    )
    cells = [
        [
            row.name,
            row.implementation,
            str(row.pid or "-"),
            _duration(row.uptime) if row.pid else "-",
            *([_rate(row.rate), str(row.queue), str(row.drops), f"{row.cpu:.0%}"]
              if row.pid else ["-"] * 4),
            str(row.restarts),
            row.health,
        ]
        for row in rows
    ]  # fmt: skip
    columns = ["LAYER", "IMPLEMENTATION", "PID", "UPTIME", "PACKETS/S", "QUEUE", "DROPS", "CPU",
               "RESTARTS", "HEALTH"]  # fmt: skip
    return [head, *table(columns, cells)]


def neighbour_line(row: Mapping[str, Any]) -> str:
    """An ARP entry as `ip neigh` prints it."""
    lladdr = f" lladdr {row['lladdr']}" if row["lladdr"] else ""
    return f"{row['address']} dev {row['dev']}{lladdr} {row['state']}"


def neighbour_json(row: Mapping[str, Any]) -> dict[str, object]:
    """The same as `ip -json neigh` has it."""
    lladdr = {"lladdr": row["lladdr"]} if row["lladdr"] else {}
    return {"dst": row["address"], "dev": row["dev"], **lladdr, "state": [row["state"]]}


def routes_in_order(rows: Iterable[Mapping[str, Any]], local: bool) -> list[Mapping[str, Any]]:
    """The routes of the local table or of the main one, in the order of `ip route`."""
    return sorted(
        (row for row in rows if (row["type"] == "local") == local),
        key=lambda row: _place(row["to"]),
    )


def route_line(row: Mapping[str, Any]) -> str:
    """A route as `ip route` prints it."""
    fields = route_json(row)
    words = ["local"] if row["type"] == "local" else []
    words.append(str(fields["dst"]))
    for name, key in (("via", "gateway"), ("dev", "dev"), ("proto", "protocol"),
                      ("scope", "scope"), ("src", "prefsrc")):  # fmt: skip
        if key in fields:
            words.append(f"{name} {fields[key]}")
    return " ".join(words)


def route_json(row: Mapping[str, Any]) -> dict[str, object]:
    """The same as `ip -json route` has it."""
    local = row["type"] == "local"
    fields: dict[str, object] = {"type": "local"} if local else {}
    fields["dst"] = row["to"].removesuffix("/32")
    if row["via"]:
        fields |= {"gateway": row["via"], "dev": row["dev"], "protocol": "static"}
    else:
        scope = "host" if local else "link"
        fields |= {"dev": row["dev"], "protocol": "kernel", "scope": scope, "prefsrc": row["src"]}
    return fields | {"flags": []}


def way_line(address: str, way: Mapping[str, str]) -> str:
    """Where packets to an address go, as `ip route get` prints it."""
    local = "local " if way["dev"] == "lo" else ""
    via = f" via {way['via']}" if way["via"] else ""
    return f"{local}{address}{via} dev {way['dev']} src {way['src']}"


def by_host(lines: Iterable[tuple[str, str]], with_host: bool) -> list[str]:
    """Lines of (host, text), the host in front when it is not known otherwise."""
    found = list(lines)
    width = max((len(host) for host, _ in found), default=0)
    return [f"{host:<{width}}  {text}" if with_host else text for host, text in found]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns two spaces apart, as wide as their widest cell."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (columns, *rows)
    ]


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}" if 0 < per_second < 10 else f"{per_second:.0f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _place(prefix: str) -> tuple[IPv4Address, int]:
    """Where the kernel's table has a prefix: by address, with one address the longer first."""
    network = IPv4Network("0.0.0.0/0" if prefix == "default" else prefix)
    return network.network_address, -network.prefixlen
