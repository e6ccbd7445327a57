"""Requests with any values in their fields: each is answered with a result or an errno, and neither
the API nor a layer is the worse for it."""

from __future__ import annotations

import math
import random

import grpc
import pytest

from plywire.rpc import socket_pb2 as pb
from plywire.rpc.socket_pb2_grpc import SocketServiceStub
from tests.process.test_wrong_input import still_works

REQUESTS = 1500
OURS = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE}
"""What gRPC says when a method has raised something that it should not have, or the API is gone."""

UNARY = [
    method
    for method in pb.DESCRIPTOR.services_by_name["SocketService"].methods
    if not method.client_streaming and not method.server_streaming
]
OFTEN = ("CreateSocket", "Connect", "Send", "Recv", "Accept", "Listen", "Bind")
TEXTS = ("", "10.0.0.1", "10.0.0.2", "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "1",
         "h2.lab", "\0", "é" * 50, "x" * 5000, "TCP_NODELAY", "TCP_CORK", "SO_LINGER", "SO_RCVBUF",
         "SO_SNDBUF", "TCP_MAXSEG", "TCP_LINGER2", "TCP_USER_TIMEOUT", "SO_KEEPALIVE")  # fmt: skip
SECONDS = (0.0, 0.01, -1.0, -0.0, 5e-324, 1e300, math.nan, math.inf)


class Fuzzer:
    """Makes requests; `live` are the descriptors that it knows."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.live: list[int] = []

    def method(self):
        return self.rng.choice(UNARY + [item for item in UNARY if item.name in OFTEN])

    def request(self, method):
        message = self._fill(getattr(pb, method.input_type.name)())
        if "timeout" in message.DESCRIPTOR.fields_by_name and not message.HasField("timeout"):
            message.timeout = 0.0
        return message

    def _fill(self, message):
        for field in message.DESCRIPTOR.fields:
            if self.rng.random() < 0.15 or field.name == "session":
                continue
            if field.message_type and field.is_repeated:
                for _ in range(self.rng.randrange(3)):
                    self._fill(getattr(message, field.name).add())
            elif field.message_type:
                self._fill(getattr(message, field.name))
            else:
                self._set(message, field)
        return message

    def _set(self, message, field) -> None:
        rng = self.rng
        if field.name == "descriptor" and self.live and rng.random() < 0.95:
            message.descriptor = rng.choice(self.live[-40:])
        elif field.name == "port":
            message.port = rng.choice((0, 7, 80, 81, 99_999))
        elif field.type == field.TYPE_BYTES:
            setattr(message, field.name, rng.randbytes(rng.choice((0, 1, 100, 70_000))))
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, rng.choice(TEXTS))
        elif field.type == field.TYPE_DOUBLE:
            setattr(message, field.name, rng.choice(SECONDS))
        else:
            bits = 31 if field.type in (field.TYPE_INT32, field.TYPE_ENUM) else 32
            bits = 1 if field.type == field.TYPE_BOOL else bits
            bits = 63 if field.type in (field.TYPE_INT64, field.TYPE_UINT64) else bits
            whole = (1 << bits) - 1
            value = rng.choice((0, 1, 2, 16, 1000, 65_536, whole, rng.getrandbits(bits))) & whole
            setattr(message, field.name, value)


@pytest.mark.parametrize("seed", [1, 2])
def test_any_request_has_an_answer(lab, stacks, seed):
    fuzzer, codes, failures = Fuzzer(seed), set(), []
    pids = [status.pid for status in lab.status()]
    with grpc.insecure_channel(lab.target("h1")) as channel:
        stub = SocketServiceStub(channel)
        for _ in range(REQUESTS):
            method = fuzzer.method()
            request = fuzzer.request(method)
            try:
                answer = getattr(stub, method.name)(request, timeout=0.2)
            except grpc.RpcError as error:
                codes.add(error.code())
                if error.code() in OURS:
                    failures.append((method.name, error.details(), request))
                continue
            if method.name in ("CreateSocket", "Accept") and answer.descriptor:
                fuzzer.live.append(answer.descriptor)
        for info in stub.ListSockets(pb.ListSocketsRequest(), timeout=10).sockets:
            if info.descriptor in fuzzer.live:
                stub.CloseSocket(pb.CloseSocketRequest(descriptor=info.descriptor))
    assert failures == []
    assert len(codes) > 3, "it got somewhere"
    assert [status.pid for status in lab.status()] == pids
    still_works(stacks)
