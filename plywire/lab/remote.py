"""The front door of a lab in containers: `python -m plywire.lab.remote`, run by compose.yaml.

It serves the lab's control service over TCP, says what is ready and what is missing, draws the
first handshake, and then keeps a file fresh for as long as the lab works: the container's health is
that file's age.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

from plywire.errors import ConfigError
from plywire.lab.containers import Containers
from plywire.lab.control import LabClient
from plywire.lab.rundir import LabError
from plywire.lab.service import Service
from plywire.lab.story import run_connect
from plywire.lab.views import table
from plywire.roles import LAYERS
from plywire.runtime import config as places
from plywire.runtime import logs

PATIENCE = 10.0
"""Seconds until it is said what is missing, and between two times."""
_LOOK_SOON = 0.1
_LOOK = 2.0
_MEETING = 3.0
_TRY_AGAIN = 3.0


class Stopped(Exception):
    """This process was told to end."""


class FrontDoor:
    """What a lab in containers says of itself, from `run` on until `stopping` is set.

    story: (host, destination, port) of the handshake that shows that the lab works. healthy: the
    file that is touched. say: prints a line.
    """

    def __init__(
        self,
        lab: Containers,
        target: str,
        story: tuple[str, str, int],
        healthy: Path,
        stopping: threading.Event,
        say: Callable[[str], object],
    ) -> None:
        self._lab = lab
        self._target = target
        self._story = story
        self._healthy = healthy
        self._stopping = stopping
        self._say = say

    def run(self) -> None:
        """Wait for the layers, greet, show the handshake, watch."""
        self._healthy.unlink(missing_ok=True)
        with LabClient(target=self._target) as client:
            try:
                self._wait(self._lab.missing)
                self._let_them_meet()
                for line in self._banner():
                    self._say(line)
                self._wait(lambda: self._unserved(client))
                self._shake_hands(client)
                self._watch()
            except Stopped:
                pass
            finally:
                self._healthy.unlink(missing_ok=True)

    def _wait(self, missing: Callable[[], list[str]]) -> None:
        """Until nothing is missing; what still is is named after PATIENCE, and again and again."""
        waited_since = said_at = time.monotonic()
        while names := missing():
            now = time.monotonic()
            if now - said_at >= PATIENCE:
                said_at = now
                self._say(
                    f"still missing after {now - waited_since:.0f} s: {', '.join(names)};"
                    f" see `docker compose ps -a` and `docker compose logs {_service(names[0])}`"
                )
            self._pause(_LOOK_SOON)

    def _let_them_meet(self) -> None:
        """Give the layers time to find one another, so that the first SYN is not lost. A station
        that is not there, and need not be, is not waited for long."""
        end = time.monotonic() + _MEETING
        while self._lab.strangers() and time.monotonic() < end:
            self._pause(_LOOK_SOON)

    def _unserved(self, client: LabClient) -> list[str]:
        """The program that the handshake is to reach, when it does not listen yet."""
        _, server, port = self._story
        try:
            listeners = client.describe(server, "tcp", "listeners")
        except LabError:
            return [f"{server}.tcp"]
        there = any(item["local_port"] == port for item in listeners)
        return [] if there else [f"{server}.web (nothing listens on {server}:{port})"]

    def _banner(self) -> list[str]:
        hosts = self._lab.config.hosts
        rows = []
        for name, host in hosts.items():
            addresses = (IPv4Address(interface.address) for interface in host.interfaces)
            rows.append([name, ", ".join(map(str, addresses)), self._lab.target(name)])
        count = len(hosts) * len(LAYERS)
        lab = os.environ.get("PLYWIRE_PUBLISHED", self._target)
        return [
            f"plywire: {count} layers are up, one container each",
            "",
            *(f"  {line}" for line in table(["HOST", "ADDRESS", "SOCKET API (gRPC)"], rows)),
            "",
            f"  the lab's control service: {lab}",
            f"  from outside:  plywire --target {lab} status",
            "  from a container:  docker compose run --rm cli connect h1 h2:80",
            "",
        ]

    def _shake_hands(self, client: LabClient) -> None:
        """The first handshake, drawn; the lab works when one was made."""
        host, destination, port = self._story
        self._say(f"The first handshake, {host} connects to {destination}:{port}:")
        while True:
            try:
                if run_connect(client, host, destination, port, timeout=PATIENCE) == 0:
                    break
            except (LabError, OSError) as error:
                self._say(f"the handshake cannot be shown: {error}")
            self._pause(_TRY_AGAIN)
        self._say("READY")

    def _watch(self) -> None:
        """Keep the file fresh while every layer lives; say when one goes and comes back."""
        gone: list[str] = []
        while True:
            missing = self._lab.missing()
            if missing != gone:
                self._say(
                    f"missing: {', '.join(missing)}" if missing else "all layers are up again"
                )
                gone = missing
            if not missing:
                self._healthy.touch()
            self._pause(_LOOK)

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise Stopped


def main() -> None:
    """Run the front door of the lab that the command line names until SIGTERM."""
    arguments = _arguments()
    logs.set_up("lab")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        lab = Containers(
            places.load_lab(arguments.lab),
            arguments.base,
            tuple(arguments.hosts.split(",")),
            dict(pair.split("=", 1) for pair in arguments.apis.split(",") if pair),
        )
        host, _, destination = arguments.story.partition("/")
        name, _, port = destination.rpartition(":")
        with Service(lab, arguments.listen) as service:
            door = FrontDoor(
                lab, service.target, (host, name, int(port)), arguments.healthy, stopping, _say
            )
            door.run()
    except (LabError, ConfigError, ValueError) as error:
        print(f"plywire: {error}", file=sys.stderr)
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m plywire.lab.remote", description=__doc__)
    parser.add_argument("--lab", type=Path, help="the lab file of all hosts")
    parser.add_argument("--base", type=Path, required=True, help="holds a directory for each host")
    parser.add_argument("--hosts", required=True, help="h1,h2: the hosts that have to be there")
    parser.add_argument("--apis", default="", help="h1=127.0.0.1:7441,...: their APIs from outside")
    parser.add_argument("--listen", required=True, help="HOST:PORT of the control service")
    parser.add_argument("--story", default="h1/h2:80", help="the first handshake: FROM/TO:PORT")
    parser.add_argument("--healthy", type=Path, required=True, help="touched while all is well")
    return parser.parse_args()


def _service(name: str) -> str:
    """The compose service of a layer that is called `h1.tcp`."""
    return name.split(" ")[0].replace(".", "-")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
