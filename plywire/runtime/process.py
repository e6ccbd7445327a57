"""One layer as a process: `python -m services.tcp --lab lab.toml --host h1 --run-dir DIR`.

The process is ready when its inboxes are bound (and, for app, the API listens); it then prints
`ready` on its standard output. It stops on SIGTERM, and with --supervised also when its standard
input ends, which is how it dies with its supervisor.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from plywire.config import EVERYWHERE, WIRES, HostConfig, LabConfig
from plywire.errors import ConfigError
from plywire.layer import Layer, Program
from plywire.registry import devices, find, implementation
from plywire.roles import LOSSLESS, Role, neighbours
from plywire.runtime import config as places
from plywire.runtime import logs, program
from plywire.runtime.clock import LabClock
from plywire.runtime.handover import STATE_MAX, Handover, Successor, state_format
from plywire.runtime.heartbeat import Heartbeat
from plywire.runtime.lock import Held, Lock, holder
from plywire.runtime.observer import Control, Publisher
from plywire.runtime.pipe import Pipe
from plywire.runtime.shell import Port, Shell
from plywire.runtime.store import FileStore
from plywire.trace import Tracer

EXIT_OK = 0
_LAST_WORDS = 1000  # ms that the answer to who leads an exchange may take
EXIT_CONFIG = 2
"""The configuration cannot be used: starting again will not help."""

OpenPorts = Callable[
    [HostConfig, zmq.Context, Path, dict[str, list[str]], LabClock], Sequence[Port]
]
"""`open_ports(host, context, directory, peers, clock)`; peers: endpoints of the other stations on
the wire of each interface, by the interface's name; clock: the lab's."""

Verb = Callable[[Shell, list], object]
"""Something that a process can be asked to do besides its layer: `verb(shell, arguments)`."""

Serve = Callable[[Shell, HostConfig, Path, Callable[[], None]], Awaitable[None]]
"""`serve(shell, host, directory, ready)`: run until cancelled; call ready() when reachable."""

log = logging.getLogger(__name__)


def main(
    role: Role,
    *,
    open_ports: OpenPorts | None = None,
    serve: Serve | None = None,
    verbs: Mapping[str, Verb] | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """Run one layer until it is told to stop, and exit the process."""
    arguments = _arguments(role, argv)
    logs.set_up(f"{arguments.host}.{role}")
    if arguments.supervised:  # Ctrl-C reaches the whole group: the supervisor decides
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = _run(role, arguments, open_ports, serve, verbs or {})
    except (ConfigError, Held) as error:
        log.error("%s", error)
        code = EXIT_CONFIG
    except KeyboardInterrupt:
        code = EXIT_OK
    sys.stdout.flush()
    os._exit(code)  # sockets and locks are released above; threads of libraries are not waited for


def layer_alive(directory: Path | str, host: str, role: Role) -> bool:
    """A process holds this layer's lock."""
    return holder(_lock_path(directory, host, role)) is not None


def wire_peers(lab: LabConfig, host: HostConfig, directory: Path) -> dict[str, list[str]]:
    """For each interface of `host` on a wire: where the wire's other stations are reached."""
    peers: dict[str, list[str]] = {}
    for mine in host.interfaces:
        if mine.device not in WIRES:
            continue
        peers[mine.name] = [
            other.listen or places.wire_endpoint(directory, station.name, other.name)
            for station in lab.hosts.values()
            for other in station.interfaces
            if other.device in WIRES
            and other.wire == mine.wire
            and other is not mine
            # Who listens on all addresses is found under a name that only `peers` can tell.
            and not other.listen.startswith(EVERYWHERE)
        ]
        peers[mine.name] += mine.peers
    return peers


def _wakeups(supervised: bool) -> list[int]:
    """Descriptors that become readable when this process is to stop.

    A signal may come just before the poll sleeps, where a handler could not end it; the pipe that
    Python writes each signal's number into does.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    return [reader, 0] if supervised else [reader]


def _arguments(role: Role, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{role}", description=f"Run the {role} layer of one plywire host."
    )
    parser.add_argument("--lab", type=Path, help="the lab file (default: the default lab)")
    parser.add_argument("--host", required=True, help="which host of the lab this is")
    parser.add_argument("--run-dir", type=Path, required=True, help="where the pipes are")
    parser.add_argument("--impl", default="", help="module:factory of another implementation")
    parser.add_argument("--supervised", action="store_true", help="stop when standard input ends")
    parser.add_argument(
        "--successor", action="store_true", help="wait to take over from the process that runs now"
    )
    return parser.parse_args(argv)


def _run(
    role: Role,
    arguments: argparse.Namespace,
    open_ports: OpenPorts | None,
    serve: Serve | None,
    verbs: Mapping[str, Verb],
) -> int:
    lab = places.load_lab(arguments.lab)
    host = lab.hosts.get(arguments.host)
    if host is None:
        known = ", ".join(lab.hosts)
        raise ConfigError(f"--host {arguments.host}", f"not in the lab; there are {known}")
    directory = arguments.run_dir
    places.make_run_dir(directory)
    spec = arguments.impl or implementation(host, role)
    found = find(spec)
    if isinstance(found, Program):
        return _program(role, host, spec, found, arguments)
    lock = None if arguments.successor else Lock(_lock_path(directory, host.name, role))
    tracer = Tracer(host.name, role)
    layer = found(host, random.SystemRandom(), tracer)
    if layer.role != role:
        raise ConfigError(f"implementation {spec!r}", f"is {layer.role}, and cannot be {role}")
    context = zmq.Context()
    clock = LabClock(directory)
    # asyncio has its own way with signals
    wakeups = _wakeups(arguments.supervised) if serve is None or arguments.successor else []
    place = places.handover_endpoint(directory, host.name, role, os.getpid())
    leading = zmq.Context()  # outlives the other: `left` is said when all else is released
    leader = Control(leading, place, {}, longest=STATE_MAX)
    successor: Successor | None = None
    if arguments.successor:
        successor = Successor(leader, layer, spec, clock)
        _freeze()
        _say("prepared")
        if not successor.wait(wakeups):
            leader.close()
            return EXIT_OK
        lock = Lock(_lock_path(directory, host.name, role))
    kept, store = _keep(layer, places.region(directory, host.name, role), clock, successor)
    shell: Shell | None = None
    heartbeat: Heartbeat | None = None
    try:
        taken = (successor and successor.taken) or {"pipes": {}, "ports": {}}
        generation = taken.get("generation") or random.SystemRandom().getrandbits(63) | 1
        line = _line(store, generation, bool(kept) or "generation" in taken)
        shell = _shell(
            role,
            host,
            layer,
            spec,
            tracer,
            context,
            directory,
            clock,
            verbs,
            generation,
            taken,
            kept,
            line,
        )
        shell.hand_over_by(Handover(leader, shell, spec, generation))
        open_ports = devices(spec) or open_ports
        if open_ports is not None:
            peers = wire_peers(lab, host, directory)
            for port in open_ports(host, context, directory, peers, clock):
                shell.add_port(port)
                if port.ifindex in taken["ports"]:
                    port.restore(taken["ports"][port.ifindex])
        if not arguments.supervised:
            heartbeat = Heartbeat(places.alive_path(directory, host.name, role))
            shell.add_timer(heartbeat)
        if successor is None:
            _freeze()
        log.info("%s runs as %s (pid %d)", role, spec, os.getpid())
        if serve is not None:
            asyncio.run(_serve(serve, shell, host, directory, arguments.supervised, successor))
        else:
            _begin(shell, successor)
            shell.run(wakeups)
    finally:
        if shell is not None:
            shell.close()
            # Waits until every connection and listener has ended, and last words have gone out: a
            # link whose goodbye is lost is looked for, and that holds the wire up.
            context.destroy()
        if heartbeat is not None:
            heartbeat.close()
        if lock is not None:
            lock.release()
        if shell is not None and shell.leaving:
            shell.handover.left()
        leader.close(_LAST_WORDS)
        leading.term()
    return EXIT_OK


def _keep(
    layer: Layer, place: Path, clock: LabClock, successor: Successor | None
) -> tuple[Mapping[Role, int], FileStore | None]:
    """Let the layer keep what must outlive it, if it is one that can. Returns the neighbours, with
    their generation, that may go on with it as with a predecessor that died; and where it keeps."""
    if not hasattr(layer, "keep_in"):
        shutil.rmtree(place, ignore_errors=True)  # it would be out of date for whoever comes next
        return {}, None
    try:
        store = FileStore(place)
    except OSError as error:
        layer.counters["region_no_room"] += 1
        log.warning("connections would not survive this process: %s", error)
        return {}, None
    restored = successor is not None and successor.taken is not None
    return layer.keep_in(store, clock.now(), log.warning, restored), store


def _line(store: FileStore | None, generation: int, heir: bool) -> list[int]:
    """The generations that this process stands for: its own, and of those whose heir it is."""
    if store is None:
        return [generation]
    try:
        return store.stands_for(generation, heir)
    except OSError as error:
        log.warning("a neighbour that dies together with this process starts anew: %s", error)
        return [generation]


def _program(
    role: Role, host: HostConfig, spec: str, found: Program, arguments: argparse.Namespace
) -> int:
    """Become a program, which takes the locks itself: at once, or when it is to take over."""
    program.check(found, role)
    directory = arguments.run_dir
    if not arguments.successor:  # else a predecessor still has it
        shutil.rmtree(places.region(directory, host.name, role), ignore_errors=True)  # as in _keep
    supervised, successor = arguments.supervised, arguments.successor
    told = program.settings(role, host, directory, spec, supervised, successor)
    return program.become(found, told)


def _freeze() -> None:
    """What start-up made is never garbage: later collections need not look at it."""
    gc.collect()
    gc.freeze()


def _begin(shell: Shell, successor: Successor | None) -> None:
    """Ready: say so, and send what a predecessor still had to send."""
    if successor is not None:
        for neighbour, messages in successor.held().items():
            shell.pipes[neighbour].queue(messages)
        successor.done()
    _say("ready")


def _shell(
    role: Role,
    host: HostConfig,
    layer: Layer,
    spec: str,
    tracer: Tracer,
    context: zmq.Context,
    directory: Path,
    clock: LabClock,
    extra: Mapping[str, Verb],
    generation: int,
    taken: Mapping[str, Any],
    kept: Mapping[Role, int],
    line: Sequence[int],
) -> Shell:
    pipes = {
        neighbour: Pipe(
            context,
            role,
            neighbour,
            places.inbox(directory, host.name, role, neighbour),
            places.inbox(directory, host.name, neighbour, role),
            generation,
            bool({(role, neighbour), (neighbour, role)} & LOSSLESS),
            layer.counters,
            taken["pipes"].get(neighbour, (None, None)),
            kept.get(neighbour),
            line,
        )
        for neighbour in neighbours(role)
    }
    started = time.monotonic_ns()
    shell = Shell(layer, pipes, tracer, clock=clock)

    def counters(now: int) -> dict[str, int]:
        """The layer's own view of them, which may have more, and those of pipes and devices."""
        try:
            own = layer.describe("counters", now)
        except KeyError:
            own = {}
        return {**own, **shell.counters()}

    def describe(now: int, topic: str) -> object:
        if topic == "counters":
            return counters(now)
        if topic == "runtime":  # what tools ask again and again, in one answer
            usage = {"cpu_ns": time.process_time_ns(), "counters": counters(now)}
            return {**ping(now), **usage, "traffic": shell.traffic()}
        if topic == "format":
            return state_format(layer, spec)
        return layer.describe(topic, now)

    def ping(now: int) -> object:
        return {
            "implementation": spec,
            "pid": os.getpid(),
            "uptime_ns": time.monotonic_ns() - started,
        }

    def request(now: int, verb: str, *arguments: object) -> object:
        if verb == "clock":
            return _clock(clock, *arguments)
        if verb in extra:
            return extra[verb](shell, list(arguments))
        if hasattr(layer, "ask"):
            return layer.ask(verb, list(arguments), now)
        raise KeyError(verb)

    verbs: dict[str, Callable[..., object]] = {
        "describe": describe, "ping": ping, "ask": request,
    }  # fmt: skip
    shell.control = Control(context, places.control_endpoint(directory, host.name, role), verbs)
    shell.publisher = Publisher(context, places.trace_endpoint(directory, host.name, role))
    return shell


def _clock(clock: LabClock, what: str = "show", *arguments: object) -> object:
    """What every process can be asked: the lab's clock. To be asked wakes it, so that it looks."""
    if what == "plan":
        return clock.plan(*arguments)
    if what == "adopt":
        clock.adopt(arguments)
    elif what != "show":
        raise KeyError(what)
    return clock.describe()


async def _serve(
    serve: Serve,
    shell: Shell,
    host: HostConfig,
    directory: Path,
    supervised: bool,
    successor: Successor | None,
) -> None:
    """Run the shell and `serve` in this loop until a signal, the end of stdin, or a failure."""
    loop = asyncio.get_running_loop()
    work = asyncio.create_task(serve(shell, host, directory, partial(_begin, shell, successor)))
    shell.handover.on_leave = work.cancel
    loop.add_signal_handler(signal.SIGTERM, work.cancel)
    if supervised:

        def ended() -> None:
            loop.remove_reader(0)
            work.cancel()

        loop.add_reader(0, ended)
    else:
        loop.add_signal_handler(signal.SIGINT, work.cancel)
    shell.attach(loop)
    try:
        await work
    except asyncio.CancelledError:
        pass  # told to stop


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def _lock_path(directory: Path | str, host: str, role: Role) -> Path:
    return Path(directory) / f"{host}.{role}.lock"
