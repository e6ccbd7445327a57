"""A call that may not be answered yet: what a socket operation returns.

The gRPC shell turns it into an awaited reply, the simulator lets its caller look at it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plywire.errors import SocketError


class Call:
    """Pending until it has a value or an error; exactly one of them, once."""

    __slots__ = ("_callbacks", "done", "error", "value")

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self.error: SocketError | None = None
        self._callbacks: list[Callable[[Call], None]] = []

    def resolve(self, value: Any) -> Call:
        """Answer with a value."""
        self.value = value
        return self._finish()

    def fail(self, error: SocketError) -> Call:
        """Answer with an error."""
        self.error = error
        return self._finish()

    def then(self, callback: Callable[[Call], None]) -> None:
        """Run `callback(self)` when the call is answered: now, if it is already."""
        if self.done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def result(self) -> Any:
        """The value, or raise the error. A pending call is a BlockingIOError of the caller's."""
        if not self.done:
            raise BlockingIOError("the call is pending")
        if self.error is not None:
            raise self.error
        return self.value

    def _finish(self) -> Call:
        if self.done:
            raise RuntimeError("a call is answered once")
        self.done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)
        return self
