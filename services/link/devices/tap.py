"""A Linux TAP interface: frames to and from the kernel's own stack, or a bridge."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from plywire.config import HostConfig, InterfaceConfig
from plywire.errors import ConfigError
from plywire.messages import MAX_FRAME, Barrier, Frame, Message
from plywire.runtime.clock import Clock
from plywire.runtime.config import impair_path
from plywire.runtime.pipe import Context
from services.link.devices.impairing import IN, OUT, Impairing

FRAMES_PER_TURN = 64

_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000


class TapPort:
    """An open TAP. It makes the kernel's interface when there is none of that name.

    A frame from the kernel gets a trace id of its own, so that what it causes can be followed;
    its sent_at is 0, for nobody knows. The kernel's side is the administrator's to set up
    (`ip link set tap0 up`, an address): until it is up, frames to it are dropped and counted.
    """

    def __init__(
        self, ifindex: int, name: str, where: str = "tap", impairing: Impairing | None = None
    ) -> None:
        self.ifindex = ifindex
        self.name = name
        self.impairing = impairing or Impairing()
        self.counters: Counter[str] = Counter()
        self._trace = random.SystemRandom().getrandbits(48)
        self._passing = name not in {known for _, known in socket.if_nameindex()}
        self._fd = _open(name, where)

    @property
    def waiting(self) -> int:
        """Frames that an impairment holds back."""
        return self.impairing.held

    def pollable(self) -> int:
        """The file descriptor."""
        return self._fd

    def receive(self) -> list[Message]:
        """Up to FRAMES_PER_TURN frames; never waits."""
        messages: list[Message] = []
        try:
            for _ in range(FRAMES_PER_TURN):
                frame = os.read(self._fd, MAX_FRAME)
                self._trace += 1
                messages.append(Frame(self._trace, self.ifindex, 0, frame))
        except BlockingIOError:
            pass  # that was all
        if self.impairing.lines:
            return list(self.impairing.apply(self.name, IN, IN, messages))
        return messages

    def send(self, messages: Sequence[Message]) -> None:
        """Write frames; what the kernel does not take is counted as `drop_tap_<errno name>`."""
        if self.impairing.lines:
            messages = self.impairing.apply(self.name, OUT, OUT, messages)
        self._write(messages)

    def answer(self, barrier: Barrier) -> None:
        """Nothing: the kernel asks for no barriers."""

    def peers(self) -> dict[str, tuple[str, ...]]:
        """The kernel, by the interface's name; both directions can be impaired here."""
        return {self.name: (OUT, IN)}

    def deadline(self) -> int | None:
        """When a frame that was held back goes on."""
        return self.impairing.deadline()

    def expire(self, now: int) -> list[Message]:
        """Let the frames go on whose time has come; returns those that come in."""
        due = self.impairing.take_due()
        self._write([message for where, message in due if where == OUT])
        return [message for where, message in due if where == IN]

    def to_state(self) -> list:
        """Whether the interface is of this program's making, and goes with it."""
        return [self._passing]

    def restore(self, state: list) -> None:
        """The interface that the predecessor made goes with this process."""
        (self._passing,) = state
        if self._passing:
            fcntl.ioctl(self._fd, _TUNSETPERSIST, 0)

    def close(self, successor: bool = False) -> None:
        """Let go of the interface; one that was made by the opening goes away, unless a successor
        is to find it."""
        if self._fd >= 0:
            if successor and self._passing:
                fcntl.ioctl(self._fd, _TUNSETPERSIST, 1)
            os.close(self._fd)
            self._fd = -1

    def _write(self, messages: Sequence[Message]) -> None:
        write = os.write
        for message in messages:
            try:
                write(self._fd, message.frame)
            except OSError as error:
                self.counters[f"drop_tap_{errno.errorcode.get(error.errno, 'error').lower()}"] += 1


def create(
    host: HostConfig,
    interface: InterfaceConfig,
    context: Context,
    directory: Path | str,
    peers: Sequence[str],
    clock: Clock,
) -> TapPort:
    """The TAP that the interface names. Raises ConfigError with a remedy."""
    where = f"hosts.{host.name}.{interface.name}.tap"
    impairing = Impairing(host.name, clock, impair_path(directory, host.name, interface.name))
    return TapPort(interface.ifindex, interface.tap, where, impairing)


def _open(name: str, where: str) -> int:
    encoded = os.fsencode(name)
    if not 1 <= len(encoded) <= 15 or b"/" in encoded or b"%" in encoded:
        raise ConfigError(where, f"{name!r} is not a name for an interface, 1 to 15 characters")
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(where, _remedy(error, name)) from None
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", encoded, _IFF_TAP | _IFF_NO_PI))
    except OSError as error:
        os.close(fd)
        raise ConfigError(where, _remedy(error, name)) from None
    return fd


def _remedy(error: OSError, name: str) -> str:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return f"there is no {_DEVICE} here: modprobe tun, or give the container that device"
    if error.errno in (errno.EPERM, errno.EACCES):
        return (
            f"may not open {name}: run as root (CAP_NET_ADMIN), or let root make it for you with"
            f" `ip tuntap add {name} mode tap user {os.geteuid()}`"
        )
    if error.errno == errno.EBUSY:
        return f"{name} is in use by another process"
    if error.errno == errno.EINVAL:
        return f"{name} is there already, and is not a TAP (`ip -d link show {name}`)"
    return f"cannot open {name}: {error.strerror}"
