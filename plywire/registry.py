"""From the name of an implementation, `module:factory`, to the factory itself.

What runs a role is named in the lab file, at start or at a swap. Whoever runs layers (a process,
the simulator) looks the name up here. A name may also stand for a program, `module:PROGRAM`, which
only a process can become.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

from plywire.config import DEFAULT_IMPLEMENTATIONS, HostConfig
from plywire.errors import ConfigError
from plywire.layer import Factory, Program
from plywire.roles import Role


def load(spec: str) -> Factory:
    """The factory that `module:factory` names. Raises ConfigError when there is none; so it does
    for a program, which cannot run inside another process."""
    found = find(spec)
    if isinstance(found, Program):
        raise ConfigError(
            f"implementation {spec!r}", "is a program of its own, and can only be a lab's process"
        )
    return found


def find(spec: str) -> Factory | Program:
    """The factory or the program that a name stands for.

    Raises ConfigError when the name is not of that form, there is no such module or no such
    factory in it, or it cannot be called. A module that is found but fails to import because of
    something else it needs says so.
    """
    where = f"implementation {spec!r}"
    module_name, separator, attribute = spec.partition(":")
    if not separator or not all(map(str.isidentifier, (*module_name.split("."), attribute))):
        raise ConfigError(where, "is not module:factory, as in services.tcp:create")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        parts = module_name.split(".")
        own = {".".join(parts[: n + 1]) for n in range(len(parts))}
        if error.name in own:
            raise ConfigError(where, f"there is no module {error.name}") from None
        raise ConfigError(where, f"{module_name} needs the module {error.name}") from error
    except ImportError as error:
        raise ConfigError(where, f"{module_name} cannot be imported: {error}") from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise ConfigError(where, f"the module {module_name} has no {attribute}")
    if not callable(factory) and not isinstance(factory, Program):
        raise ConfigError(
            where, f"{attribute} is not a factory but of type {type(factory).__name__}"
        )
    return factory


def devices(spec: str) -> Callable | None:
    """The `open_ports` of an implementation that brings devices of its own: of the module
    `devices` in its package. None when it has none."""
    name = f"{spec.partition(':')[0]}.devices"
    try:
        if importlib.util.find_spec(name) is None:
            return None
    except ModuleNotFoundError:  # what is named is a module, which can have none
        return None
    return importlib.import_module(name).open_ports


def implementation(host: HostConfig, role: Role) -> str:
    """What runs `role` on this host: what the host names, or the default."""
    return host.implementations.get(role, DEFAULT_IMPLEMENTATIONS[role])
