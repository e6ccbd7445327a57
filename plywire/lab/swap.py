"""One layer of a running lab exchanged for another implementation, or for itself with other
numbers, while its neighbours and its connections go on.

The successor is started first and waits. Then the layer is fenced and drained, its state is handed
to the successor, and that one takes the endpoints over (plywire.runtime.handover has the processes'
side). Until then nothing is given up: whatever goes wrong, the old process goes on, and nothing is
lost. After that the successor is on probation: when it dies then, the old implementation is
started in its place.
"""

from __future__ import annotations

import shutil
import time
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from plywire.config import LabConfig, parse
from plywire.errors import ConfigError
from plywire.lab.child import DOWN, PREPARED, UP, Child
from plywire.lab.dump import dump_lab
from plywire.lab.rundir import LabError
from plywire.lab.supervisor import START_LIMIT, Lab
from plywire.layer import Program
from plywire.registry import find, implementation
from plywire.roles import APP, LAYERS, TCP, Role
from plywire.runtime import config as places
from plywire.runtime.observer import Asker

PROBATION = 1.0
"""Seconds that a successor has to live before the exchange counts as done."""
UNDER_WAY = "another exchange is under way; try again when it is over"
_STEP_LIMIT = 5.0
_HARD_STATE = {TCP: "connections", APP: "sockets"}
"""Layers whose state cannot be made again, and what they describe it as."""


class Report(NamedTuple):
    """How an exchange went. Times in seconds: started is the successor's start, before the fence;
    pause from the fence until the successor works. size: bytes of the state. silent: neighbours
    that did not answer the fence."""

    host: str
    role: Role
    before: str
    after: str
    started: float
    pause: float
    size: int
    silent: tuple[str, ...]


def swap(
    lab: Lab,
    host: str,
    role: Role,
    spec: str = "",
    settings: Mapping[str, str] | None = None,
    *,
    fresh: bool = False,
    dry_run: bool = False,
    probation: float = PROBATION,
    say: Callable[[str], None] = lambda _: None,
) -> Report | None:
    """Exchange one layer. spec: `module:factory`, the present one when empty; settings: keys of
    the layer's table in the lab file, with values as they would stand there. fresh: begin without
    the old state. dry_run: only say what would happen (None is returned).

    `say` is told beforehand what will happen to what is open. Raises LabError with the reason when
    the old implementation goes on; nothing is lost then.
    """
    name = require(lab.config, host, role)
    if not lab.swapping.acquire(blocking=False):
        raise LabError(f"{name}: {UNDER_WAY}")
    try:
        if lab.layer(host, role).state != UP:
            raise LabError(f"{name} is {lab.layer(host, role).state}: there is nothing to exchange")
        before = implementation(lab.config.hosts[host], role)
        config = changed(lab.config, host, role, spec, settings or {})
        with _Exchange(lab, host, role, before, config) as exchange:
            exchange.prepare(fresh, say)
            return None if dry_run else exchange.run(probation)
    finally:
        lab.swapping.release()


def require(config: LabConfig, host: str, role: Role) -> str:
    """The name of a layer, `h1.tcp`. Raises LabError when there is none such in the lab."""
    if host not in config.hosts:
        raise LabError(f"no host {host!r} in this lab; there are {', '.join(config.hosts)}")
    if role not in LAYERS:
        raise LabError(f"no layer {role!r}; there are {', '.join(LAYERS)}")
    return f"{host}.{role}"


def changed(
    config: LabConfig, host: str, role: Role, spec: str, settings: Mapping[str, str]
) -> LabConfig:
    """The lab with another implementation of a layer, and other numbers. Raises LabError."""
    data = tomllib.loads(dump_lab(config))
    table = data["hosts"][host]
    if spec:
        table.setdefault("implementations", {})[role] = spec
    for key, text in settings.items():
        table.setdefault(role, {})[key] = _value(text)
    try:
        return parse(data, "swap")
    except ConfigError as error:
        raise LabError(str(error)) from None


def _value(text: str) -> object:
    """`0.2`, `true` and `"x"` are what TOML takes them for; anything else is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


class _Exchange:
    """One exchange: the processes on both sides, and the way back."""

    def __init__(self, lab: Lab, host: str, role: Role, before: str, config: LabConfig) -> None:
        self._lab, self._host, self._role = lab, host, role
        self._name = f"{host}.{role}"
        self._before = before
        self._config = config
        self._after = implementation(config.hosts[host], role)
        self._asker = Asker()
        self._file = lab.directory / f"lab.{self._name}.toml"
        self._old_pid = lab.layer(host, role).pid
        self._new: Child | None = None
        self._fresh = False
        self._program = False
        self._started = 0.0
        self._adopted = False

    def __enter__(self) -> _Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        if self._new is not None and not self._adopted:
            self._lab.kill(self._new)
        self._file.unlink(missing_ok=True)
        self._asker.close()

    def prepare(self, fresh: bool, say: Callable[[str], None]) -> None:
        """Start the successor, and find out what will happen to what is open."""
        began = time.monotonic()
        self._file.write_text(dump_lab(self._config), encoding="utf-8")
        self._new = new = self._lab.start_successor(self._host, self._role, self._after, self._file)
        self._lab.wait_for(lambda _: new.state == PREPARED or new.ending, START_LIMIT)
        if new.state != PREPARED:
            words = new.last_words if new.ending else f"not ready within {START_LIMIT:g} s"
            raise self._kept(f"{self._after} cannot start: {words or new.ending}")
        try:
            self._program = isinstance(find(self._after), Program)
        except ConfigError as error:
            raise self._kept(f"{self._after}: {error}") from None
        self._started = time.monotonic() - began
        theirs = self._ask(new.process.pid, "format")
        own = self._describe("format")
        what = _HARD_STATE.get(self._role, "")
        rows = self._describe(what) if what else []
        count = sum(row["state"] != "TIME-WAIT" for row in rows)
        self._fresh = fresh or own != theirs
        say(f"{self._name}: {self._before} -> {self._after}")
        if not self._fresh:
            open_ones = f"{count} {what} are open and go on" if what else "its tables go on"
            say(f"{open_ones}; what is on its way waits meanwhile")
        elif not what:
            say("its tables are made anew; connections go on, packets on their way may be lost")
        elif not count or fresh:
            say(f"begins anew: {count} {what} end with ECONNRESET")
        else:
            raise self._kept(
                f"{self._after} cannot take over {count} open {what} (it reads {theirs}, they are"
                f" {own}); --fresh ends them"
            )

    def run(self, probation: float) -> Report:
        """Fence, hand over, let the successor go on, and see whether it lives."""
        new = self._new
        began = time.monotonic()
        fenced = self._fence()
        size = 0
        try:
            if not self._fresh:
                size = self._ask(new.process.pid, "take", fenced)
            self._lab.expect_end(self._host, self._role, True)
            self._ask(self._old_pid, "leave")
        except LabError as error:
            self._lab.expect_end(self._host, self._role, False)
            self._ask(self._old_pid, "lift")
            raise self._kept(str(error)) from None
        if self._program:  # it keeps nothing, and knows of no region
            shutil.rmtree(places.region(self._lab.directory, self._host, self._role), True)
        old_config = self._lab.config
        new.on_probation = lambda: self._lab.go_back(new, old_config)
        self._lab.adopt(new, self._config)
        self._adopted = True
        try:
            self._ask(new.process.pid, "go")
        except (LabError, AttributeError):
            pass  # it has ended, or will not go on: probation decides
        self._lab.wait_for(lambda _: new.state == UP or new.ending, _STEP_LIMIT)
        pause = time.monotonic() - began
        if new.state not in (UP, DOWN):
            self._lab.kill(new)
        self._lab.wait_for(lambda _: bool(new.ending), probation)
        if new.ending:
            raise self._kept(f"{self._after} {new.ending} within its probation: {new.last_words}")
        new.on_probation = None
        return Report(
            self._host, self._role, self._before, self._after, self._started, pause, size,
            tuple(fenced["silent"]),
        )  # fmt: skip

    def _fence(self) -> dict[str, Any]:
        try:
            return self._ask(self._old_pid, "fence")
        except LabError as error:
            raise self._kept(str(error)) from None

    def _kept(self, reason: str) -> LabError:
        return LabError(f"{reason}. {self._name} goes on as {self._before}")

    def _describe(self, topic: str) -> Any:
        endpoint = places.control_endpoint(self._lab.directory, self._host, self._role)
        return self._question(endpoint, "describe", topic)

    def _ask(self, pid: int, *question: object) -> Any:
        endpoint = places.handover_endpoint(self._lab.directory, self._host, self._role, pid)
        return self._question(endpoint, *question)

    def _question(self, endpoint: str, *question: object) -> Any:
        """The answer. Raises LabError when there is none, or a refusal."""
        try:
            return self._asker.ask(endpoint, *question, timeout=_STEP_LIMIT)
        except (TimeoutError, ValueError) as error:
            raise LabError(str(error)) from None
