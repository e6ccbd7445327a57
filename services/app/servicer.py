"""The socket API over gRPC: each RPC is one operation of the core.

A SocketError becomes a status with a google.rpc.ErrorInfo: the errno's name, and in the metadata
host, layer and cause. UNAVAILABLE is never used: it means that the API itself is down.
"""

# ruff: noqa: N802 - the names of RPCs
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import wraps
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from plywire.errors import SocketError
from plywire.rpc import socket_pb2 as pb
from plywire.rpc.socket_pb2_grpc import SocketServiceServicer
from plywire.runtime.shell import Shell
from services.app import results
from services.app.bridge import Bridge
from services.app.transfer import transfer

DOMAIN = "plywire"

CODES: dict[str, grpc.StatusCode] = {
    "EACCES": grpc.StatusCode.PERMISSION_DENIED,
    "EADDRINUSE": grpc.StatusCode.ALREADY_EXISTS,
    "EADDRNOTAVAIL": grpc.StatusCode.INVALID_ARGUMENT,
    "EAI_NONAME": grpc.StatusCode.NOT_FOUND,
    "EALREADY": grpc.StatusCode.FAILED_PRECONDITION,
    "EBADF": grpc.StatusCode.NOT_FOUND,
    "EINVAL": grpc.StatusCode.INVALID_ARGUMENT,
    "EISCONN": grpc.StatusCode.FAILED_PRECONDITION,
    "EMFILE": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "ENOENT": grpc.StatusCode.NOT_FOUND,
    "ENOBUFS": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "ENOPROTOOPT": grpc.StatusCode.INVALID_ARGUMENT,
    "ENOTCONN": grpc.StatusCode.FAILED_PRECONDITION,
    "EPIPE": grpc.StatusCode.FAILED_PRECONDITION,
}
"""gRPC's word for an errno; what a peer or a network did is ABORTED."""

_HOW = {pb.HOW_READ: "read", pb.HOW_WRITE: "write", pb.HOW_BOTH: "both"}


def status_of(error: SocketError, host: str) -> status_pb2.Status:
    """The status that carries a SocketError to the program."""
    detail = any_pb2.Any()
    detail.Pack(
        error_details_pb2.ErrorInfo(
            reason=error.name,
            domain=DOMAIN,
            metadata={"host": host, "layer": error.layer, "cause": error.cause},
        )
    )
    code = CODES.get(error.name, grpc.StatusCode.ABORTED)
    text = f"{error.name}: {error.message}"
    if error.cause:
        text += f" ({error.cause})"
    return status_pb2.Status(code=code.value[0], message=text, details=[detail])


def _errors(method: Callable) -> Callable:
    """An RPC whose SocketErrors become statuses."""

    @wraps(method)
    async def wrapped(self: SocketService, request: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            return await method(self, request, context)
        except SocketError as error:
            status = rpc_status.to_status(status_of(error, self.host))
        return await context.abort(status.code, status.details, status.trailing_metadata)

    return wrapped


class SocketService(SocketServiceServicer):
    """`plywire.socket.v1.SocketService` for one host; socket.proto says what each RPC does."""

    def __init__(self, shell: Shell, host: str) -> None:
        self.host = host
        self.shell = shell
        self.layer: Any = shell.layer
        self.bridge = Bridge(shell)
        self.ending = asyncio.Event()
        self.answer = self.bridge.answer

    async def OpenSession(
        self, request: pb.OpenSessionRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.OpenSessionResponse]:
        await self.bridge.thawed()
        try:
            session = self.layer.open_session(self.shell.clock(), request.session)
            self.shell.flush()
        except SocketError as error:
            status = rpc_status.to_status(status_of(error, self.host))
            await context.abort(status.code, status.details, status.trailing_metadata)
        try:
            yield pb.OpenSessionResponse(session=session, host=self.host)
            # Until the client goes, which cancels this, or the API ends for good.
            await self.ending.wait()
        finally:
            self.layer.close_session(session, self.shell.clock())
            self.shell.flush()

    @_errors
    async def CreateSocket(self, request, context):
        descriptor = await self.answer(
            self.layer.create_socket, session=request.session, request_id=request.request_id
        )
        return pb.CreateSocketResponse(descriptor=descriptor)

    @_errors
    async def Bind(self, request, context):
        local = await self.answer(
            self.layer.bind,
            request.descriptor,
            _pair(request.address),
            request_id=request.request_id,
        )
        return pb.BindResponse(local=_address(local))

    @_errors
    async def Listen(self, request, context):
        local = await self.answer(self.layer.listen, request.descriptor, request.backlog)
        return pb.ListenResponse(local=_address(local))

    @_errors
    async def Connect(self, request, context):
        result = await self.answer(
            self.layer.connect,
            request.descriptor,
            _pair(request.address),
            timeout=_timeout(request),
            request_id=request.request_id,
        )
        return pb.ConnectResponse(
            in_progress=result.in_progress,
            local=_address(result.local),
            remote=_address(result.remote),
        )

    @_errors
    async def Accept(self, request, context):
        result = await self.answer(
            self.layer.accept,
            request.descriptor,
            timeout=_timeout(request),
            request_id=request.request_id,
            session=request.session,
        )
        if result.would_block:
            return pb.AcceptResponse(would_block=True)
        return pb.AcceptResponse(
            descriptor=result.descriptor,
            local=_address(result.local),
            remote=_address(result.remote),
        )

    @_errors
    async def Send(self, request, context):
        result = await self.answer(
            self.layer.send,
            request.descriptor,
            request.data,
            offset=_offset(request),
            timeout=_timeout(request),
            more=request.more,
        )
        return pb.SendResponse(offset=result.offset, would_block=result.would_block)

    @_errors
    async def Recv(self, request, context):
        offset = _offset(request)
        result = await self.answer(
            self.layer.recv,
            request.descriptor,
            request.max_bytes,
            offset=offset,
            timeout=_timeout(request),
            peek=request.peek,
        )
        if 0 < len(result.data) < request.max_bytes and not request.peek:
            result = await self._topped_up(request, offset, result)
        return pb.RecvResponse(
            offset=result.offset,
            data=result.data,
            end_of_stream=result.end_of_stream,
            would_block=result.would_block,
            more=result.more,
        )

    @_errors
    async def Shutdown(self, request, context):
        how = _HOW.get(request.how, "")
        await self.answer(self.layer.shutdown, request.descriptor, how)
        return pb.ShutdownResponse()

    @_errors
    async def CloseSocket(self, request, context):
        await self.answer(self.layer.close_socket, request.descriptor)
        return pb.CloseSocketResponse()

    @_errors
    async def SetOption(self, request, context):
        value = request.text if request.HasField("text") else request.value
        await self.answer(self.layer.set_option, request.descriptor, request.name, value)
        return pb.SetOptionResponse()

    @_errors
    async def GetOption(self, request, context):
        value = await self.answer(self.layer.get_option, request.descriptor, request.name)
        if isinstance(value, str):
            return pb.GetOptionResponse(text=value)
        if isinstance(value, dict):
            return pb.GetOptionResponse(info=value)
        return pb.GetOptionResponse(value=value)

    @_errors
    async def GetSocket(self, request, context):
        info = await self.answer(self.layer.get_socket, request.descriptor)
        return pb.GetSocketResponse(socket=_socket(info))

    @_errors
    async def ListSockets(self, request, context):
        infos = await self.answer(self.layer.list_sockets)
        return pb.ListSocketsResponse(sockets=map(_socket, infos))

    @_errors
    async def Resolve(self, request, context):
        return pb.ResolveResponse(addresses=await self.answer(self.layer.resolve, request.name))

    @_errors
    async def Poll(self, request, context):
        items = [(item.descriptor, item.events) for item in request.items]
        ready = await self.answer(self.layer.poll, items, timeout=_timeout(request))
        return pb.PollResponse(
            ready=[pb.PollItem(descriptor=descriptor, events=mask) for descriptor, mask in ready]
        )

    @_errors
    async def Transfer(self, request_iterator, context):
        await transfer(self.bridge, request_iterator, context.write)

    async def _topped_up(
        self, request: pb.RecvRequest, offset: int | None, first: results.RecvResult
    ) -> results.RecvResult:
        """A call that waited was answered by the first of many segments: add what came with it."""
        if not self.layer.readable(request.descriptor):
            return first
        rest = await self.answer(
            self.layer.recv,
            request.descriptor,
            request.max_bytes - len(first.data),
            offset=None if offset is None else first.offset + len(first.data),
            timeout=0,
            acknowledged=offset,
        )
        return rest._replace(offset=first.offset, data=first.data + rest.data)


def _pair(address: pb.Address) -> results.Address:
    return address.host, address.port


def _address(address: results.Address) -> pb.Address:
    return pb.Address(host=address[0], port=address[1])


def _timeout(request: Any) -> float | None:
    return request.timeout if request.HasField("timeout") else None


def _offset(request: Any) -> int | None:
    return request.offset if request.HasField("offset") else None


def _socket(info: results.SocketInfo) -> pb.Socket:
    fields = info._asdict()
    fields["local"], fields["remote"] = _address(info.local), _address(info.remote)
    return pb.Socket(**fields)
