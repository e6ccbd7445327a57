"""What an experiment file says, checked: the matrix, the workload, and where it is run.

`parse` takes what `tomllib` read. Whatever it does not know, and every value that cannot be, is a
`ConfigError` with the key and the reason, as in a lab file.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from plywire.config import (
    AppConfig,
    HostConfig,
    LabConfig,
    LinkConfig,
    numbers,
)
from plywire.config import host as any_host
from plywire.config import parse as parse_lab
from plywire.errors import ConfigError, SocketError
from plywire.impair import Impairments
from plywire.layer import Layer
from plywire.profiles import PROFILES, SECOND
from plywire.registry import implementation as implementation_of
from plywire.registry import load
from plywire.roles import APP, IP, LAYERS, LINK, TCP, Role
from plywire.tables import Table
from plywire.trace import Tracer
from services.app.options import SETTABLE, checked

SIMULATOR, LAB = "simulator", "lab"
SENDER, RECEIVER = "sender", "receiver"
HOSTS = {SENDER: "h1", RECEIVER: "h2"}
ADDRESSES = {SENDER: "10.0.0.1", RECEIVER: "10.0.0.2"}
PORT = 80
TRANSFER, REQUESTS = "transfer", "requests"
SOCKET_OPTIONS = tuple(
    name for name, spec in SETTABLE.items() if spec.kind != "word" and name != "SO_LINGER"
)
"""Those that take a number."""
RUNS_MAX = 10_000
"""Runs of one matrix at most."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_TIMES = ("delay", "jitter", "reorder_by")
_CHANCES = ("loss", "ecn_mark", "duplicate", "reorder", "corrupt")
_BYTES_MAX = 1 << 30
_ANY_HOST = any_host("h1", "10.0.0.1/24")


@dataclass(frozen=True)
class Workload:
    """What the programs do.

    transfer: the sender writes `bytes` bytes. requests: `count` times it writes one request in
    pieces of `writes` bytes, one write each, and waits for a response of `response` bytes.
    """

    kind: str = TRANSFER
    bytes: int = 1_000_000
    count: int = 0
    writes: tuple[int, ...] = ()
    response: int = 0

    @property
    def forward(self) -> int:
        """Bytes from the sender to the receiver in all."""
        return self.bytes if self.kind == TRANSFER else self.count * sum(self.writes)

    @property
    def backward(self) -> int:
        """Bytes from the receiver to the sender in all."""
        return 0 if self.kind == TRANSFER else self.count * self.response


@dataclass(frozen=True)
class Swap:
    """A layer is exchanged when the receiver has this share of all bytes. spec: what comes in its
    place, "" for the same again; settings: keys of the layer's table in the lab file."""

    end: str
    layer: Role
    after: float
    spec: str
    settings: Mapping[str, Any]

    def numbers(self) -> dict[str, Any]:
        """The settings as fields of the layer's configuration."""
        default = _default("linux", self.layer)
        new = numbers(Table(self.settings, "swap", self.layer), default)
        return {name: getattr(new, name) for name in self.settings}


@dataclass(frozen=True)
class Variant:
    """One implementation with one set of options: what is compared.

    lab: the two hosts; sockets: by end, socket options by Linux's names, set before connect and
    listen.
    """

    name: str
    implementation: str
    option: str
    lab: LabConfig
    sockets: Mapping[str, Mapping[str, int]]
    swaps: tuple[Swap, ...]


class Cell(NamedTuple):
    """A variant on an impaired wire. settings: by the end whose frames they are for."""

    variant: Variant
    impairment: str
    settings: Mapping[str, Impairments]

    @property
    def name(self) -> str:
        """Fit for a folder."""
        return f"{self.variant.name}@{self.impairment}"


class Run(NamedTuple):
    """A cell with a seed. number: the repetition, from 1."""

    cell: Cell
    number: int
    seed: int

    @property
    def name(self) -> str:
        """Fit for a folder."""
        return f"{self.cell.name}-{self.number:03d}"


@dataclass(frozen=True)
class Experiment:
    """A whole experiment. Times in nanoseconds. data: the file as it was read."""

    name: str
    about: str
    where: str
    repetitions: int
    seed: int
    limit: int
    sample: int
    workload: Workload
    variants: tuple[Variant, ...]
    impairments: Mapping[str, Mapping[str, Impairments]]
    data: Mapping[str, Any]

    def cells(self) -> Iterator[Cell]:
        """Every variant on every wire."""
        for impairment, settings in self.impairments.items():
            for variant in self.variants:
                yield Cell(variant, impairment, settings)

    def runs(self) -> list[Run]:
        """All runs in their order: every cell once, then every cell again."""
        return [
            Run(cell, number, self.seed + number - 1)
            for number in range(1, self.repetitions + 1)
            for cell in self.cells()
        ]


def parse(data: Mapping[str, Any], where: str = "experiment.toml", place: str = "") -> Experiment:
    """The experiment that a file describes. place: `simulator` or `lab` instead of what it says.

    Raises ConfigError with key and reason.
    """
    top = Table(data, where, "")
    head = top.table("experiment")
    name = head.text("name", "")
    if not _NAME.fullmatch(name):
        raise head.error("name", f"{name!r} is not letters, digits, - and _, 32 at most")
    about = head.text("about", "")
    said = head.text("where", SIMULATOR)
    if said not in (SIMULATOR, LAB):
        raise head.error("where", f"{said!r} is unknown; there are {SIMULATOR}, {LAB}")
    repetitions = _whole(head, "repetitions", 10, 1, 1000)
    seed = _whole(head, "seed", 1, 0, 1 << 62)
    limit = head.seconds("limit") if "limit" in head.data else 300 * SECOND
    sample = head.seconds("sample") if "sample" in head.data else SECOND // 100
    if sample < SECOND // 1000:
        raise head.error("sample", "less than a millisecond")
    head.done()
    workload = _workload(top.table("workload"))
    implementations = _named(top.table("implementations"), _implementation) or {
        "plywire": _implementation(Table({}, where, ""))
    }
    options = _named(top.table("options"), _option) or {"defaults": _option(Table({}, where, ""))}
    impairments = _named(top.table("impairments"), _impairments) or {
        "clean": dict.fromkeys(HOSTS, Impairments())
    }
    top.done()
    count = len(implementations) * len(options) * len(impairments) * repetitions
    if count > RUNS_MAX:
        raise head.error("repetitions", f"{count} runs in all; {RUNS_MAX} at most")
    variants = tuple(
        _variant(where, one, roles, option, *settings, len(implementations), len(options))
        for one, roles in implementations.items()
        for option, settings in options.items()
    )
    return Experiment(
        name, about, place or said, repetitions, seed, limit, sample, workload, variants,
        impairments, data,
    )  # fmt: skip


def _named(table: Table, read: Callable[[Table], Any]) -> dict[str, Any]:
    """What `read` makes of each table in a table, by name."""
    found = {}
    for name in list(table.data):
        if not _NAME.fullmatch(name):
            raise table.error(name, "a name is letters, digits, - and _, 32 at most")
        found[name] = read(table.table(name))
    return found


def _whole(table: Table, key: str, default: int, low: int, high: int) -> int:
    value = table.number(key, default)
    if not low <= value <= high:
        raise table.error(key, f"{value} is not from {low} to {high}")
    return value


def _workload(table: Table) -> Workload:
    kind = table.text("kind", TRANSFER)
    if kind == TRANSFER:
        found = Workload(kind, _whole(table, "bytes", 1_000_000, 1, _BYTES_MAX))
    elif kind == REQUESTS:
        writes = table.data.get("writes", [1, 1])
        table.left.discard("writes")
        if not isinstance(writes, list) or not 1 <= len(writes) <= 100:
            raise table.error("writes", "must be an array of 1 to 100 sizes in bytes")
        for size in writes:
            if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 1 << 20:
                raise table.error("writes", f"{size!r} is not a size from 1 to {1 << 20} bytes")
        count = _whole(table, "count", 100, 1, 1_000_000)
        response = _whole(table, "response", 1, 1, 1 << 20)
        found = Workload(kind, 0, count, tuple(writes), response)
        if max(found.forward, found.backward) > _BYTES_MAX:
            raise table.error("count", f"more than {_BYTES_MAX} bytes one way in all")
    else:
        raise table.error("kind", f"{kind!r} is unknown; there are {TRANSFER}, {REQUESTS}")
    table.done()
    return found


def _ends(table: Table) -> Iterator[tuple[Table, tuple[str, ...]]]:
    """The tables `both`, `sender` and `receiver` of a table, and which ends each is for."""
    for key, ends in (("both", tuple(HOSTS)), (SENDER, (SENDER,)), (RECEIVER, (RECEIVER,))):
        if key in table.data:
            yield table.table(key), ends


def _implementation(table: Table) -> dict[str, dict[Role, str]]:
    """What runs the layers, by end and role."""
    found: dict[str, dict[Role, str]] = {end: {} for end in HOSTS}
    for part, ends in _ends(table):
        for role in list(part.data):
            if role not in LAYERS:
                raise part.error(role, f"not a layer; there are {', '.join(LAYERS)}")
            spec = part.text(role, "")
            _check_spec(part, role, role, spec)
            for end in ends:
                found[end][role] = spec
    table.done()
    return found


def _check_spec(table: Table, key: str, role: Role, spec: str) -> None:
    """That there is such a layer and that it can be made, for a host like any other."""
    try:
        layer = _made(spec, _ANY_HOST)
    except ConfigError as error:
        raise table.error(key, str(error)) from None
    if layer.role != role:
        raise table.error(key, f"{spec} is {layer.role}, and cannot be {role}")


def _option(table: Table) -> tuple[dict, dict, tuple[Swap, ...]]:
    """Host tables by end, socket options by end, and swaps."""
    hosts: dict[str, dict[str, Any]] = {end: {} for end in HOSTS}
    sockets: dict[str, dict[str, int]] = {end: {} for end in HOSTS}
    for part, ends in _ends(table):
        profile = part.text("profile", "linux")
        if profile not in PROFILES:
            raise part.error("profile", f"unknown; there are {', '.join(PROFILES)}")
        for role in LAYERS:
            if role not in part.data:
                continue
            numbers(part.table(role), _default(profile, role))
            for end in ends:
                hosts[end].setdefault(role, {}).update(part.data[role])
        for end in ends:
            if "profile" in part.data:
                hosts[end]["profile"] = profile
        chosen = part.table("socket")
        for key in list(chosen.data):
            if key not in SOCKET_OPTIONS:
                raise chosen.error(key, f"unknown; there are {', '.join(SOCKET_OPTIONS)}")
            try:
                value = checked(key, chosen.number(key, 0), _ANY_HOST)
            except SocketError as error:
                raise chosen.error(key, error.cause) from None
            for end in ends:
                sockets[end][key] = value
        part.done()
    swaps = tuple(_swap(row) for row in table.rows("swaps"))
    table.done()
    return hosts, sockets, tuple(sorted(swaps, key=lambda item: item.after))


def _swap(table: Table) -> Swap:
    end = table.text("end", SENDER)
    if end not in HOSTS:
        raise table.error("end", f"{end!r} is unknown; there are {', '.join(HOSTS)}")
    layer = table.text("layer", TCP)
    if layer not in LAYERS:
        raise table.error("layer", f"{layer!r} is unknown; there are {', '.join(LAYERS)}")
    after = table.data.get("after", 0.5)
    table.left.discard("after")
    if isinstance(after, bool) or not isinstance(after, int | float) or not 0 <= after < 1:
        raise table.error("after", f"{after!r} is not a share from 0 to less than 1")
    spec = table.text("implementation", "")
    if spec:
        _check_spec(table, "implementation", layer, spec)
    settings = table.table("set")
    numbers(settings, _default("linux", layer))
    table.done()
    return Swap(end, layer, float(after), spec, dict(settings.data))


def _default(profile: str, role: Role) -> Any:
    known = PROFILES[profile]
    return {TCP: known.tcp, IP: known.ip, LINK: LinkConfig(), APP: AppConfig()}[role]


def _impairments(table: Table) -> dict[str, Impairments]:
    """What the wire does to the frames of each end: what is said of both, changed by what is said
    of those that the `sender` or the `receiver` sends."""
    ends = [(end, table.table(end)) for end in HOSTS]
    both = _impaired(table, Impairments(), HOSTS)
    return {end: _impaired(part, both) for end, part in ends}


def _impaired(table: Table, settings: Impairments, more: Iterable[str] = ()) -> Impairments:
    """Settings with the fields that a table names; times in seconds, as everywhere in a file."""
    changes: dict[str, Any] = {}
    known = [*(item.name for item in fields(Impairments)), *more]
    for key in sorted(table.left):
        value = table.data[key]
        table.left.discard(key)
        if key not in known:
            raise table.error(key, f"unknown key; there are {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise table.error(key, f"{value!r} is not a number")
        if key in _TIMES:
            if not 0 <= value <= 3600:
                raise table.error(key, f"{value!r} is not a number of seconds from 0 to 3600")
            value = round(value * SECOND)
        elif key not in _CHANCES and not isinstance(value, int):
            raise table.error(key, f"{value!r} is not a whole number")
        changes[key] = value
    try:
        return settings.changed(**changes)
    except ConfigError as error:
        raise table.error("", f"{error.where}: {error.reason}") from None


def _variant(
    where: str,
    implementation: str,
    roles: Mapping[str, Mapping[Role, str]],
    option: str,
    hosts: Mapping[str, Mapping[str, Any]],
    sockets: Mapping[str, Mapping[str, int]],
    swaps: tuple[Swap, ...],
    implementations: int,
    options: int,
) -> Variant:
    """One pair of the matrix. An axis with one value only is no part of its name."""
    words = [implementation] if implementations > 1 else []
    words += [option] if options > 1 or not words else []
    data = {
        host: {
            "interfaces": [{"address": f"{ADDRESSES[end]}/24", "wire": "lan"}],
            "implementations": dict(roles[end]),
            **hosts[end],
        }
        for end, host in HOSTS.items()
    }
    place = f"{where}: options.{option} with implementations.{implementation}"
    lab = parse_lab({"wires": {"lan": {}}, "hosts": data}, place)
    variant = Variant("+".join(words), implementation, option, lab, sockets, swaps)
    _try_out(variant, place)
    return variant


def _try_out(variant: Variant, place: str) -> None:
    """Make every layer once, and see that each exchanged one can read its predecessor's state."""
    formats: dict[tuple[str, Role], str] = {}
    for end, host in HOSTS.items():
        config = variant.lab.hosts[host]
        for role in LAYERS:
            spec = implementation_of(config, role)
            formats[end, role] = getattr(_made(spec, config), "state_format", spec)
    for number, swap in enumerate(variant.swaps):
        if not swap.spec:
            continue
        config = variant.lab.hosts[HOSTS[swap.end]]
        new = getattr(_made(swap.spec, config), "state_format", swap.spec)
        old = formats[swap.end, swap.layer]
        if new != old and swap.layer in (TCP, APP):
            reason = f"{swap.spec} reads {new}, and cannot take over what is {old}"
            raise ConfigError(f"{place}: swaps[{number}].implementation", reason)


def _made(spec: str, config: HostConfig) -> Layer:
    return load(spec)(config, random.Random(0), Tracer())
