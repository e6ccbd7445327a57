"""The lab's wire: a shared segment without a process of its own, a full mesh of its stations.

Each station binds an inbox and connects to that of every other. It asks to be let in with Join at
the endpoints it was told; whoever hears that connects back, answers with Members (its own row
first, and the Join's trace id) and tells the others. Whoever learns of a station, in any way, asks
it in turn until it answers. Of two stations that know a third, the one that asks it later hears of
the other: so all know all in the end, in whatever order they come, go and come back. A station
that is not plywire joins by the same messages.
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from plywire.config import EVERYWHERE, MS, SECOND, HostConfig, InterfaceConfig
from plywire.errors import ConfigError
from plywire.messages import Barrier, BarrierDone, Frame, Join, Leave, Members, Message
from plywire.runtime.clock import Clock
from plywire.runtime.config import IPC_PATH_MAX, impair_path, wire_endpoint
from plywire.runtime.pipe import PACKETS_PER_BATCH, Context, Inbox, Outlet, Socket
from services.link.devices.impairing import OUT, Impairing

NAME_MAX = 64
ENDPOINT_MAX = 255
MAX_STATIONS = 256
"""Other stations that one station knows at most."""
RETRY_FIRST = 10 * MS
RETRY_MAX = 2 * SECOND
LEAVE_LINGER_MS = 50

_TCP = re.compile(r"tcp://([^/\s:*]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")


class Station:
    """Another station, under its endpoint. It has a name, and gets frames, once it is known."""

    __slots__ = ("configured", "due", "endpoint", "name", "outlet", "owed", "retry")

    def __init__(self, endpoint: str, outlet: Outlet, configured: bool) -> None:
        self.endpoint = endpoint
        self.outlet = outlet
        self.configured = configured
        self.name = ""
        self.owed: dict[type, Message] = {}  # Join or Members still to be said, by class
        self.due: int | None = None  # when to say it
        self.retry = RETRY_FIRST

    @property
    def host(self) -> str:
        """Whose interface it is, by the first part of its name."""
        return self.name.partition(".")[0]

    def owe(self, message: Message) -> None:
        """Say this as soon as the station can be reached."""
        self.owed[type(message)] = message
        self.due = 0
        self.retry = RETRY_FIRST

    def settle(self, kind: type) -> None:
        """What was owed need not be said any more."""
        self.owed.pop(kind, None)
        if not self.owed:
            self.due = None


class WirePort:
    """One interface's place on a wire.

    name: of this station (`h1.eth0`), unique on the wire; listen: where the inbox is bound;
    endpoint: under which the others reach it; peers: endpoints to join at.
    """

    def __init__(
        self,
        context: Context,
        ifindex: int,
        name: str,
        listen: str,
        endpoint: str,
        peers: Sequence[str],
        impairing: Impairing | None = None,
    ) -> None:
        self.ifindex = ifindex
        self.name = name
        self.endpoint = endpoint
        self.counters: Counter[str] = Counter()
        self.stations: dict[str, Station] = {}
        self.impairing = impairing or Impairing()
        self._context = context
        self._asked = 0  # Joins that want an answer; each has its number as trace id
        self._inbox = Inbox(context, listen, self.counters)
        for peer in peers:
            station = self._meet(peer, configured=True)
            if station is not None:
                self._ask(station)

    @property
    def waiting(self) -> int:
        """Frames that an impairment holds back."""
        return self.impairing.held

    def pollable(self) -> Socket:
        """The inbox."""
        return self._inbox.socket

    def receive(self) -> list[Message]:
        """Frames that have arrived, with this interface's ifindex; the mesh is seen to here."""
        frames: list[Message] = []
        ifindex = self.ifindex
        for message in self._inbox.receive():
            kind = type(message)
            if kind is Frame:
                trace, _, sent_at, frame = message
                frames.append(Frame(trace, ifindex, sent_at, frame))
            elif kind is Barrier:
                frames.append(message._replace(ifindex=ifindex))
            elif kind is Join:
                self._on_join(message)
            elif kind is Members:
                self._on_members(message)
            elif kind is Leave:
                self._on_leave(message)
            else:
                self.counters["drop_wire_unexpected_message"] += 1
        return frames

    def send(self, messages: Sequence[Message]) -> None:
        """Frames to every station; what one cannot take now is dropped for it, and counted."""
        for start in range(0, len(messages), PACKETS_PER_BATCH):
            batch = messages[start : start + PACKETS_PER_BATCH]
            for station in self.stations.values():
                if station.name:
                    self._put(station, self._impaired(station, batch))

    @property
    def joined(self) -> bool:
        """Every station that was named at the start is known, so that a frame reaches it."""
        return all(station.name for station in self.stations.values() if station.configured)

    def answer(self, barrier: Barrier) -> None:
        """Tell the station that asked that its barrier has been through."""
        station = self._named(barrier.station)
        done = [BarrierDone(barrier.trace, self.name, barrier.token)]
        if station is None or not station.outlet.send(done):
            self.counters["drop_wire_station_away_or_full"] += 1

    def peers(self) -> dict[str, tuple[str, ...]]:
        """The hosts of the other stations; what goes to them can be impaired here."""
        return {station.host: (OUT,) for station in self.stations.values() if station.name}

    def deadline(self) -> int | None:
        """When something is to be said (again), or a frame that was held back goes out; None once
        every station has answered."""
        times = [station.due for station in self.stations.values() if station.due is not None]
        held = self.impairing.deadline()
        if held is not None:
            times.append(held)
        return min(times) if times else None

    def expire(self, now: int) -> list[Message]:
        """Say what is owed to the stations whose time has come. Nothing comes in late."""
        for station in self.stations.values():
            if station.due is not None and station.due <= now:
                self._tell(station, now)
        late: dict[object, list[Message]] = {}
        for endpoint, message in self.impairing.take_due():
            late.setdefault(endpoint, []).append(message)
        for endpoint, messages in late.items():
            station = self.stations.get(endpoint)  # None: it has left meanwhile
            for start in range(0, len(messages) if station else 0, PACKETS_PER_BATCH):
                self._put(station, messages[start : start + PACKETS_PER_BATCH])
        return []

    def to_state(self) -> list:
        """The stations that are known, each with its endpoint."""
        return [[item.name, item.endpoint] for item in self.stations.values() if item.name]

    def restore(self, state: list) -> None:
        """Stations that the predecessor knew get frames at once; each is asked all the same."""
        for name, endpoint in state:
            station = self.stations.get(endpoint) or self._meet(endpoint)
            if station is not None:
                station.name = name
                if Join not in station.owed:
                    self._ask(station)

    def close(self, successor: bool = False) -> None:
        """Say goodbye, unless a successor takes this place, and let go of the endpoint."""
        goodbye = [Leave(0, self.name)]
        for station in self.stations.values():
            if not successor:
                station.outlet.send(goodbye)
            station.outlet.close(LEAVE_LINGER_MS)
        self.stations.clear()
        self._inbox.close()

    def _impaired(self, station: Station, batch: Sequence[Message]) -> Sequence[Message]:
        """What of a batch goes to a station now."""
        impairing = self.impairing
        if not impairing.lines:
            return batch
        return impairing.apply(station.host, OUT, station.endpoint, batch)

    def _put(self, station: Station, batch: Sequence[Message]) -> None:
        if batch and not station.outlet.send(batch):
            self.counters["drop_wire_station_away_or_full"] += len(batch)

    # --- the mesh ---

    def _on_join(self, join: Join) -> None:
        if join.name == self.name or join.endpoint == self.endpoint:
            self.counters["drop_wire_name_taken"] += 1
            return
        known = self.stations.get(join.endpoint)
        news = known is None or known.name != join.name
        station = known or self._meet(join.endpoint)
        if station is None:
            return
        self._introduced(station, join.name)
        if join.relay:
            station.owe(Members(join.trace, self._rows()))
            if news:
                self._spread(station)
        if news and Join not in station.owed:
            self._ask(station)

    def _on_members(self, members: Members) -> None:
        if not members.rows:
            self.counters["drop_wire_no_members"] += 1
            return
        (name, endpoint), *others = members.rows
        if name == self.name or endpoint == self.endpoint:
            self.counters["drop_wire_name_taken"] += 1
            return
        asked = self._asked_by(members.trace)
        sender = self.stations.get(endpoint)
        if asked is not None and asked.endpoint != endpoint:
            # It was asked under another endpoint than the one it gives out, which is what counts:
            # under two it would get each frame twice.
            self._forget(asked)
            sender = sender or self._meet(endpoint, asked.configured)
        if sender is not None:
            self._introduced(sender, name)
            sender.settle(Join)
        for other_name, other in others:  # hearsay: it adds stations, and moves none
            if other_name == self.name or other in self.stations or self._named(other_name):
                continue
            station = self._meet(other)
            if station is not None:
                self._ask(station)

    def _on_leave(self, leave: Leave) -> None:
        station = self._named(leave.name)
        if station is None:
            return
        if station.configured:
            station.name = ""
            self._ask(station)
        else:
            self._forget(station)

    def _introduced(self, station: Station, name: str) -> None:
        """A station is known by name, and gets frames from now on.

        A name that was elsewhere has moved: a station that was restarted replaces itself.
        """
        namesake = self._named(name)
        if namesake is not None and namesake is not station:
            self._forget(namesake)
        station.name = name

    def _spread(self, news: Station) -> None:
        """Tell the others of a newcomer at once; whoever cannot be told now will hear from it."""
        told = [Join(0, news.name, news.endpoint, 0)]
        for station in self.stations.values():
            if station.name and station is not news:
                station.outlet.send(told)

    def _tell(self, station: Station, now: int) -> None:
        """Try to say what is owed; a Join is owed until the answer comes."""
        if station.outlet.send(list(station.owed.values())):
            station.settle(Members)
        if station.owed:
            station.due = now + station.retry
            station.retry = min(station.retry * 2, RETRY_MAX)

    def _meet(self, endpoint: str, configured: bool = False) -> Station | None:
        """Connect to a station; None, and counted, when that cannot be."""
        if endpoint in self.stations or endpoint == self.endpoint:
            return None
        if not _reachable(endpoint):
            self.counters["drop_wire_bad_endpoint"] += 1
            return None
        if len(self.stations) >= MAX_STATIONS and not self._forget_one_gone():
            self.counters["drop_wire_too_many_stations"] += 1
            return None
        try:
            outlet = Outlet(self._context, endpoint)
        except ConfigError:
            self.counters["drop_wire_bad_endpoint"] += 1
            return None
        station = self.stations[endpoint] = Station(endpoint, outlet, configured)
        return station

    def _forget_one_gone(self) -> bool:
        """Make room: a station that died without a word is forgotten when its place is needed."""
        for station in self.stations.values():
            if not station.configured and not station.outlet.writable():
                self._forget(station)
                return True
        return False

    def _forget(self, station: Station) -> None:
        del self.stations[station.endpoint]
        station.outlet.close()

    def _named(self, name: str) -> Station | None:
        return next((item for item in self.stations.values() if name and item.name == name), None)

    def _asked_by(self, trace: int) -> Station | None:
        """The station that owes an answer to the Join of this trace id."""
        for station in self.stations.values():
            join = station.owed.get(Join)
            if join is not None and join.trace == trace:
                return station
        return None

    def _ask(self, station: Station) -> None:
        self._asked += 1
        station.owe(Join(self._asked, self.name, self.endpoint, 1))

    def _rows(self) -> tuple[tuple[str, str], ...]:
        known = [(item.name, item.endpoint) for item in self.stations.values() if item.name]
        return ((self.name, self.endpoint), *known)


def create(
    host: HostConfig,
    interface: InterfaceConfig,
    context: Context,
    directory: Path | str,
    peers: Sequence[str],
    clock: Clock,
) -> WirePort:
    """The interface's place on its wire. Raises ConfigError for an endpoint that cannot be."""
    where = f"hosts.{host.name}.{interface.name}"
    name = f"{host.name}.{interface.name}"
    if len(name) > NAME_MAX:
        raise ConfigError(f"{where}.name", f"{name!r} is longer than {NAME_MAX} characters")
    listen = interface.listen or wire_endpoint(directory, host.name, interface.name)
    endpoint = _advertised(listen)
    for key, value in (("listen", endpoint), *(("peers", peer) for peer in peers)):
        if not _reachable(value):
            raise ConfigError(f"{where}.{key}", f"{value!r} is not ipc://PATH or tcp://HOST:PORT")
    try:
        impairing = Impairing(host.name, clock, impair_path(directory, host.name, interface.name))
        return WirePort(context, interface.ifindex, name, listen, endpoint, peers, impairing)
    except ConfigError as error:
        raise ConfigError(f"{where}.listen", str(error)) from None


def _advertised(listen: str) -> str:
    """The endpoint to tell others: that of all addresses is given this machine's name instead."""
    for everywhere in EVERYWHERE:
        if listen.startswith(everywhere):
            return f"tcp://{socket.gethostname()}:{listen.removeprefix(everywhere)}"
    return listen


def _reachable(endpoint: str) -> bool:
    """An endpoint that one can connect to."""
    if len(endpoint) > ENDPOINT_MAX:
        return False
    scheme, _, rest = endpoint.partition("://")
    if scheme == "ipc":
        return 1 <= len(rest.encode()) <= IPC_PATH_MAX
    if scheme == "tcp":
        match = _TCP.fullmatch(endpoint)
        return match is not None and 1 <= int(match[2]) <= 65_535
    return scheme == "inproc" and bool(rest)
