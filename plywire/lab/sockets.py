"""The sockets of a host, put together from what its app and its tcp know."""

from __future__ import annotations

import grpc

from plywire.lab.control import LabClient
from plywire.lab.rundir import LabError
from plywire.lab.views import SocketRow
from plywire.rpc import socket_pb2, socket_pb2_grpc

_LIMIT = 5.0


def sockets(client: LabClient, host: str) -> list[SocketRow]:
    """All TCP sockets of a host, first those of programs, then those that only TCP still knows.

    The latter are connections that no program has accepted yet or that are finishing after close
    (TIME-WAIT). As in Linux, Recv-Q and Send-Q of a listener are its queue and backlog, and a
    socket that is neither bound nor connected is not listed. Raises LabError.
    """
    held = [item for item in _held(client, host) if item.local.port]
    backlogs = {
        f"{item['local_address']}:{item['local_port']}": item["backlog"]
        for item in client.describe(host, "tcp", "listeners")
    }
    rows = []
    for item in held:
        local = _place(item.local)
        send_q = item.send_queue
        if item.state == "LISTEN":
            send_q = backlogs.get(local, 0)
        rows.append(
            SocketRow(host, item.state, item.receive_queue, send_q, local, _place(item.remote))
        )
    known = {(row.local, row.peer) for row in rows}
    for item in client.describe(host, "tcp", "connections"):
        if (item["local"], item["peer"]) not in known:
            rows.append(
                SocketRow(
                    host, item["state"], item["recv_q"], item["send_q"], item["local"], item["peer"]
                )
            )
    return rows


def _held(client: LabClient, host: str) -> list[socket_pb2.Socket]:
    with grpc.insecure_channel(client.target(host)) as channel:
        stub = socket_pb2_grpc.SocketServiceStub(channel)
        try:
            return list(stub.ListSockets(socket_pb2.ListSocketsRequest(), timeout=_LIMIT).sockets)
        except grpc.RpcError as error:
            reason = error.details()
            raise LabError(f"{host}.app does not answer ({reason}); see `plywire status`") from None


def _place(address: socket_pb2.Address) -> str:
    return f"{address.host or '0.0.0.0'}:{address.port or '*'}"
