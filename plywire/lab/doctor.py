"""`plywire doctor`: what a lab needs of this machine, looked at without a lab."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from plywire.config import LabConfig
from plywire.errors import ConfigError
from plywire.lab.rundir import LOCK, supervisor_of
from plywire.layer import Program
from plywire.registry import find, implementation
from plywire.roles import LAYERS, neighbours
from plywire.runtime import config as places
from plywire.runtime import program
from plywire.runtime.libraries import ipc_works, libzmq_version
from plywire.runtime.lock import holder

OK, WARN, FAIL = "ok", "warn", "fail"

_PACKAGES = ("pyzmq", "msgpack", "grpcio", "protobuf", "click", "prometheus_client")
_FREE_FAIL, _FREE_WARN = 4 << 20, 64 << 20
"""Bytes of free space: a layer keeps up to 2 MiB of log."""
_DESCRIPTORS_PER_LAYER = 64
_NET_ADMIN = 12
_TUN = Path("/dev/net/tun")
_ANSWER_LIMIT = 5.0


class Finding(NamedTuple):
    """verdict: OK, WARN (some things will not work) or FAIL (a lab cannot run); remedy: what to do,
    "" when there is nothing to do."""

    verdict: str
    what: str
    text: str
    remedy: str = ""


def examine(lab: str | None, file: Path | str | None = None) -> list[Finding]:
    """Everything that is looked at, for the lab in `file` or the default lab."""
    findings = [_python(), *map(_package, _PACKAGES), _ipc()]
    try:
        config = places.load_lab(file)
        name = lab or config.name
        directory = places.run_dir(name)
    except ConfigError as error:
        return [*findings, Finding(FAIL, "lab", str(error), "correct that"), *_programs()]
    findings.append(
        Finding(OK, "lab", f"{name}: {len(config.hosts)} hosts, of {file or 'default'}")
    )
    pid = supervisor_of(directory)
    looks: list[Callable[[], Iterable[Finding]]] = [
        lambda: _directory(directory),
        lambda: _paths(config, directory),
        lambda: _left_over(directory, pid),
        lambda: _implementations(config),
        lambda: _ports(config, pid),
        lambda: _tap(config),
        lambda: _limits(config),
        _programs,
    ]
    for look in looks:
        findings += look()
    return findings


def finding_lines(findings: Iterable[Finding]) -> list[str]:
    """A line a finding, with the remedy behind it."""
    found = list(findings)
    width = max(len(finding.what) for finding in found)
    lines = []
    for finding in found:
        remedy = f": {finding.remedy}" if finding.remedy else ""
        lines.append(f"{finding.verdict:<4}  {finding.what:<{width}}  {finding.text}{remedy}")
    return lines


# --- what plywire runs on -------------------------------------------------------------------------


def _python() -> Finding:
    return Finding(OK, "python", ".".join(map(str, sys.version_info[:3])))


def _package(name: str) -> Finding:
    """A library, and whether it is as new as plywire's package asks for."""
    wanted = _wanted(name)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(FAIL, name, "is not installed", f"pip install '{name}{wanted}'")
    if wanted and _numbers(version) < _numbers(wanted):
        return Finding(FAIL, name, f"{version}, not {wanted}", f"pip install '{name}{wanted}'")
    more = f" (libzmq {libzmq_version()})" if name == "pyzmq" else ""
    return Finding(OK, name, version + more)


def _wanted(name: str) -> str:
    """What plywire asks of a package, as `>=26`; "" when it is not known."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for line in importlib.metadata.requires("plywire") or ():
            match = re.match(r"([\w.-]+)\s*(>=[\d.]+)", line)
            if match and match[1].replace("-", "_") == name.replace("-", "_"):
                return match[2]
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def _ipc() -> Finding:
    if ipc_works():
        return Finding(OK, "pipes", "libzmq can use unix sockets")
    return Finding(FAIL, "pipes", "libzmq was built without ipc", "pip install --force pyzmq")


# --- where the lab lives --------------------------------------------------------------------------


def _directory(directory: Path) -> Iterator[Finding]:
    place = directory
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        yield Finding(FAIL, "run directory", f"{place} cannot be written to",
                      "set PLYWIRE_RUN_DIR to a directory of yours")  # fmt: skip
        return
    free = shutil.disk_usage(place).free
    text = f"{directory}, {free >> 20} MiB free"
    if free < _FREE_WARN:
        verdict = FAIL if free < _FREE_FAIL else WARN
        yield Finding(verdict, "run directory", text, "make room, or set PLYWIRE_RUN_DIR")
    else:
        yield Finding(OK, "run directory", text)


def _paths(config: LabConfig, directory: Path) -> Iterator[Finding]:
    """The longest path of a unix socket that the lab will bind."""
    longest = ""
    try:
        for name, host in config.hosts.items():
            paths = [places.control_endpoint(directory, name, role) for role in LAYERS]
            paths += [places.inbox(directory, name, role, other)
                      for role in LAYERS for other in neighbours(role)]  # fmt: skip
            paths += [places.wire_endpoint(directory, name, item.name) for item in host.interfaces]
            longest = max((longest, *paths), key=len)
    except ConfigError as error:
        yield Finding(FAIL, "path lengths", error.where, error.reason)
        return
    size = len(os.fsencode(longest.removeprefix("ipc://")))
    yield Finding(OK, "path lengths", f"{size} of {places.IPC_PATH_MAX} bytes")


def _left_over(directory: Path, pid: int | None) -> Iterator[Finding]:
    """Who holds the run directory, and what a lab that was killed has left in it."""
    if pid is not None:
        yield Finding(OK, "run directory in use", f"the lab is up (pid {pid})")
        return
    holders = {}
    stale = []
    if directory.is_dir():
        for path in sorted(directory.iterdir()):
            if path.name == LOCK or path.is_dir():
                continue
            owner = holder(path) if path.suffix == ".lock" else None
            if owner is None:
                stale.append(path.name)
            else:
                holders[owner] = path.name
    if holders:
        pids = " ".join(map(str, sorted(holders)))
        yield Finding(FAIL, "run directory in use", f"by processes without a lab: {pids}",
                      f"end them (kill {pids})")  # fmt: skip
    elif stale:
        yield Finding(WARN, "stale files", f"{len(stale)} of a lab that was killed",
                      "none to do, the next `plywire up` removes them")  # fmt: skip
    else:
        yield Finding(OK, "stale files", "none")


# --- what the lab file asks for -------------------------------------------------------------------


def _implementations(config: LabConfig) -> Iterator[Finding]:
    specs = {
        (implementation(host, role), role) for host in config.hosts.values() for role in LAYERS
    }
    for spec, role in sorted(specs):
        try:
            found = find(spec)
            if isinstance(found, Program):
                program.check(found, role)
        except ConfigError as error:
            yield Finding(FAIL, "layers", str(error), "install it, or set PYTHONPATH")
            return
    yield Finding(OK, "layers", f"{len(specs)} implementations can be loaded")


def _ports(config: LabConfig, pid: int | None) -> Iterator[Finding]:
    """The TCP ports that the file names, which must be free until the lab is up."""
    wanted: dict[str, str] = {}
    for name, host in config.hosts.items():
        if host.app.listen and not host.app.listen.startswith("unix:"):
            wanted[host.app.listen] = f"the socket API of {name}"
        for item in host.interfaces:
            if item.listen.startswith("tcp://"):
                wanted[item.listen.removeprefix("tcp://")] = f"{name}.{item.name}"
    if config.metrics:
        wanted[config.metrics] = "the metrics"
    if not wanted or pid is not None:
        text = "none to listen on" if not wanted else "the lab is up and has them"
        yield Finding(OK, "ports", text)
        return
    for address, use in wanted.items():
        reason = _cannot_bind(address)
        if reason:
            yield Finding(FAIL, "ports", f"{address}, for {use}: {reason}",
                          "end what listens there, or name another")  # fmt: skip
        else:
            yield Finding(OK, "ports", f"{address} is free, for {use}")


def _cannot_bind(address: str) -> str:
    """Why nobody can listen at HOST:PORT now, or ""."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]").replace("*", "")
    try:
        found = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM,
                                   flags=socket.AI_PASSIVE)  # fmt: skip
        family, kind, protocol, _, place = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except (OSError, ValueError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def _tap(config: LabConfig) -> Iterator[Finding]:
    needed = any(item.device == "tap" for host in config.hosts.values() for item in host.interfaces)
    verdict = FAIL if needed else WARN
    only = "" if needed else ' (for `device = "tap"` alone)'
    if not _TUN.exists():
        yield Finding(verdict, "TAP", f"there is no {_TUN}{only}", "modprobe tun")
    elif not os.access(_TUN, os.R_OK | os.W_OK):
        yield Finding(verdict, "TAP", f"{_TUN} may not be opened{only}", "run as root")
    elif not _capable(_NET_ADMIN):
        remedy = "run as root, or make the TAP yours: ip tuntap add tap0 mode tap user $USER"
        yield Finding(verdict, "TAP", f"no CAP_NET_ADMIN{only}", remedy)
    else:
        yield Finding(OK, "TAP", f"{_TUN} can be used")


def _capable(number: int) -> bool:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    return match is not None and bool(int(match[1], 16) >> number & 1)


def _limits(config: LabConfig) -> Iterator[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _DESCRIPTORS_PER_LAYER + 8 * len(config.hosts)
    text = f"{soft} for a process"
    if soft < needed:
        yield Finding(WARN, "descriptors", text, f"ulimit -n {4 * needed}")
    else:
        yield Finding(OK, "descriptors", text)


# --- programs that plywire can do without ---------------------------------------------------------


def _programs() -> Iterator[Finding]:
    yield _docker()
    tshark = shutil.which("tshark") or shutil.which("wireshark")
    if tshark:
        yield Finding(OK, "wireshark", tshark)
    else:
        yield Finding(WARN, "wireshark", "neither it nor tshark is here (captures are pcapng)",
                      "apt-get install tshark")  # fmt: skip


def _docker() -> Finding:
    """An engine that answers, with compose: what `docker compose up` needs."""
    if shutil.which("docker") is None:
        return Finding(WARN, "docker", "is not here (for `docker compose up` alone)",
                       "https://docs.docker.com/engine/install")  # fmt: skip
    versions = []
    for words in (["docker", "version", "--format", "{{.Server.Version}}"],
                  ["docker", "compose", "version", "--short"]):  # fmt: skip
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=_ANSWER_LIMIT)
        except (OSError, subprocess.TimeoutExpired):
            return Finding(WARN, "docker", f"`{' '.join(words)}` does not answer", "restart it")
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it failed"])[0]
            return Finding(WARN, "docker", f"`{' '.join(words[:2])}`: {said}",
                           "start the engine, and install its compose plugin")  # fmt: skip
        versions.append(done.stdout.strip())
    return Finding(OK, "docker", f"engine {versions[0]}, compose {versions[1]}")
