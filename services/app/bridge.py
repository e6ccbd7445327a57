"""From the core's Calls to asyncio: call an operation, send what it put out, await the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from plywire.calls import Call
from plywire.runtime.shell import Shell


class Bridge:
    """The core's operations for coroutines. All is in one loop: there is nothing to lock."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.layer: Any = shell.layer

    async def answer(self, operation: Callable[..., Call], *args: Any, **fields: Any) -> Any:
        """What an operation answers with, or the SocketError that it fails with.

        When the caller is cancelled the operation stops waiting, and takes nothing.
        """
        await self.thawed()
        shell = self.shell
        call = operation(*args, now=shell.clock(), **fields)
        shell.flush()
        if not call.done:
            future = asyncio.get_running_loop().create_future()
            call.then(lambda _: future.done() or future.set_result(None))
            try:
                await future
            except asyncio.CancelledError:
                if not call.done:
                    self.layer.cancel(call)
                    shell.flush()
                raise
        return call.result()

    async def thawed(self) -> None:
        """Wait while the core's state is on its way to a successor: what is done to it then is
        lost. It ends when the core is in use again, or with this process."""
        shell = self.shell
        while shell.frozen:
            thawed = asyncio.Event()
            shell.when_thawed.append(thawed.set)
            await thawed.wait()
