"""This TCP's own of the app boundary: how a connection is opened, and what is done with it."""

from __future__ import annotations

from collections.abc import Callable

from plywire import app_calls
from plywire.app_calls import Key
from plywire.messages import Accepted, Close, Connect, Credit, Data, End, Option
from plywire.paths import Path
from plywire.ports import Reservation
from services.tcp_lite.block import Listener
from services.tcp_lite.connection import Connection
from services.tcp_lite.states import PASSIVE_OPEN


class AppCalls(app_calls.AppCalls):
    """The app boundary of this TCP."""

    def calls(self) -> dict[type, Callable]:
        return {
            Data: Connection.write,
            Credit: Connection.read,
            End: Connection.shut,
            Close: Connection.close,
            Accepted: Connection.accepted,
            Option: Connection.option,
        }

    def new_listener(self, handle: int, reservation: Reservation) -> Listener:
        item = self.stack.listeners[handle] = Listener(reservation)
        return item

    def passive_open(self, item: Listener, now: int) -> None:
        self.stack.change(item, PASSIVE_OPEN, now)

    def close_listener(self, item: Listener, now: int) -> None:
        self.stack.close_listener(item, now)

    def active_open(self, message: Connect, key: Key, reuse: bool, path: Path, now: int) -> None:
        stack = self.stack
        reservation = stack.reservations.pop(message.handle, None)
        if reservation is not None:  # from now on the connection has the port
            stack.ports.release(reservation)
        connection = stack.new(message.handle, key, reuse)
        stack.enter(connection)
        connection.open(path.mtu, message.limit, now)
