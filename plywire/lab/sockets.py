"""The sockets of a host, as its app and tcp see them together."""

from __future__ import annotations

import grpc

from plywire.lab.control import LabClient
from plywire.lab.rundir import LabError
from plywire.lab.views import SocketRow
from plywire.rpc import socket_pb2, socket_pb2_grpc


def sockets(client: LabClient, host: str) -> list[SocketRow]:
    """All TCP sockets of a host: those that programs hold, then those that only TCP still knows."""
    with grpc.insecure_channel(client.target(host)) as channel:
        stub = socket_pb2_grpc.SocketServiceStub(channel)
        try:
            answer = stub.ListSockets(socket_pb2.ListSocketsRequest(), timeout=5)
        except grpc.RpcError as error:
            reason = error.details()
            raise LabError(f"{host}.app does not answer ({reason}); see `plywire status`") from None
    return [
        SocketRow(
            host,
            item.state,
            item.receive_queue,
            item.send_queue,
            _place(item.local),
            _place(item.remote),
        )
        for item in answer.sockets
    ]


def _place(address: socket_pb2.Address) -> str:
    return f"{address.host or '0.0.0.0'}:{address.port or '*'}"
