"""What a host of a world is told, checked as a lab file is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from plywire.config import (
    DEFAULT_IMPLEMENTATIONS,
    AppConfig,
    HostConfig,
    LinkConfig,
    parse,
)
from plywire.errors import ConfigError
from plywire.profiles import PROFILES
from plywire.registry import load
from plywire.roles import LAYERS, LINK, Role

if TYPE_CHECKING:
    from plywire.lab.simulator.wire import Wire
    from plywire.lab.simulator.world import World

RAW_LINK = "services.link.raw:create"
"""What runs the link of a host on raw wires, unless the host names something else."""


def configure(
    world: World,
    name: str,
    *,
    address: str | None = None,
    wire: str = "lan",
    mtu: int = 1500,
    interfaces: Iterable[Mapping[str, Any]] | None = None,
    routes: Iterable[tuple[str, str]] = (),
    forwarding: bool | None = None,
    implementations: Mapping[Role, str] | None = None,
    profile: str = "linux",
    tcp: Mapping[str, Any] | None = None,
    ip: Mapping[str, Any] | None = None,
    link: Mapping[str, Any] | None = None,
    app: Mapping[str, Any] | None = None,
) -> tuple[HostConfig, dict[int, Wire]]:
    """A host's configuration, by the same checks as a lab file's, and its wires by ifindex."""
    where = f"host {name}"
    if (address is None) == (interfaces is None):
        raise ConfigError(where, "needs either an address (10.0.0.1/24) or interfaces")
    if interfaces is None:
        rows = [{"address": address, "wire": wire, "mtu": mtu}]
    else:
        rows = [{"wire": wire, "mtu": mtu} | dict(row) for row in interfaces]
    wires = {index: world.wire(str(row["wire"])) for index, row in enumerate(rows, 1)}
    kinds = {item.raw for item in wires.values()}
    if len(kinds) > 1:
        raise ConfigError(where, "is on a raw wire and on another kind: its one link runs both")
    implementations = dict(implementations or {})
    if kinds == {True}:
        implementations.setdefault(LINK, RAW_LINK)
    table: dict[str, Any] = {
        "interfaces": rows,
        "routes": [{"to": prefix, "via": gateway} for prefix, gateway in routes],
        "implementations": implementations,
        "profile": profile,
    }
    if forwarding is not None:
        table["forwarding"] = forwarding
    for role in LAYERS:
        load(implementations.get(role, DEFAULT_IMPLEMENTATIONS[role]))
    lab = parse({"wires": {item: {} for item in world.wires}, "hosts": {name: table}}, where)
    config = replace(
        lab.hosts[name],
        names=world.names,
        tcp=_changed(PROFILES[profile].tcp, tcp, f"{where}: tcp"),
        ip=_changed(PROFILES[profile].ip, ip, f"{where}: ip"),
        link=_changed(LinkConfig(), link, f"{where}: link"),
        app=_changed(AppConfig(), app, f"{where}: app"),
    )
    return config, wires


def _changed(default: Any, changes: Mapping[str, Any] | None, where: str) -> Any:
    """A dataclass of numbers with some changed; a key or type that it does not have is refused."""
    for key, value in (changes or {}).items():
        if key not in {item.name for item in fields(default)}:
            raise ConfigError(f"{where}.{key}", "unknown key")
        if type(value) is not type(getattr(default, key)):
            kind = type(getattr(default, key)).__name__
            raise ConfigError(f"{where}.{key}", f"{value!r} is not of type {kind}")
    return replace(default, **(changes or {}))
