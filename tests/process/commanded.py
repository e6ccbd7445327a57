"""A lab that is used by the command line: run directories of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from plywire.lab.rundir import supervisor_of

PLYWIRE = Path(sys.executable).with_name("plywire")


QUIET = """
[wires.lan]
[hosts.h1]
interfaces = [{ address = "10.0.0.1/24" }]
link = { arp_announce = 1 }
[hosts.h2]
interfaces = [{ address = "10.0.0.2/24" }]
link = { arp_announce = 1 }
"""
"""The default lab, in which no frame is sent by a timer once it is up: frames can be counted."""


class Commands:
    """Runs `plywire` with its run directories below `base`."""

    def __init__(self, base: Path) -> None:
        self.base = base
        kept = ("PATH", "HOME")
        self.environment = {key: os.environ[key] for key in kept if key in os.environ}
        self.environment["PLYWIRE_RUN_DIR"] = str(base)

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [PLYWIRE, *arguments], capture_output=True, text=True, env=self.environment, timeout=60
        )

    def up(self, lab: str, *arguments: str) -> str:
        """Start the lab of a file with this text."""
        file = self.base / "lab.toml"
        file.write_text(lab)
        return self.do("up", "-f", str(file), *arguments)

    def do(self, *arguments: str) -> str:
        """What a command prints, which must end well."""
        done = self(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def refused(self, *arguments: str, code: int) -> str:
        """The one line with which a command refuses, and nothing on standard output."""
        done = self(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done
        assert done.stderr.startswith("plywire: ")
        return done.stderr

    def directory(self, lab: str = "default") -> Path:
        return self.base / lab

    def end(self) -> None:
        """End what a failed test has left up."""
        for directory in filter(Path.is_dir, self.base.iterdir()):
            pid = supervisor_of(directory)
            if pid is not None and pid != os.getpid():
                os.kill(pid, signal.SIGTERM)
