"""A layer that is a program of its own: what it is told, and how this process becomes it.

The program takes the process over: pid, standard streams and supervisor stay, so it lives and dies
as any other layer.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NoReturn

from plywire.config import HostConfig, InterfaceConfig
from plywire.errors import ConfigError
from plywire.layer import Program
from plywire.roles import Role


def settings(
    role: Role,
    host: HostConfig,
    directory: Path,
    implementation: str,
    supervised: bool,
    successor: bool = False,
) -> dict[str, Any]:
    """What a program is told, as `proto/pipes.md` ("Starting a program") has it."""
    return {
        "role": role,
        "host": host.name,
        "directory": str(directory.absolute()),
        "implementation": implementation,
        "supervised": supervised,
        "successor": successor,
        "interfaces": [_interface(item) for item in host.interfaces],
        "routes": [
            {"to": f"{IPv4Address(route.prefix)}/{route.prefix_length}",
             "via": str(IPv4Address(route.via))}
            for route in host.routes
        ],
        "forwarding": host.forwarding,
        role: asdict(getattr(host, role)),
    }  # fmt: skip


def check(program: Program, role: Role) -> None:
    """Raises ConfigError when it is of another role, or not on this machine."""
    if program.role != role:
        raise ConfigError(program.command[-1], f"is {program.role}, and cannot be {role}")
    if shutil.which(program.command[0]) is None:
        name = program.command[0]
        raise ConfigError(
            name,
            f"is not on this machine, and {' '.join(program.command)} needs it: install it, or for"
            " containers build their image on a BASE_IMAGE that has it",
        )


def command(program: Program, told: dict[str, Any]) -> list[str]:
    """What starts the program with these settings. Raises ConfigError when it is not there."""
    check(program, told["role"])
    return [*program.command, json.dumps(told)]


def become(program: Program, told: dict[str, Any]) -> NoReturn:
    """Run the program in this process's place. Raises ConfigError when it cannot be run."""
    words = command(program, told)
    try:
        os.execvp(words[0], words)
    except OSError as error:
        raise ConfigError(words[0], f"cannot be run: {error.strerror}") from None


def _interface(item: InterfaceConfig) -> dict[str, Any]:
    return {
        "name": item.name,
        "ifindex": item.ifindex,
        "address": f"{IPv4Address(item.address)}/{item.prefix_length}",
        "mac": item.mac.hex(":"),
        "mtu": item.mtu,
    }
