"""grpc.health.v1: one name per layer, and "" for all of them.

app is well when it answers, tcp when it has said Hello and is connected, ip and link when a process
holds their lock. It is looked up when somebody asks, and while somebody watches.
"""

# ruff: noqa: N802 - the names of RPCs
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1.health_pb2_grpc import HealthServicer

from plywire.roles import APP, LAYERS, TCP
from plywire.runtime.process import layer_alive
from plywire.runtime.shell import Shell

WATCH_INTERVAL = 1.0
"""Seconds between two looks while a stream of Watch is open."""

_Status = pb.HealthCheckResponse


class Health(HealthServicer):
    """The health of one host's layers."""

    def __init__(self, shell: Shell, host: str, directory: Path) -> None:
        self.shell = shell
        self.host = host
        self.directory = directory

    async def Check(
        self, request: pb.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> pb.HealthCheckResponse:
        status = self._status(request.service)
        if status == _Status.SERVICE_UNKNOWN:
            names = ", ".join(LAYERS)
            await context.abort(grpc.StatusCode.NOT_FOUND, f'the names are {names}, and "" for all')
        return _Status(status=status)

    async def Watch(
        self, request: pb.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        told = None
        while True:
            status = self._status(request.service)
            if status != told:
                told = status
                yield _Status(status=status)
            await asyncio.sleep(WATCH_INTERVAL)

    def _status(self, service: str) -> int:
        if service and service not in LAYERS:
            return _Status.SERVICE_UNKNOWN
        wanted = (service,) if service else LAYERS
        return _Status.SERVING if all(map(self._alive, wanted)) else _Status.NOT_SERVING

    def _alive(self, role: str) -> bool:
        if role == APP:
            return True
        if role == TCP:
            return self.shell.neighbours()[TCP]
        return layer_alive(self.directory, self.host, role)
