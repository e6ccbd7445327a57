"""Where a lab lives on this machine: its run directory, the endpoints in it, its file.

Every name of a socket or a file in the run directory is made here, so that the processes that bind
them and those that look for them agree.
"""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

from plywire.config import LabConfig, parse
from plywire.errors import ConfigError
from plywire.roles import Role

IPC_PATH_MAX = 107
"""Bytes that the path of a unix socket may have (sun_path, less its NUL)."""

DEFAULT_LAB = Path(__file__).resolve().parent.parent / "lab" / "default.toml"
"""The lab that runs when no file is named."""


def run_dir(lab: str = "default") -> Path:
    """The run directory of a lab; nothing is created.

    It is $PLYWIRE_RUN_DIR/<lab>, else $XDG_RUNTIME_DIR/plywire/<lab>, else
    /tmp/plywire-<uid>/<lab>. Raises ConfigError when that is somebody else's.
    """
    if not lab.replace("-", "").replace("_", "").isalnum() or len(lab) > 32:
        raise ConfigError(f"lab {lab!r}", "a lab's name is letters, digits, - and _, 32 at most")
    base = os.environ.get("PLYWIRE_RUN_DIR")
    if base:
        directory = Path(base).absolute() / lab
    elif os.environ.get("XDG_RUNTIME_DIR"):
        directory = Path(os.environ["XDG_RUNTIME_DIR"]).absolute() / "plywire" / lab
        _check_owner(directory.parent)
    else:
        directory = Path(f"/tmp/plywire-{os.geteuid()}") / lab
        _check_owner(directory.parent)  # /tmp is everybody's: the name may have been taken first
    _check_owner(directory)
    return directory


def make_run_dir(directory: Path) -> None:
    """Create a run directory, for this user alone (mode 0700), with its logs/ inside.

    Raises ConfigError when it cannot be made or is somebody else's.
    """
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        _check_owner(directory)
        directory.chmod(0o700)
        (directory / "logs").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            str(directory), f"{error.strerror}; set PLYWIRE_RUN_DIR to a directory of yours"
        ) from None


def inbox(directory: Path | str, host: str, role: Role, neighbour: Role) -> str:
    """The endpoint that `role` binds for what `neighbour` sends it."""
    return _ipc(directory, f"{host}.{role}.from-{neighbour}")


def wire_endpoint(directory: Path | str, host: str, interface: str) -> str:
    """The endpoint at which an interface hears its wire, unless the lab file names another."""
    return _ipc(directory, f"{host}.{interface}.wire")


def trace_endpoint(directory: Path | str, host: str, role: Role) -> str:
    """The endpoint at which a layer publishes its trace."""
    return _ipc(directory, f"{host}.{role}.trace")


def control_endpoint(directory: Path | str, host: str, role: Role) -> str:
    """The endpoint at which a layer answers questions about itself."""
    return _ipc(directory, f"{host}.{role}.control")


def region(directory: Path | str, host: str, role: str) -> Path:
    """Where a layer keeps what must outlive its process."""
    return Path(directory) / f"{host}.{role}.region"


def handover_endpoint(directory: Path | str, host: str, role: Role, pid: int) -> str:
    """The endpoint at which one process of a layer, by pid, is led through an exchange."""
    return _ipc(directory, f"{host}.{role}.swap-{pid}")


def keeper_path(directory: Path | str, host: str, role: Role) -> Path:
    """The unix socket at which the keeper of a layer in a container is asked for an exchange."""
    return Path(_unix(directory, f"{host}.{role}.keeper"))


def alive_path(directory: Path | str, host: str, role: Role) -> Path:
    """The file that a layer without a supervisor touches as long as it lives."""
    return Path(directory) / f"{host}.{role}.alive"


def impair_path(directory: Path | str, host: str, interface: str) -> Path:
    """The file that remembers how an interface's wire is impaired."""
    return Path(directory) / f"{host}.{interface}.impair"


def api_path(directory: Path | str, host: str) -> Path:
    """The unix socket of a host's socket API."""
    return Path(_unix(directory, f"{host}.api.sock"))


def api_target(lab: str, host: str) -> str:
    """The gRPC target of a host's socket API, when the lab file names no address for it."""
    return f"unix:{api_path(run_dir(lab), host)}"


def lab_target(directory: Path | str) -> str:
    """The gRPC target of a lab's control service."""
    return f"unix:{_unix(directory, 'control.sock')}"


def remote_target() -> str | None:
    """The gRPC target in PLYWIRE_TARGET, of a lab that is not in a run directory of this machine.

    Raises ConfigError when it is none.
    """
    target = os.environ.get("PLYWIRE_TARGET")
    if not target:
        return None
    name, _, port = target.rpartition(":")
    is_port = port.isdecimal() and 0 < int(port) < 65_536
    if not (target.startswith("unix:/") or (name and is_port)):
        raise ConfigError(
            "PLYWIRE_TARGET", f"{target!r} is not HOST:PORT, as in 127.0.0.1:7440, or unix:PATH"
        )
    return target


def api_override(host: str) -> str | None:
    """The gRPC target of a host's socket API by PLYWIRE_API, in which {host} stands for its name.

    So programs that see other addresses than the lab itself (in a container) can be told.
    """
    target = os.environ.get("PLYWIRE_API")
    return target.replace("{host}", host) if target else None


def log_path(directory: Path | str, host: str, role: Role) -> Path:
    """The file that a layer's log lines are collected in."""
    return Path(directory) / "logs" / f"{host}.{role}.log"


def load_lab(path: Path | str | None = None) -> LabConfig:
    """The lab that a file describes; without one, the default lab.

    Raises ConfigError, with the line when it is not TOML, with the key when a value cannot be.
    """
    file = DEFAULT_LAB if path is None else Path(path)
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(file), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(str(file), f"is not UTF-8 text (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:  # its words end in (at line 3, column 5)
        raise ConfigError(str(file), f"is not TOML: {error}") from None
    return parse(data, str(file))


def _ipc(directory: Path | str, name: str) -> str:
    return f"ipc://{_unix(directory, name)}"


def _unix(directory: Path | str, name: str) -> str:
    path = f"{directory}/{name}"
    if len(os.fsencode(path)) > IPC_PATH_MAX:
        raise ConfigError(
            path,
            f"longer than the {IPC_PATH_MAX} bytes of a unix socket's path;"
            " set PLYWIRE_RUN_DIR to a shorter directory",
        )
    return path


def _check_owner(directory: Path) -> None:
    """Refuse what another user has put there: who owns the sockets sees all that goes through."""
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(str(directory), f"{error.strerror}; set PLYWIRE_RUN_DIR") from None
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(str(directory), "is not a directory; remove it, or set PLYWIRE_RUN_DIR")
    if status.st_uid != os.geteuid():
        raise ConfigError(
            str(directory),
            f"belongs to user {status.st_uid}, not to you ({os.geteuid()});"
            " set PLYWIRE_RUN_DIR to a directory of yours",
        )
