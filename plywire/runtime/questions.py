"""Questions to layers, asked from an asyncio loop: any number at a time, no thread for any."""

from __future__ import annotations

import asyncio

import zmq
import zmq.asyncio

from plywire import envelope
from plywire.errors import DecodeError


class Questions:
    """Asks layers at their control endpoints (plywire.runtime.observer.Control)."""

    def __init__(self) -> None:
        self._context = zmq.asyncio.Context()

    async def ask(self, endpoint: str, *request: object, timeout: float) -> object:
        """Put one question and wait for the answer.

        Raises TimeoutError when there is none in `timeout` seconds, ValueError when the layer
        refuses or answers what cannot be read.
        """
        socket = self._context.socket(zmq.REQ)
        socket.set(zmq.LINGER, 0)
        try:
            socket.connect(endpoint)
            await socket.send(envelope.dump_state(list(request)))
            reply = await asyncio.wait_for(socket.recv(), timeout)
        except TimeoutError:
            raise TimeoutError(f"{endpoint} did not answer within {timeout:g} s") from None
        finally:
            socket.close()
        try:
            status, answer = envelope.load_state(reply)
        except (DecodeError, TypeError) as error:
            raise ValueError(f"an answer that cannot be read: {error}") from None
        if status != "ok":
            raise ValueError(str(answer))
        return answer

    def close(self) -> None:
        """Let go of everything; questions that wait are not answered any more."""
        self._context.destroy(0)
