"""An IP in JavaScript: IPv4 for one interface, written against `proto/pipes.md` alone.

It is a program for Node.js 18 or later, with two packages of npm: `npm install --no-package-lock`
in this folder (`make` does it where Node.js is).
"""

from __future__ import annotations

from pathlib import Path

from plywire.layer import Program

PROGRAM = Program("ip", ("node", str(Path(__file__).with_name("ip.js"))))
