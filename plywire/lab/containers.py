"""A lab whose layers run elsewhere on this machine, in containers: what can be known of it.

Nobody here starts or ends a layer: in each container plywire.lab.keeper does. Each host has a run
directory, a volume that its layers share and that is mounted here too; what is up is seen there, by
the files that the layers touch and the locks that they hold, and keepers are asked there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from plywire.config import HostConfig, LabConfig
from plywire.lab.child import DOWN, STARTING, UP, LayerStatus
from plywire.lab.keeper import ask_to_swap
from plywire.lab.rundir import LabError
from plywire.lab.swap import UNDER_WAY, Report, require
from plywire.registry import implementation
from plywire.roles import LAYERS, Role
from plywire.runtime import config as places
from plywire.runtime.heartbeat import STALE, age
from plywire.runtime.observer import ask
from plywire.runtime.process import layer_alive

_ASK_LIMIT = 1.0


class Containers:
    """The same questions as to a `plywire.lab.supervisor.Lab`, about a lab in containers.

    config: all its hosts. base: where the run directories of the hosts are, each under the host's
    name. required: the hosts that have to be up; others count while any of their layers runs. apis:
    the gRPC targets of the hosts' APIs for those outside. Methods may be called from any thread.
    """

    endless = "the layers are containers: docker compose down"
    """Why a client may not end this lab."""

    def __init__(
        self, config: LabConfig, base: Path, required: tuple[str, ...], apis: Mapping[str, str]
    ) -> None:
        unknown = [name for name in (*required, *apis) if name not in config.hosts]
        if unknown:
            raise LabError(
                f"no host {unknown[0]!r} in the lab; there are {', '.join(config.hosts)}"
            )
        self.directory = base
        self._config = config
        self._required = required
        self._apis = dict(apis)
        self._processes: dict[tuple[str, Role], str] = {}
        self._restarts: dict[tuple[str, Role], int] = {}
        self._specs: dict[tuple[str, Role], str] = {}
        self._swapping = threading.Lock()
        self._exchanged: tuple[str, Role] | None = None  # the layer that is being exchanged

    @property
    def config(self) -> LabConfig:
        """The lab, with the hosts that are there or have to be."""
        return replace(self._config, hosts=self._present())

    def place(self, host: str) -> Path:
        """The run directory of a host."""
        return self.directory / host

    def target(self, host: str) -> str:
        """The gRPC target of a host's socket API, from outside. LabError for an unknown host."""
        item = self._config.hosts.get(host)
        if item is None:
            names = ", ".join(self._config.hosts)
            raise LabError(f"no host {host!r} in this lab; there are {names}")
        return self._apis.get(host) or item.app.listen or self._unix(host)

    def missing(self) -> list[str]:
        """The layers that do not live, as `h1.tcp`; of hosts that are there or have to be."""
        return [
            f"{host}.{role}"
            for host in self._present()
            for role in LAYERS
            if not self._lives(host, role)
        ]

    def strangers(self) -> list[str]:
        """Layers that live, but have not met a neighbour or the stations of a wire yet."""
        found = []
        for host in self._present():
            for role in LAYERS:
                where = places.control_endpoint(self.place(host), host, role)
                try:
                    answer = ask(where, "describe", "runtime", timeout=_ASK_LIMIT)
                except TimeoutError:
                    found.append(f"{host}.{role} (does not answer)")
                    continue
                except ValueError:
                    continue  # an implementation that does not tell
                away = [name for name, row in answer["traffic"].items() if not row["connected"]]
                if away:
                    found.append(f"{host}.{role} (has not met {', '.join(away)})")
        return found

    def status(self) -> list[LayerStatus]:
        """Every layer, host by host, from app down to link. Those that live are asked."""
        keys = [(name, role) for name in self._present() for role in LAYERS]
        with ThreadPoolExecutor(max_workers=len(keys)) as pool:
            return list(pool.map(self._status, keys))

    def layer(self, host: str, role: Role) -> LayerStatus:
        """One layer. Raises KeyError when there is none."""
        if host not in self._config.hosts or role not in LAYERS:
            raise KeyError((host, role))
        return self._status((host, role))

    def read_logs(
        self,
        wanted: Callable[[str, Role], bool],
        lines: int,
        listener: Callable[[str, Role, str], None] | None = None,
    ) -> NoReturn:
        """Containers' logs are with the engine: LabError says how to see them."""
        names = [
            f"{host}-{role}" for host in self._present() for role in LAYERS if wanted(host, role)
        ]
        follow = " -f" if listener is not None else ""
        raise LabError(f"the logs are Docker's: docker compose logs{follow} {' '.join(names)}")

    def swap(
        self,
        host: str,
        role: Role,
        spec: str = "",
        settings: Mapping[str, str] | None = None,
        *,
        fresh: bool = False,
        dry_run: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> Report | None:
        """Exchange one layer inside its container: `plywire.lab.swap.swap`, done by its keeper."""
        name = require(self._config, host, role)
        if not self._swapping.acquire(blocking=False):
            raise LabError(f"{name}: {UNDER_WAY}")
        try:
            if (state := self._status((host, role)).state) != UP:
                raise LabError(f"{name} is {state}: there is nothing to exchange")
            self._exchanged = host, role
            request = {"spec": spec, "settings": dict(settings or {}), "fresh": fresh,
                       "dry_run": dry_run}  # fmt: skip
            report = ask_to_swap(self.place(host), host, role, request, say)
            if report is not None:
                self._processes.pop((host, role), None)  # another one now, as was meant
            return report
        finally:
            self._exchanged = None
            self._swapping.release()

    def _present(self) -> dict[str, HostConfig]:
        return {
            name: host
            for name, host in self._config.hosts.items()
            if name in self._required or any(self._lives(name, role) for role in LAYERS)
        }

    def _lives(self, host: str, role: Role) -> bool:
        if self._exchanged == (host, role):
            return True  # its file and its locks go from one process to the other
        directory = self.place(host)
        seconds = age(places.alive_path(directory, host, role))
        return seconds is not None and seconds < STALE and layer_alive(directory, host, role)

    def _status(self, key: tuple[str, Role]) -> LayerStatus:
        host, role = key
        spec = self._specs.get(key) or implementation(self._config.hosts[host], role)
        restarts = self._note(key)
        if not self._lives(host, role):
            return LayerStatus(host, role, spec, 0, 0.0, DOWN, restarts)
        where = places.control_endpoint(self.place(host), host, role)
        try:
            answer = ask(where, "ping", timeout=_ASK_LIMIT)
        except (TimeoutError, ValueError):
            return LayerStatus(host, role, spec, 0, 0.0, STARTING, restarts)
        seconds = answer["uptime_ns"] / 1e9
        self._specs[key] = answer["implementation"]
        return LayerStatus(
            host, role, answer["implementation"], answer["pid"], seconds, UP, restarts
        )

    def _note(self, key: tuple[str, Role]) -> int:
        """How often the layer was started again, as far as that was looked at."""
        if self._exchanged == key:
            return self._restarts.get(key, 0)
        try:
            process = places.alive_path(self.place(key[0]), *key).read_text(encoding="ascii")
        except FileNotFoundError:
            return self._restarts.get(key, 0)
        if process and self._processes.setdefault(key, process) != process:
            self._processes[key] = process
            self._restarts[key] = self._restarts.get(key, 0) + 1
        return self._restarts.get(key, 0)

    def _unix(self, host: str) -> str:
        return f"unix:{places.api_path(self.place(host), host)}"
