"""Answers by request id: a call that is repeated after a lost reply is answered, not done again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from plywire.calls import Call
from plywire.errors import SocketError
from services.app import results

REMEMBERED = 4096
"""Answers kept; the oldest are forgotten first."""

Key = tuple[str, int, str]
"""Operation, descriptor, and the id with the session it belongs to."""

_KINDS = {kind.__name__: kind for kind in (results.ConnectResult, results.AcceptResult)}


class Replies:
    """The calls that bear a request id: the ones that wait, and the last ones answered.

    Everybody who asks with the same id gets a Call of his own; behind them stands one that does
    the work, which is given up when nobody waits for it any more.
    """

    def __init__(self, cancel: Callable[[Call], None]) -> None:
        self._cancel = cancel
        self._answers: OrderedDict[Key, Call] = OrderedDict()
        self._work: dict[Key, tuple[Call, list[Call]]] = {}
        self._key_of: dict[Call, Key] = {}

    def once(self, key: Key, start: Callable[[], Call]) -> Call:
        """The answer to the request `key`, which `start` begins when it is new."""
        if not key[2]:
            return start()
        answer = self._answers.get(key)
        if answer is not None:
            return _copy(answer, Call())
        mine = Call()
        if key in self._work:
            self._work[key][1].append(mine)
            self._key_of[mine] = key
            return mine
        work = start()
        self._work[key] = (work, [mine])
        self._key_of[mine] = key
        work.then(lambda done: self._answer(key, done))
        return mine

    def cancel(self, call: Call) -> None:
        """Whoever holds `call` has gone."""
        key = self._key_of.pop(call, None)
        if key is None:
            self._cancel(call)
            return
        work, asking = self._work[key]
        asking.remove(call)
        if not asking:
            del self._work[key]
            self._cancel(work)

    def remember(self, key: Key, value: Any) -> None:
        """A predecessor of this process has answered a request with `value`."""
        self._answers[key] = Call().resolve(value)

    def to_state(self) -> list:
        """The answers, for a snapshot."""
        rows = []
        for key, answer in self._answers.items():
            if answer.error is None:
                value = list(answer.value) if isinstance(answer.value, tuple) else answer.value
                rows.append([list(key), type(answer.value).__name__, value])
        return rows

    def restore(self, state: list) -> None:
        """From `to_state`."""
        for key, kind, value in state:
            if kind in _KINDS:
                value = _KINDS[kind](*(tuple(v) if isinstance(v, list) else v for v in value))
            self._answers[tuple(key)] = Call().resolve(value)

    def _answer(self, key: Key, work: Call) -> None:
        _, asking = self._work.pop(key)
        # That nothing had come yet is no answer to keep: the same id may ask again.
        if not getattr(work.value, "would_block", False):
            self._answers[key] = work
            if len(self._answers) > REMEMBERED:
                self._answers.popitem(last=False)
        for call in asking:
            self._key_of.pop(call, None)
            _copy(work, call)


def _copy(source: Call, target: Call) -> Call:
    if isinstance(source.error, SocketError):
        return target.fail(source.error)
    return target.resolve(source.value)
