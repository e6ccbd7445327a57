"""What the app asks of TCP: its messages, handed to the RFC's user calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from plywire import app_calls
from plywire.app_calls import Key
from plywire.messages import (
    AGAIN,
    Accepted,
    Bind,
    Bound,
    Close,
    Connect,
    Credit,
    Data,
    End,
    Listen,
    Option,
    Query,
)
from plywire.paths import Path
from plywire.ports import Reservation
from services.tcp import listener, options, user_calls
from services.tcp.congestion import ALGORITHMS
from services.tcp.info import tcp_info
from services.tcp.listener import Listener
from services.tcp.sender import push
from services.tcp.states import CLOSED, PASSIVE_OPEN
from services.tcp.tcb import CORK, KEEPALIVE, Tcb

if TYPE_CHECKING:
    from services.tcp.stack import Stack


class AppCalls(app_calls.AppCalls):
    """The app boundary of this TCP."""

    stack: Stack

    def __init__(self, stack: Stack, bind_seed: int) -> None:
        super().__init__(stack, bind_seed)
        self.handlers[Option] = self._option

    # What app says again, when this process or app has recovered, may be known already. What is
    # bound, or listens, is kept.

    def _bind(self, message: Bind, now: int) -> None:
        stack = self.stack
        known = stack.reservations.get(message.handle)
        if (
            stack.repeated and known is not None and message.address == known.address
            and message.port in (0, known.port)
        ):  # fmt: skip
            stack.tell(Bound(message.trace, known.handle, known.address, known.port, "", ""))
            return
        super()._bind(message, now)
        stack.tables_changed()

    def _listen(self, message: Listen, now: int) -> None:
        super()._listen(message, now)
        self.stack.tables_changed()

    def _connect(self, message: Connect, now: int) -> None:
        survival = self.stack.survival
        if survival is None or not survival.knows(message.handle):
            super()._connect(message, now)

    def _close(self, message: Close, now: int) -> None:
        stack, handle = self.stack, message.handle
        if stack.survival is not None:
            stack.survival.asked(handle)
            stack.survival.confirmed(handle)
            if handle in stack.listeners or handle in stack.reservations:
                stack.tables_changed()
        super()._close(message, now)

    def calls(self) -> dict[type, Callable]:
        return {
            Data: self._data,
            Credit: self._credit,
            End: self._end,
            Close: self._close_connection,
            Accepted: self._accepted,
        }

    def new_listener(self, handle: int, reservation: Reservation) -> Listener:
        item = Listener(handle, reservation)
        listener.enter(self.stack, item)
        return item

    def passive_open(self, item: Listener, now: int) -> None:
        self.stack.change(item, PASSIVE_OPEN, now)

    def close_listener(self, item: Listener, now: int) -> None:
        listener.close_listener(self.stack, item, now)

    def has_room(self, now: int) -> bool:
        return self.stack.has_room(now)

    def active_open(self, message: Connect, key: Key, reuse: bool, path: Path, now: int) -> None:
        tcb = self.stack.new_tcb(message.handle, key, reuse)
        for name, value in message.options.items():
            options.set_option(tcb, name, value)
        user_calls.active_open(self.stack, tcb, path, message.limit, now)

    def _data(self, tcb: Tcb, message: Data, now: int) -> None:
        user_calls.send(self.stack, tcb, message.offset, message.payload, now)

    def _credit(self, tcb: Tcb, message: Credit, now: int) -> None:
        user_calls.receive(self.stack, tcb, message.acked, message.limit, message.needed, now)

    def _end(self, tcb: Tcb, message: End, now: int) -> None:
        user_calls.shut(self.stack, tcb, message.offset, now)

    def _close_connection(self, tcb: Tcb, message: Close, now: int) -> None:
        item = self.stack.listeners.get(tcb.listener)
        if item is not None:
            item.forget(tcb.id)
        if message.abort:
            user_calls.abort(self.stack, tcb, now)
        else:
            user_calls.close(self.stack, tcb, message.offset, now)

    def _accepted(self, tcb: Tcb, message: Accepted, now: int) -> None:
        listener.accepted(self.stack, tcb)

    def _option(self, message: Option, now: int) -> None:
        stack = self.stack
        item = stack.listeners.get(message.handle)
        if item is not None:
            item.options[message.name] = message.value
            stack.tables_changed()
            return
        tcb = stack.by_handle.get(message.handle)
        if tcb is None:
            return
        options.set_option(tcb, message.name, message.value)
        if message.name == "SO_KEEPALIVE" or message.name == "TCP_KEEPIDLE":
            if tcb.keepalive:
                stack.arm(tcb, KEEPALIVE, max(tcb.last_receive + tcb.keep_idle, now))
            else:
                stack.disarm(tcb, KEEPALIVE)
        if not tcb.cork:
            stack.disarm(tcb, CORK)
        push(stack, tcb, now)  # Nagle or a cork may have held something back

    def _query(self, message: Query, now: int) -> None:
        survival = self.stack.survival
        if message.topic != AGAIN or survival is None:
            super()._query(message, now)
            return
        survival.gather()
        super()._query(message, now)
        survival.tell_again(now)

    def about(self, handle: int, topic: str, now: int) -> dict[str, int | str]:
        survival = self.stack.survival
        if not topic and survival is not None:
            for lost in survival.asked(handle):
                self._close(Close(self.stack.trace, lost, 0, 1), now)
        if topic == "congestion":
            return dict.fromkeys(sorted(ALGORITHMS), 1)
        if not topic and handle in self.stack.waiting:
            return {"state": CLOSED}
        tcb = self.stack.by_handle.get(handle)
        if topic == "tcp_info":
            return tcp_info(tcb, now) if tcb is not None else {}
        return super().about(handle, topic, now)
