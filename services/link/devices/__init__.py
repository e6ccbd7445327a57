"""Devices: how an interface's frames leave the process. A new one is a line in `DEVICES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from plywire.config import HostConfig, InterfaceConfig
from plywire.errors import ConfigError
from plywire.runtime.clock import REAL_CLOCK, Clock
from plywire.runtime.pipe import Context
from plywire.runtime.shell import Port
from services.link.devices import tap, wire

DeviceFactory = Callable[
    [HostConfig, InterfaceConfig, Context, Path | str, Sequence[str], Clock], Port
]
"""`factory(host, interface, context, directory, peers, clock)`; directory: the run directory;
peers: endpoints of the other stations on the interface's wire; clock: the lab's."""

DEVICES: dict[str, DeviceFactory] = {
    "wire": wire.create,
    "raw": wire.create,  # what is on it is link's affair: bare packets
    "tap": tap.create,
}
"""Devices by the name that a lab file gives (`device = "tap"`)."""


def open_ports(
    host: HostConfig,
    context: Context,
    directory: Path | str,
    peers: Mapping[str, Sequence[str]],
    clock: Clock = REAL_CLOCK,
) -> list[Port]:
    """The devices of all interfaces of `host`, each a Port with its `ifindex`.

    peers: for each interface, by name, the endpoints of the other stations on its wire. Raises
    ConfigError when a device cannot be opened; those opened before it are closed again.
    """
    ports: list[Port] = []
    try:
        for interface in host.interfaces:
            others = peers.get(interface.name, ())
            factory = DEVICES.get(interface.device)
            if factory is None:
                raise ConfigError(
                    f"hosts.{host.name}.{interface.name}.device",
                    f"{interface.device!r} is none of this link's ({', '.join(DEVICES)}); name the"
                    ' link that has it: implementations = { link = "services.link_tunnel:create" }',
                )
            ports.append(factory(host, interface, context, directory, others, clock))
    except BaseException:
        for port in ports:
            port.close()
        raise
    return ports
