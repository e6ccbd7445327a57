"""The Transfer RPC: both directions of one connected socket on one stream, with back pressure.

Towards the peer, a request is answered with `accepted` once TCP took its data; requests are read
ahead by WINDOW bytes, so that a client that keeps less than that in flight beyond `accepted` can
always get its acknowledgements through. Towards the client, at most WINDOW bytes go out beyond what
it said it had `received`: that much can be sent again on a new stream.

The stream ends when both directions have ended and the client has said that it has all. A word of
the client that met the end of the stream would fail its write, and with it the call (gRPC keeps no
half-open streams); so one that says nothing more at all, nor ends its side, is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from plywire.errors import SocketError
from plywire.rpc import socket_pb2 as pb
from services.app.bridge import Bridge
from services.app.streams import REPLAY

CHUNK = 131_072
WINDOW = REPLAY - CHUNK
LINGER = 3.0
"""Seconds, of real time, that a client's last word is waited for."""

Write = Callable[[pb.TransferResponse], Awaitable[None]]


async def transfer(
    bridge: Bridge, requests: AsyncIterator[pb.TransferRequest], write: Write
) -> None:
    """Serve one stream until both directions have ended. Raises SocketError."""
    first = await anext(requests, None)
    if first is None:
        raise SocketError("EINVAL", "the first request names the descriptor")
    info = await bridge.answer(bridge.layer.get_socket, first.descriptor)
    work = _Transfer(bridge, first)
    await write(pb.TransferResponse(accepted=info.send_offset, offset=first.received))
    try:
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(work.read(first, requests))
            writer = group.create_task(work.write(write))
            down = group.create_task(work.receive())
            await group.create_task(work.send())
            await down
            await work.acknowledged()
            reader.cancel()
            await work.responses.put(None)
            await writer
    except* SocketError as errors:
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


class _Transfer:
    """One stream. Three tasks share it: the reader, and the two directions."""

    def __init__(self, bridge: Bridge, first: pb.TransferRequest) -> None:
        self.bridge = bridge
        self.layer = bridge.layer
        self.descriptor = first.descriptor
        self.received = first.received  # by the client, as it said last
        self.position = first.received  # where the stream towards it stands
        self.responses: asyncio.Queue[pb.TransferResponse | None] = asyncio.Queue(maxsize=2)
        self._ahead: deque[pb.TransferRequest] = deque()
        self._ahead_bytes = 0
        self._ended = False  # the client's direction, by its word
        self._no_more = False  # requests
        self._changed = asyncio.Event()

    async def read(
        self, first: pb.TransferRequest, requests: AsyncIterator[pb.TransferRequest]
    ) -> None:
        """Take requests as they come, WINDOW bytes ahead of what was accepted."""
        self._take(first)
        async for request in requests:
            self._take(request)
            while self._ahead_bytes > WINDOW:
                await self._wait()
        self._no_more = True
        self._changed.set()

    async def send(self) -> None:
        """Towards the peer, until the client ends its direction or sends no more requests."""
        while True:
            while not self._ahead:
                if self._no_more:
                    return
                await self._wait()
            request = self._ahead.popleft()
            if request.data:
                await self._send(request.offset, request.data)
                self._ahead_bytes -= len(request.data)
                self._changed.set()
            if request.end:
                await self.bridge.answer(self.layer.shutdown, self.descriptor, "write")
                return

    async def receive(self) -> None:
        """Towards the client, until the peer ends its direction."""
        while True:
            while self.position - self.received > WINDOW and not self._no_more:
                await self._wait()
            result = await self.bridge.answer(
                self.layer.recv,
                self.descriptor,
                CHUNK,
                offset=self.position,
                acknowledged=self.received,
            )
            self.position += len(result.data)
            await self.responses.put(
                pb.TransferResponse(
                    offset=result.offset, data=result.data, end=result.end_of_stream
                )
            )
            if result.end_of_stream:
                return

    async def acknowledged(self) -> None:
        """Until the client has everything by its own word, or has no more to say."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while self.received < self.position and not self._no_more:
                    await self._wait()

    async def write(self, write: Write) -> None:
        """The only one who writes to the stream."""
        while (response := await self.responses.get()) is not None:
            await write(response)

    def _take(self, request: pb.TransferRequest) -> None:
        self.received = max(self.received, min(request.received, self.position))
        if not self._ended and (request.data or request.end):  # nothing can follow the end
            self._ahead.append(request)
            self._ahead_bytes += len(request.data)
            self._ended = request.end
        self._changed.set()

    async def _send(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        reached = offset
        while reached < end:  # short of it, an error is waiting, which the next call raises
            result = await self.bridge.answer(
                self.layer.send, self.descriptor, data[reached - offset :], offset=reached
            )
            reached = result.offset
        await self.responses.put(pb.TransferResponse(accepted=reached, offset=self.position))

    async def _wait(self) -> None:
        """Until something has changed. The tasks all look again: there are three of them."""
        event = self._changed
        if event.is_set():
            event = self._changed = asyncio.Event()
        await event.wait()
