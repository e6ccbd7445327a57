"""The other floor: a bare unary gRPC call on a unix socket, Python client and server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time

import grpc

_METHOD = "/plywire.Bench/Echo"


async def _echo(request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
    return request


async def serve(target: str) -> None:
    """Answer every call with its request, for ever."""
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(_echo)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("plywire.Bench", {"Echo": handler}),)
    )
    server.add_insecure_port(target)
    await server.start()
    await server.wait_for_termination()


def unary_latency(rounds: int, pause: float) -> list[float]:
    """Seconds of each call, sorted; `pause` seconds lie between two."""
    with tempfile.TemporaryDirectory(prefix="plywire-bench-") as folder:
        target = f"unix:{folder}/echo.sock"
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.rpc", target])
        try:
            with grpc.insecure_channel(target) as channel:
                grpc.channel_ready_future(channel).result(timeout=10)
                call = channel.unary_unary(_METHOD)
                times = []
                for index in range(rounds + 100):
                    start = time.perf_counter()
                    call(b"0123456789")
                    if index >= 100:
                        times.append(time.perf_counter() - start)
                    time.sleep(pause)
        finally:
            process.kill()
            process.wait()
    return sorted(times)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
