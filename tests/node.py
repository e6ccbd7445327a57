"""Whether the programs in JavaScript can run here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IP_JS = "services.ip_js:PROGRAM"
FOLDER = ROOT / "services" / "ip_js"


def missing() -> str:
    """What there is not, in words; "" when all is there."""
    if shutil.which("node") is None:
        return "needs Node.js (node)"
    if not (FOLDER / "node_modules" / "zeromq").is_dir():
        return "needs services/ip_js/node_modules (make node)"
    return ""


needs_node = pytest.mark.skipif(bool(missing()), reason=missing() or "it is there")
