"""The sockets of a host, put together from what its app and its tcp know."""

from __future__ import annotations

import grpc

from plywire.lab.control import LabClient
from plywire.lab.rundir import LabError
from plywire.lab.ss import SocketRow
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
    connections = {
        (item["local"], item["peer"]): item for item in client.describe(host, "tcp", "connections")
    }
    for item in held:
        local, peer = _place(item.local), _place(item.remote)
        info = connections.pop((local, peer), {})
        # All that app takes it hands to tcp, which tells it with delay what the peer has of that.
        send_q = info.get("send_q", item.send_queue)
        if item.state == "LISTEN":
            send_q = backlogs.get(local, 0)
        rows.append(SocketRow(host, item.state, item.receive_queue, send_q, local, peer, info))
    for (local, peer), item in connections.items():
        rows.append(
            SocketRow(host, item["state"], item["recv_q"], item["send_q"], local, peer, item)
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
