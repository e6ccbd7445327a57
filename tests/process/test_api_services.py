"""Beside the socket calls, asked of real processes: health, reflection, Transfer."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from plywire.roles import LAYERS
from plywire.rpc import socket_pb2 as pb
from plywire.rpc.socket_pb2_grpc import SocketServiceStub
from tests.process.programs import block
from tests.process.running import DEADLINE, ROOT, wait_until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def layer(role: str, directory: str) -> Iterator[subprocess.Popen]:
    """One layer of h1 as its own program, without a supervisor, once it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"services.{role}", "--host", "h1", "--run-dir", directory],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_health_follows_each_layer():
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="plyw"))
        stack.enter_context(layer("app", directory))
        channel = stack.enter_context(grpc.insecure_channel(f"unix:{directory}/h1.api.sock"))
        health = HealthStub(channel)

        def status(name: str) -> int:
            return health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status

        assert [status(name) for name in ("app", "tcp", "ip", "link", "")] == [
            SERVING, NOT_SERVING, NOT_SERVING, NOT_SERVING, NOT_SERVING,
        ]  # fmt: skip
        watch = health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=DEADLINE)
        assert next(watch).status == NOT_SERVING
        for role in ("tcp", "ip"):
            stack.enter_context(layer(role, directory))
        link = stack.enter_context(layer("link", directory))
        assert next(watch).status == SERVING
        assert [status(name) for name in LAYERS] == [SERVING] * 4
        link.kill()
        assert next(watch).status == NOT_SERVING
        assert [status(name) for name in ("tcp", "ip", "link")] == [SERVING, SERVING, NOT_SERVING]


@pytest.mark.parametrize("host", ["h1", "h2"])
def test_every_layer_of_the_lab_is_well(lab, host):
    with grpc.insecure_channel(lab.target(host)) as channel:
        health = HealthStub(channel)

        def well(name: str) -> bool:
            request = health_pb2.HealthCheckRequest(service=name)
            return health.Check(request, timeout=10).status == SERVING

        wait_until(lambda: well("tcp"), "app and tcp have met")  # soon after both are up
        assert all(map(well, (*LAYERS, "")))


def test_reflection_describes_the_service(lab):
    """What a client without stubs (grpcurl) asks: the services, and the file with all messages."""
    with grpc.insecure_channel(lab.target("h1")) as channel:
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(
                file_containing_symbol="plywire.socket.v1.SocketService"
            ),
        ]
        listed, described = ServerReflectionStub(channel).ServerReflectionInfo(
            iter(requests), timeout=10
        )
    names = {service.name for service in listed.list_services_response.service}
    assert {"plywire.socket.v1.SocketService", "grpc.health.v1.Health"} <= names
    assert pb.DESCRIPTOR.serialized_pb in described.file_descriptor_response.file_descriptor_proto


def echo(server) -> None:
    """Give the first connection back what it sends."""
    connection, _ = server.accept()
    with connection:
        while data := connection.recv(1 << 18):
            connection.sendall(data)


class Conversation:
    """The client's side of Transfer: what it sends, bounded by what was accepted."""

    AHEAD = 1 << 19
    PIECE = 1 << 16

    def __init__(self, descriptor: int, data: bytes) -> None:
        self.descriptor = descriptor
        self.data = data
        self.got = bytearray()
        self.accepted = 0
        self.over = False
        self.news = threading.Event()

    def requests(self) -> Iterator[pb.TransferRequest]:
        """gRPC takes these in a thread of its own."""
        yield pb.TransferRequest(descriptor=self.descriptor)
        sent = 0
        while sent < len(self.data):
            while sent - self.accepted > self.AHEAD and not self.over:
                self.wait()
            piece = self.data[sent : sent + self.PIECE]
            yield pb.TransferRequest(offset=sent, data=piece, received=len(self.got))
            sent += len(piece)
        yield pb.TransferRequest(offset=sent, end=True, received=len(self.got))
        while not self.over:
            self.wait()
            yield pb.TransferRequest(received=len(self.got))

    def wait(self) -> None:
        assert self.news.wait(DEADLINE)
        self.news.clear()

    def take(self, response: pb.TransferResponse) -> None:
        assert not response.data or response.offset == len(self.got)
        self.got += response.data
        self.accepted = max(self.accepted, response.accepted)
        self.over = response.end
        self.news.set()


def test_transfer_carries_a_stream_each_way(lab, stacks):
    """The RPC by itself, without the client package: 4 MB there and back."""
    data = block(4_000_000)
    with (
        stacks["h2"].create_server(("", 0)) as server,
        grpc.insecure_channel(lab.target("h1")) as channel,
    ):
        server.settimeout(DEADLINE)
        thread = threading.Thread(target=echo, args=(server,), daemon=True)
        thread.start()
        stub = SocketServiceStub(channel)
        fd = stub.CreateSocket(pb.CreateSocketRequest(), timeout=10).descriptor
        address = pb.Address(host="10.0.0.2", port=server.getsockname()[1])
        stub.Connect(pb.ConnectRequest(descriptor=fd, address=address), timeout=10)
        conversation = Conversation(fd, data)
        for response in stub.Transfer(conversation.requests(), timeout=DEADLINE):
            conversation.take(response)
        assert conversation.got == data
        stub.CloseSocket(pb.CloseSocketRequest(descriptor=fd), timeout=10)
        thread.join(DEADLINE)
        assert not thread.is_alive()
