"""A lab back to the file that describes it, for the layers of a lab that a program made."""

from __future__ import annotations

import ipaddress
from dataclasses import fields
from typing import Any

from plywire.config import (
    SECOND,
    TIMES,
    AppConfig,
    HostConfig,
    InterfaceConfig,
    LabConfig,
    LinkConfig,
    host_names,
)
from plywire.profiles import PROFILES


def dump_lab(lab: LabConfig) -> str:
    """TOML text that `plywire.config.parse` turns into an equal lab."""
    lines = ["[lab]", f"name = {_value(lab.name)}"]
    if lab.metrics:
        lines.append(f"metrics = {_value(lab.metrics)}")
    wires = {
        interface.wire
        for host in lab.hosts.values()
        for interface in host.interfaces
        if interface.wire
    }
    for wire in sorted(wires):
        lines += ["", f"[wires.{_value(wire)}]"]
    for host in lab.hosts.values():
        lines += _host(host)
    derived = host_names(lab.hosts)
    names = {name: address for name, address in lab.names.items() if name not in derived}
    if names:
        lines += ["", "[names]"]
        lines += [f"{_value(name)} = {_value(_dotted(item))}" for name, item in names.items()]
    return "\n".join(lines) + "\n"


def _host(host: HostConfig) -> list[str]:
    here = f"hosts.{_value(host.name)}"
    lines = ["", f"[{here}]"]
    lines.append(f"profile = {_value(host.profile)}")
    lines.append(f"forwarding = {_value(host.forwarding)}")
    for interface in host.interfaces:
        lines += ["", f"[[{here}.interfaces]]", *_interface(interface)]
    for route in host.routes:
        lines += ["", f"[[{here}.routes]]"]
        lines.append(f"to = {_value(f'{_dotted(route.prefix)}/{route.prefix_length}')}")
        lines.append(f"via = {_value(_dotted(route.via))}")
    if host.implementations:
        lines += ["", f"[{here}.implementations]"]
        lines += [f"{role} = {_value(spec)}" for role, spec in host.implementations.items()]
    for name, numbers, default in (
        ("tcp", host.tcp, PROFILES[host.profile].tcp),
        ("ip", host.ip, PROFILES[host.profile].ip),
        ("link", host.link, LinkConfig()),
        ("app", host.app, AppConfig()),
    ):
        changed = _changes(numbers, default)
        if changed:
            lines += ["", f"[{here}.{name}]", *changed]
    return lines


def _interface(interface: InterfaceConfig) -> list[str]:
    values = {
        "name": interface.name,
        "address": f"{_dotted(interface.address)}/{interface.prefix_length}",
        "mac": interface.mac.hex(":"),
        "mtu": interface.mtu,
        "device": interface.device,
        "wire": interface.wire,
        "listen": interface.listen,
        "peers": interface.peers,
        "tap": interface.tap,
    }
    return [f"{key} = {_value(value)}" for key, value in values.items() if value not in ("", ())]


def _changes(numbers: Any, default: Any) -> list[str]:
    """What differs from the default; times are seconds in the file."""
    lines = []
    for item in fields(numbers):
        value = getattr(numbers, item.name)
        if value != getattr(default, item.name):
            if item.name in TIMES:
                value = value / SECOND
            lines.append(f"{item.name} = {_value(value)}")
    return lines


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    text = str(value)
    for character in ("\\", '"'):
        text = text.replace(character, "\\" + character)
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text) + '"'


def _dotted(address: bytes) -> str:
    return str(ipaddress.IPv4Address(address))
