"""What all layers of a lab say of themselves at one moment, for `status` and for the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from plywire.lab.nstat import drops
from plywire.lab.views import LayerRow
from plywire.roles import TCP, Role

if TYPE_CHECKING:
    from plywire.lab.control import LabClient

Question = tuple[str, Role, str]
"""Host, layer and topic, as for LabClient.describe."""


class Reading(NamedTuple):
    """One layer. pid, uptime (seconds), state and restarts are the supervisor's; runtime is the
    layer's own answer (`describe runtime`), None when there was none; connections: tcp's, if asked.
    """

    host: str
    layer: Role
    implementation: str
    pid: int
    uptime: float
    state: str
    restarts: int
    runtime: dict[str, Any] | None
    connections: list[dict[str, Any]]

    @property
    def health(self) -> str:
        """`ok`, or what is wrong in words."""
        if self.state != "up":
            return self.state
        if self.runtime is None:
            return "no answer"
        away = [role for role, pipe in self.runtime["traffic"].items() if not pipe["connected"]]
        return f"waits for {', '.join(away)}" if away else "ok"

    @property
    def received(self) -> int:
        """Messages that came in, from all neighbours and the wire."""
        return sum(pipe["received"] for pipe in self.runtime["traffic"].values())

    @property
    def waiting(self) -> int:
        """Messages that wait until a neighbour can take them."""
        return sum(pipe["waiting"] for pipe in self.runtime["traffic"].values())


def take(client: LabClient, status: Any, connections: bool = False) -> list[Reading]:
    """Ask every layer of a GetStatusResponse that has a process, all at once.

    Raises LabError when the lab itself does not answer.
    """
    asked = questions(status, connections)
    return combine(status, dict(zip(asked, client.describe_many(asked), strict=True)))


def questions(status: Any, connections: bool) -> list[Question]:
    """What there is to ask the layers of a GetStatusResponse."""
    asked = [
        (host.name, layer.role, "runtime")
        for host in status.hosts
        for layer in host.layers
        if layer.state == "up"
    ]
    if connections:
        asked += [(host, TCP, "connections") for host, role, _ in asked if role == TCP]
    return asked


def combine(status: Any, answers: Mapping[Question, object]) -> list[Reading]:
    """Status and answers together; an answer that is an exception is none."""
    readings = []
    for host in status.hosts:
        for layer in host.layers:
            runtime = answers.get((host.name, layer.role, "runtime"))
            rows = answers.get((host.name, layer.role, "connections"))
            runtime = runtime if isinstance(runtime, dict) else None
            pid = layer.pid or (runtime or {}).get("pid", 0)
            readings.append(
                Reading(
                    host.name, layer.role, layer.implementation, pid, layer.uptime, layer.state,
                    layer.restarts, runtime, rows if isinstance(rows, list) else [],
                )
            )  # fmt: skip
    return readings


def layer_rows(
    now: Iterable[Reading], before: Iterable[Reading] = (), seconds: float = 0.0
) -> list[LayerRow]:
    """The rows of `status`. Rates are those of the `seconds` since `before`; without it, or when a
    layer was started meanwhile, of the whole time that it is up."""
    earlier = {(reading.host, reading.layer): reading for reading in before}
    return [_row(reading, earlier.get((reading.host, reading.layer)), seconds) for reading in now]


def _row(reading: Reading, before: Reading | None, seconds: float) -> LayerRow:
    name = f"{reading.host}.{reading.layer}"
    known = (name, reading.implementation, reading.pid, reading.uptime)
    runtime = reading.runtime
    if runtime is None:
        return LayerRow(*known, 0.0, 0, 0, 0.0, reading.restarts, reading.health)
    received, cpu = reading.received, runtime["cpu_ns"]
    time = reading.uptime
    same = before is not None and before.runtime is not None
    if same and before.runtime["pid"] == runtime["pid"] and seconds:
        received -= before.received
        cpu -= before.runtime["cpu_ns"]
        time = seconds
    return LayerRow(
        *known,
        received / time if time else 0.0,
        reading.waiting,
        sum(drops(runtime["counters"]).values()),
        cpu / 1e9 / time if time else 0.0,
        reading.restarts,
        reading.health,
    )
