"""TOML tables that are checked: what a file may say; for the rest a ConfigError with the key."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from plywire.errors import ConfigError
from plywire.profiles import SECOND

HIGHEST = 2**31 - 1
"""The most that a number of a file may be, unless it has a range of its own."""


class Table:
    """A TOML table that knows its place in the file and which of its keys nobody asked for."""

    def __init__(self, data: Any, where: str, path: str) -> None:
        self.where, self.path = where, path
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where}: {path}", "must be a table")
        self.data = dict(data)
        self.left = set(self.data)

    def error(self, key: str, reason: str) -> ConfigError:
        return ConfigError(f"{self.where}: {'.'.join(filter(None, (self.path, key)))}", reason)

    def done(self) -> None:
        if self.left:
            raise self.error(sorted(self.left)[0], "unknown key")

    def table(self, key: str) -> Table:
        return Table(self._take(key, {}), self.where, ".".join(filter(None, (self.path, key))))

    def rows(self, key: str) -> list[Table]:
        value = self._take(key, [])
        if not isinstance(value, list):
            raise self.error(key, "must be an array of tables")
        path = ".".join(filter(None, (self.path, key)))
        return [Table(row, self.where, f"{path}[{index}]") for index, row in enumerate(value)]

    def text(self, key: str, default: str) -> str:
        value = self._take(key, default)
        if not isinstance(value, str):
            raise self.error(key, f"{value!r} is not a string")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, "must be an array of strings")
        return tuple(value)

    def number(self, key: str, default: int) -> int:
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, f"{value!r} is not an integer")
        return value

    def seconds(self, key: str) -> int:
        value = self._take(key, 0)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value <= HIGHEST:
            raise self.error(key, f"{value!r} is not a number of seconds above 0")
        return round(value * SECOND)

    def flag(self, key: str, default: bool) -> bool:
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"{value!r} is not true or false")
        return value

    def cidr(self, key: str) -> tuple[bytes, int]:
        return cidr(self.text(key, ""), f"{self.where}: {self.path}.{key}")

    def address(self, key: str) -> bytes:
        text = self.text(key, "")
        try:
            return ipaddress.IPv4Address(text).packed
        except ValueError:
            raise self.error(key, f"{text!r} is not an IPv4 address") from None

    def _take(self, key: str, default: Any) -> Any:
        self.left.discard(key)
        return self.data.get(key, default)


def cidr(text: str, where: str) -> tuple[bytes, int]:
    """Address and prefix length of `10.0.0.1/24`. Raises ConfigError."""
    try:
        if "/" not in text:  # ipaddress would take it for a /32, which is hardly what was meant
            raise ValueError
        item = ipaddress.IPv4Interface(text)
    except ValueError:
        raise ConfigError(where, f"{text!r} is not an IPv4 address with a prefix length") from None
    return item.ip.packed, item.network.prefixlen
