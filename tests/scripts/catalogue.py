"""All scenarios, and the TCPs that they are run with."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from .language import Scenario, read_file

FOLDER = Path(__file__).parent / "scenarios"
IMPLEMENTATIONS = {"full": "services.tcp", "lite": "services.tcp_lite"}


def factory(name: str):
    """The `create` of a TCP."""
    return import_module(IMPLEMENTATIONS[name]).create


def scenarios() -> list[Scenario]:
    """Every scenario of the folder, in order."""
    return [item for path in sorted(FOLDER.glob("*.ply")) for item in read_file(path)]
