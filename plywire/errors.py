"""What can go wrong, by who caused it.

Bad input from the wire or a pipe is a `DecodeError`: caught in `receive` alone, counted by its
reason and dropped. Misuse by a program, and what a peer did to a connection, is a `SocketError`
that travels to the program as an errno. A bad file or command line is a `ConfigError`. Anything
else is a bug, and may crash the layer: the supervisor starts it again.
"""

from __future__ import annotations

import errno
import os


class DecodeError(ValueError):
    """Bytes that are not what they should be.

    reason: a short name used as a counter (`ipv4_bad_checksum`); detail: for the log.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class SocketError(Exception):
    """An errno by name, with the layer that raised it and the cause in words.

    name: as in `errno` (`ECONNREFUSED`) or `EAI_NONAME`; layer: the role that decided;
    cause: what happened (`RST received`).
    """

    def __init__(self, name: str, cause: str = "", layer: str = "app") -> None:
        super().__init__(f"{name}: {cause}" if cause else name)
        self.name = name
        self.cause = cause
        self.layer = layer

    @property
    def number(self) -> int:
        """The errno of this machine, or 0 for a name that is not an errno (EAI_NONAME)."""
        return getattr(errno, self.name, 0)

    @property
    def message(self) -> str:
        """What `os.strerror` says of it."""
        return os.strerror(self.number) if self.number else "Name or service not known"


class ConfigError(ValueError):
    """A value in a file or on the command line that cannot be used.

    where: the file and key (`lab.toml: hosts.h1.address`); reason: what is wrong, and what to do.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason


class IllegalTransition(AssertionError):
    """A state machine was asked for a cell its table does not have: a bug of this stack."""
