"""One host's app, tcp and ip in this process, behind a real gRPC server on a unix socket.

The host talks to itself over ip's loopback, so no wire is needed.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from plywire.config import HostConfig, host
from plywire.messages import Hello
from plywire.registry import implementation, load
from plywire.roles import APP, IP, TCP
from plywire.rpc.socket_pb2_grpc import SocketServiceStub
from plywire.trace import Tracer
from services.app.server import serve

HERE = "10.0.0.1"
_JOINED = {APP: (TCP,), TCP: (APP, IP), IP: (TCP,)}


class HostShell:
    """What the servicer needs of a shell, over three cores that hand one another messages."""

    frozen = False

    def __init__(self, config: HostConfig) -> None:
        self.cores: dict[str, Any] = {
            role: load(implementation(config, role))(config, random.Random(5), Tracer())
            for role in _JOINED
        }
        self.layer = self.cores[APP]
        self.clock = time.monotonic_ns
        self._timer: asyncio.TimerHandle | None = None
        for role, neighbours in _JOINED.items():
            for neighbour in neighbours:
                self.cores[role].receive(Hello(0, neighbour, 1, 0), neighbour, self.clock())

    def flush(self) -> None:
        """Carry messages until all is quiet; then arm a timer for the first deadline."""
        busy = True
        while busy:
            busy = False
            for role, core in self.cores.items():
                for output in core.outputs():
                    busy = True
                    if output.to in self.cores:
                        self.cores[output.to].receive(output.message, role, self.clock())
        deadlines = [core.deadline() for core in self.cores.values()]
        first = min((when for when in deadlines if when is not None), default=None)
        if self._timer is not None:
            self._timer.cancel()
        if first is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(first / 1e9, self._expire)

    def neighbours(self) -> dict[str, bool]:
        return {TCP: True}

    def _expire(self) -> None:
        for core in self.cores.values():
            core.expire(self.clock())
        self.flush()


@asynccontextmanager
async def api(config: HostConfig | None = None):
    """(stub, shell, channel) of a running API."""
    config = config or host("h1", f"{HERE}/24", names={"h1.lab": bytes((10, 0, 0, 1))})
    shell = HostShell(config)
    with tempfile.TemporaryDirectory() as directory:
        ready = asyncio.Event()
        server = asyncio.create_task(serve(shell, config, Path(directory), ready.set))
        done, _ = await asyncio.wait(
            {server, asyncio.create_task(ready.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        assert server not in done, server.exception()
        async with grpc.aio.insecure_channel(f"unix:{directory}/h1.api.sock") as channel:
            yield SocketServiceStub(channel), shell, channel
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)


def run(test: Callable[[], Awaitable[None]]) -> None:
    """A test in a loop of its own, with a limit so that nothing hangs."""
    asyncio.run(asyncio.wait_for(test(), 30))


async def reason(call: Awaitable[Any]) -> tuple[str, grpc.StatusCode, dict[str, str]]:
    """(errno name, gRPC code, metadata) of an RPC that fails."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        info = error_details_pb2.ErrorInfo()
        status = rpc_status.from_call(_Sync(error))
        assert status.details[0].Unpack(info)
        assert info.domain == "plywire"
        return info.reason, error.code(), dict(info.metadata)
    raise AssertionError("the RPC succeeded")


class _Sync:
    """What `rpc_status.from_call` asks a call for."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code, self.details = error.code, error.details
        self.trailing_metadata = error.trailing_metadata
