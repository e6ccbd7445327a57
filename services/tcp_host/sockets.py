"""What the core remembers of a socket: a connection's offsets and credit, a listener's place."""

from __future__ import annotations

from services.tcp_host.addresses import ANY

CLOSED, LISTEN, SYN_SENT, ESTABLISHED = "CLOSED", "LISTEN", "SYN-SENT", "ESTABLISHED"
FIN_WAIT, CLOSE_WAIT, CLOSING = "FIN-WAIT-2", "CLOSE-WAIT", "LAST-ACK"


class Connection:
    """One connection, as far as the app boundary is concerned. Offsets count the stream's bytes.

    sent: taken from the app; written: of these, what the system has taken; received: given to the
    app; read, limit: the app's credit.
    """

    __slots__ = ("finished", "finishing", "handle", "heard_end", "limit", "listener", "local",
                 "opened", "queued", "read", "received", "released", "remote", "send_buffer",
                 "sent", "shown", "written")  # fmt: skip

    def __init__(self, handle: int, limit: int, send_buffer: int) -> None:
        self.handle, self.limit, self.send_buffer = handle, limit, send_buffer
        self.listener = 0
        self.queued = False  # no program has accepted it
        self.local: tuple[bytes, int] = (ANY, 0)
        self.remote: tuple[bytes, int] = (ANY, 0)
        self.sent = self.written = self.received = self.read = 0
        self.opened = self.finishing = self.finished = self.heard_end = self.released = False
        self.shown: dict[str, int | str] = {}

    @property
    def state(self) -> str:
        """By RFC 9293's names, as far as can be told from up here."""
        if not self.opened:
            return SYN_SENT
        if self.finishing or self.released:
            return CLOSING if self.heard_end else FIN_WAIT
        return CLOSE_WAIT if self.heard_end else ESTABLISHED

    def control(self) -> dict[str, int | str]:
        """For people."""
        return {
            "state": self.state,
            "local_address": _dotted(self.local[0]), "local_port": self.local[1],
            "remote_address": _dotted(self.remote[0]), "remote_port": self.remote[1],
            "send_queue": self.sent - self.written, "receive_queue": self.received - self.read,
            "send_buffer": self.send_buffer, "receive_buffer": self.limit - self.read,
            "released": int(self.released),
        }  # fmt: skip

    def row(self) -> dict[str, object]:
        """For people, as a row of `ss`."""
        control = self.control()
        return control | {
            "handle": self.handle,
            "listener": self.listener,
            "local": f"{control['local_address']}:{control['local_port']}",
            "peer": f"{control['remote_address']}:{control['remote_port']}",
            "recv_q": control["receive_queue"],
            "send_q": control["send_queue"],
        }


class Held:
    """A socket that is bound, or that listens.

    asked: for each answer of the device that is still to come, in order: does the app wait for it?
    admitted: connections that the device may still accept.
    """

    __slots__ = ("address", "admitted", "asked", "backlog", "bound", "handle", "listening", "port",
                 "reuse")  # fmt: skip

    def __init__(self, handle: int, address: bytes, port: int, reuse: int) -> None:
        self.handle, self.address, self.port, self.reuse = handle, address, port, reuse
        self.backlog, self.admitted = 0, 0
        self.bound = self.listening = False
        self.asked: list[bool] = []

    def control(self) -> dict[str, int | str]:
        """For people."""
        state = LISTEN if self.listening else CLOSED
        return {"state": state, "local_address": _dotted(self.address), "local_port": self.port,
                "backlog": self.backlog}  # fmt: skip


def _dotted(address: bytes) -> str:
    return ".".join(map(str, address))
