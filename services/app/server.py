"""The gRPC server of one host's socket API, in the same asyncio loop as the pipes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from plywire.config import HostConfig
from plywire.errors import ConfigError
from plywire.rpc import socket_pb2
from plywire.rpc.socket_pb2_grpc import add_SocketServiceServicer_to_server
from plywire.runtime import config as places
from plywire.runtime.shell import Shell
from services.app.health import Health
from services.app.servicer import SocketService

MAX_RPCS = 8192
"""RPCs at one time, blocked ones and sessions included; one more is RESOURCE_EXHAUSTED."""

GRACE = 0.1
"""Seconds that calls get to end when the API stops; clients are told first, and stay quiet."""

_OPTIONS = (
    ("grpc.max_receive_message_length", 2 << 20),
    ("grpc.max_send_message_length", 8 << 20),
    ("grpc.so_reuseport", 0),  # two APIs on one TCP port would each get half of the programs
    ("grpc.keepalive_time_ms", 20_000),  # a client machine that vanished ends its session
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)

log = logging.getLogger(__name__)


async def serve(shell: Shell, host: HostConfig, directory: Path, ready: Callable[[], None]) -> None:
    """Offer the API of `host` until cancelled; `ready` is called once it listens.

    Raises ConfigError when the address cannot be listened on.
    """
    server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=MAX_RPCS)
    service = SocketService(shell, host.name)
    add_SocketServiceServicer_to_server(service, server)
    add_HealthServicer_to_server(Health(shell, host.name, directory), server)
    services = (
        socket_pb2.DESCRIPTOR.services_by_name["SocketService"].full_name,
        health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
        reflection.SERVICE_NAME,
    )
    reflection.enable_server_reflection(services, server)
    address = host.app.listen or f"unix:{places.api_path(directory, host.name)}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigError(f"hosts.{host.name}.app.listen", str(error)) from None
    if not bound:
        raise ConfigError(f"hosts.{host.name}.app.listen", f"{address!r} cannot be listened on")
    await server.start()
    log.info("the socket API of %s is at %s", host.name, address)
    ready()
    try:
        await asyncio.Event().wait()
    finally:
        if not shell.leaving:
            service.ending.set()
        await server.stop(0 if shell.leaving else GRACE)
