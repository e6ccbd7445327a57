"""Where packets can be captured: the boundaries of a host that carry packets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import click

from plywire.lab.control import LabClient
from plywire.lab.rundir import LabError
from plywire.messages import Datagram, Frame, Segment
from plywire.pcapng import LINKTYPE_ETHERNET, LINKTYPE_RAW, LINKTYPE_WIRESHARK_UPPER_PDU
from plywire.roles import APP, IP, LINK, TCP, WIRE, Role, boundary

_NO_MAC = "00:00:00:00:00:00"


class Layer(NamedTuple):
    """What `--at` names: a layer, whose lower boundary is meant.

    subject: the message that carries packets there; others (errors, news) are no packets.
    """

    boundary: str
    subject: str
    linktype: int
    what: str


AT: dict[Role, Layer] = {
    LINK: Layer(boundary(LINK, WIRE), Frame.__name__, LINKTYPE_ETHERNET, "Ethernet"),
    IP: Layer(boundary(IP, LINK), Datagram.__name__, LINKTYPE_RAW, "IP packets"),
    TCP: Layer(boundary(TCP, IP), Segment.__name__, LINKTYPE_WIRESHARK_UPPER_PDU, "TCP segments"),
}


class Point(NamedTuple):
    """A place to capture at, which is an interface of the file.

    ifindex: of the interface at link/wire, else 0.
    """

    name: str
    host: str
    boundary: str
    ifindex: int
    subject: str
    linktype: int
    what: str


def layers(text: str) -> list[Role]:
    """The layers that `--at` names ("link,ip"), the lowest first. Raises click.UsageError."""
    wanted = [word.strip() for word in text.split(",")]
    for word in wanted:
        if word == APP:
            raise click.UsageError(
                "--at app: what app and tcp hand each other are streams and calls, which no capture"
                " format knows; `plywire connect` and `plywire trace` show them"
            )
        if word not in AT:
            raise click.UsageError(f"--at {text}: {word!r} is not one of {', '.join(AT)}")
    return [role for role in AT if role in wanted]


def find(client: LabClient, hosts: Sequence[str], roles: Sequence[Role]) -> list[Point]:
    """The points at these layers of these hosts. Raises LabError."""
    return [
        point
        for host in hosts
        for role in roles
        for point in (_wires(client, host) if role == LINK else [_inside(host, AT[role])])
    ]


def _inside(host: str, layer: Layer) -> Point:
    return Point(f"{host} {layer.boundary}", host, layer.boundary, 0, *layer[1:])


def _wires(client: LabClient, host: str) -> list[Point]:
    """A point for each interface; they may be of different kinds."""
    rows = client.describe(host, LINK, "interfaces")
    if not isinstance(rows, list) or not rows:
        raise LabError(f"{host}.link tells of no interfaces: capture at ip or tcp")
    layer = AT[LINK]
    points = []
    for row in rows:
        more = f" {row['name']}" if len(rows) > 1 else ""
        bare = row["mac"] == _NO_MAC  # a raw-IP device
        linktype, what = (LINKTYPE_RAW, "IP packets") if bare else layer[2:]
        point = Point(f"{host} {layer.boundary}{more}", host, layer.boundary, row["ifindex"],
                      layer.subject, linktype, what)  # fmt: skip
        points.append(point)
    return points
