"""The gRPC API of one host that talks to itself: real server, real channel, real tcp and ip."""

import asyncio
import math

import grpc
import pytest
from api_host import HERE, api, reason, run
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from plywire.rpc import socket_pb2 as pb

POLLIN, POLLOUT = 1, 4


async def listening(stub, port=8080):
    fd = (await stub.CreateSocket(pb.CreateSocketRequest())).descriptor
    await stub.Bind(pb.BindRequest(descriptor=fd, address=pb.Address(host=HERE, port=port)))
    await stub.Listen(pb.ListenRequest(descriptor=fd, backlog=16))
    return fd


async def pair(stub, port=8080):
    """(listener, client, server) descriptors."""
    listener = await listening(stub, port)
    client = (await stub.CreateSocket(pb.CreateSocketRequest())).descriptor
    address = pb.Address(host=HERE, port=port)
    await stub.Connect(pb.ConnectRequest(descriptor=client, address=address))
    accepted = await stub.Accept(pb.AcceptRequest(descriptor=listener))
    return listener, client, accepted.descriptor


def test_a_conversation():
    async def test():
        async with api() as (stub, _, _):
            names = await stub.Resolve(pb.ResolveRequest(name="h1.lab"))
            assert names.addresses == [HERE]
            _, client, server = await pair(stub)
            sent = await stub.Send(pb.SendRequest(descriptor=client, data=b"GET /", offset=0))
            assert (sent.offset, sent.would_block) == (5, False)
            got = await stub.Recv(pb.RecvRequest(descriptor=server, max_bytes=100))
            assert got.data == b"GET /"
            info = (await stub.GetSocket(pb.GetSocketRequest(descriptor=client))).socket
            assert (info.state, info.remote.port, info.send_offset) == ("ESTABLISHED", 8080, 5)
            assert info.control["snd_mss"] > 500
            assert info.congestion
            await stub.Shutdown(pb.ShutdownRequest(descriptor=client, how=pb.HOW_WRITE))
            got = await stub.Recv(pb.RecvRequest(descriptor=server, max_bytes=100))
            assert got.end_of_stream
            await stub.CloseSocket(pb.CloseSocketRequest(descriptor=server))
            got = await stub.Recv(pb.RecvRequest(descriptor=client, max_bytes=100))
            assert got.end_of_stream
            await stub.CloseSocket(pb.CloseSocketRequest(descriptor=client))
            left = (await stub.ListSockets(pb.ListSocketsRequest())).sockets
            assert [(each.state, each.local.port) for each in left] == [("LISTEN", 8080)]

    run(test)


def test_errors_carry_the_errno_the_host_the_layer_and_the_cause():
    async def test():
        async with api() as (stub, _, _):
            name, code, _ = await reason(stub.Send(pb.SendRequest(descriptor=77, data=b"x")))
            assert (name, code) == ("EBADF", grpc.StatusCode.NOT_FOUND)
            fd = (await stub.CreateSocket(pb.CreateSocketRequest())).descriptor
            name, code, _ = await reason(stub.Send(pb.SendRequest(descriptor=fd, data=b"x")))
            assert (name, code) == ("ENOTCONN", grpc.StatusCode.FAILED_PRECONDITION)
            address = pb.Address(host=HERE, port=9)
            request = pb.ConnectRequest(descriptor=fd, address=address)
            name, code, more = await reason(stub.Connect(request))
            assert (name, code) == ("ECONNREFUSED", grpc.StatusCode.ABORTED)
            assert (more["host"], more["layer"]) == ("h1", "tcp")
            assert more["cause"]
            name, _, _ = await reason(stub.Resolve(pb.ResolveRequest(name="nowhere.lab")))
            assert name == "EAI_NONAME"
            name, _, _ = await reason(
                stub.SetOption(pb.SetOptionRequest(descriptor=fd, name="SO_MAGIC", value=1))
            )
            assert name == "ENOPROTOOPT"
            request = pb.RecvRequest(descriptor=fd, max_bytes=1, timeout=math.nan)
            assert (await reason(stub.Recv(request)))[0] == "EINVAL"
            await listening(stub)
            other = (await stub.CreateSocket(pb.CreateSocketRequest())).descriptor
            address = pb.Address(host=HERE, port=8080)
            request = pb.BindRequest(descriptor=other, address=address)
            assert (await reason(stub.Bind(request)))[0] == "EADDRINUSE"

    run(test)


def test_timeouts_are_results():
    async def test():
        async with api() as (stub, _, _):
            listener, client, _ = await pair(stub)
            got = await stub.Recv(pb.RecvRequest(descriptor=client, max_bytes=1, timeout=0))
            assert got.would_block
            got = await stub.Accept(pb.AcceptRequest(descriptor=listener, timeout=0.02))
            assert got.would_block

    run(test)


def test_a_client_deadline_loses_no_bytes():
    async def test():
        async with api() as (stub, shell, _):
            _, client, server = await pair(stub)
            request = pb.RecvRequest(descriptor=server, max_bytes=100, offset=0)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await stub.Recv(request, timeout=0.05)
            assert failed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await until(lambda: not shell.layer.context.waiters)
            await stub.Send(pb.SendRequest(descriptor=client, data=b"all of it"))
            assert (await stub.Recv(request)).data == b"all of it"
            assert (await stub.Recv(request)).data == b"all of it", "and again"

    run(test)


def test_a_dead_clients_sockets_are_closed():
    async def test():
        async with api() as (stub, shell, _):
            stream = stub.OpenSession(pb.OpenSessionRequest())
            hello = await stream.read()
            assert hello.host == "h1"
            request = pb.CreateSocketRequest(session=hello.session)
            fd = (await stub.CreateSocket(request)).descriptor
            await stub.GetOption(pb.GetOptionRequest(descriptor=fd, name="SO_ERROR"))
            stream.cancel()
            await until(lambda: len(shell.layer.context.table) == 0)

    run(test)


def test_poll_waits_until_something_is_ready():
    async def test():
        async with api() as (stub, _, _):
            _, client, server = await pair(stub)
            items = [pb.PollItem(descriptor=server, events=POLLIN)]
            waiting = asyncio.ensure_future(stub.Poll(pb.PollRequest(items=items)))
            await stub.Send(pb.SendRequest(descriptor=client, data=b"x"))
            ready = (await waiting).ready
            assert [(item.descriptor, item.events) for item in ready] == [(server, POLLIN)]
            items = [pb.PollItem(descriptor=client, events=POLLIN)]
            assert not (await stub.Poll(pb.PollRequest(items=items, timeout=0.01))).ready

    run(test)


def test_a_large_transfer_by_send_and_recv():
    payload = bytes(range(256)) * 16_384

    async def test():
        async with api() as (stub, _, _):
            _, client, server = await pair(stub)

            async def feed():
                for start in range(0, len(payload), 1 << 18):
                    piece = payload[start : start + (1 << 18)]
                    request = pb.SendRequest(descriptor=client, data=piece, offset=start)
                    assert not (await stub.Send(request)).would_block
                await stub.Shutdown(pb.ShutdownRequest(descriptor=client, how=pb.HOW_WRITE))

            feeding = asyncio.create_task(feed())
            got = bytearray()
            while True:
                request = pb.RecvRequest(descriptor=server, max_bytes=1 << 18, offset=len(got))
                result = await stub.Recv(request)
                got += result.data
                if result.end_of_stream:
                    break
            await feeding
            assert got == payload

    run(test)


def test_transfer_carries_both_directions_on_one_stream():
    payload = bytes(range(251)) * 12_000  # 3 MB, more than every window on the way

    async def test():
        async with api() as (stub, _, _):
            _, client, server = await pair(stub)
            echo = asyncio.create_task(_echo(stub, server))
            stream = stub.Transfer()
            await stream.write(pb.TransferRequest(descriptor=client))
            assert (await stream.read()).accepted == 0
            state = {"accepted": 0, "got": bytearray()}
            changed = asyncio.Event()

            async def read():
                while True:
                    response = await stream.read()
                    if response is grpc.aio.EOF:
                        return
                    state["accepted"] = max(state["accepted"], response.accepted)
                    if response.data:
                        assert response.offset == len(state["got"])
                        state["got"] += response.data
                    changed.set()

            reading = asyncio.create_task(read())
            for start in range(0, len(payload), 65_536):
                while start - state["accepted"] > 500_000:
                    changed.clear()
                    await changed.wait()
                await stream.write(
                    pb.TransferRequest(
                        offset=start,
                        data=payload[start : start + 65_536],
                        received=len(state["got"]),
                    )
                )
            await stream.write(pb.TransferRequest(offset=len(payload), end=True))
            while len(state["got"]) < len(payload):
                changed.clear()
                await stream.write(pb.TransferRequest(received=len(state["got"])))
                await changed.wait()
            await stream.write(pb.TransferRequest(received=len(payload)))
            await reading
            await echo
            assert state["got"] == payload
            assert await stream.code() == grpc.StatusCode.OK

    run(test)


def test_transfer_towards_a_client_that_stops_reading_stops():
    async def test():
        async with api() as (stub, shell, _):
            _, client, server = await pair(stub)
            stream = stub.Transfer()
            await stream.write(pb.TransferRequest(descriptor=client))
            await stream.read()
            sent = 0
            while True:
                request = pb.SendRequest(descriptor=server, data=bytes(1 << 18), timeout=0.3)
                result = await stub.Send(request)
                sent = result.offset
                if result.would_block:
                    break
            assert sent < 6 << 20, "buffers and windows, and no more"
            info = (await stub.GetSocket(pb.GetSocketRequest(descriptor=client))).socket
            closed = info.control["rcv_wnd"] < info.control["snd_mss"]
            assert closed, "the window has no room for a segment, and that can be seen"
            stream.cancel()
            await until(lambda: not shell.layer.context.waiters)

    run(test)


def test_a_broken_transfer_goes_on_where_the_client_stands():
    async def test():
        async with api() as (stub, _, _):
            _, client, server = await pair(stub)
            await stub.Send(pb.SendRequest(descriptor=server, data=b"0123456789"))
            stream = stub.Transfer()
            await stream.write(pb.TransferRequest(descriptor=client, data=b"abcdef"))
            got, accepted = b"", 0
            while len(got) < 10 or accepted < 6:
                response = await stream.read()
                got, accepted = got + response.data, max(accepted, response.accepted)
            stream.cancel()
            again = stub.Transfer()
            request = pb.TransferRequest(descriptor=client, received=4, offset=3, data=b"defghi")
            await again.write(request)
            assert (await again.read()).accepted == 6
            got, accepted = b"", 0
            while len(got) < 6 or accepted < 9:
                response = await again.read()
                got, accepted = got + response.data, max(accepted, response.accepted)
            assert got == b"456789"
            arrived = await stub.Recv(pb.RecvRequest(descriptor=server, max_bytes=100))
            assert arrived.data == b"abcdefghi"
            again.cancel()

    run(test)


def test_what_a_client_says_after_its_end_is_neither_kept_nor_sent():
    async def test():
        async with api() as (stub, _, _):
            _, client, server = await pair(stub)
            stream = stub.Transfer()
            await stream.write(pb.TransferRequest(descriptor=client, data=b"all", end=True))
            for _ in range(16):  # 2 MiB: more than is read ahead
                await stream.write(pb.TransferRequest(offset=3, data=bytes(1 << 17), end=True))
            assert (await stub.Recv(pb.RecvRequest(descriptor=server, max_bytes=9))).data == b"all"
            last = await stub.Recv(pb.RecvRequest(descriptor=server, max_bytes=9))
            assert last.end_of_stream
            sending = asyncio.create_task(_send_and_close(stub, server, bytes(3 << 20)))
            got = 0
            async for response in stream:  # its word of what it has is heard all the same
                got += len(response.data)
                if not response.end:
                    await stream.write(pb.TransferRequest(received=got))
            await sending
            assert got == 3 << 20
            assert await stream.code() == grpc.StatusCode.OK

    run(test)


@pytest.mark.parametrize("last_word", ["all has arrived", "no more requests"])
def test_a_transfer_waits_for_the_last_word_of_its_client(last_word):
    """A word that met the end of the stream would fail the call, though nothing was amiss."""

    async def test():
        async with api() as (stub, _, _):
            _, client, server = await pair(stub)
            await stub.Send(pb.SendRequest(descriptor=server, data=b"0123456789"))
            await stub.CloseSocket(pb.CloseSocketRequest(descriptor=server))
            stream = stub.Transfer()
            await stream.write(pb.TransferRequest(descriptor=client, end=True))
            while not (await stream.read()).end:
                pass
            status = asyncio.ensure_future(stream.code())
            await asyncio.wait([status], timeout=0.3)  # LINGER is ten times that
            assert not status.done()
            if last_word == "no more requests":
                await stream.done_writing()
            else:
                await stream.write(pb.TransferRequest(received=10))
            assert await stream.read() is grpc.aio.EOF
            assert await status == grpc.StatusCode.OK

    run(test)


def test_transfer_on_an_unknown_descriptor_is_ebadf():
    async def test():
        async with api() as (stub, _, _):
            stream = stub.Transfer()
            await stream.write(pb.TransferRequest(descriptor=99))
            assert (await reason(stream.read()))[0] == "EBADF"

    run(test)


def test_health_has_one_name_per_layer():
    async def test():
        async with api() as (_, _, channel):
            health = health_pb2_grpc.HealthStub(channel)
            serving = health_pb2.HealthCheckResponse.SERVING
            for name in ("app", "tcp"):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == serving
            for name in ("link", ""):  # no process holds the lock of the link in this test
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch = health.Watch(health_pb2.HealthCheckRequest(service="tcp"))
            assert (await watch.read()).status == serving
            watch.cancel()
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await health.Check(health_pb2.HealthCheckRequest(service="nothing"))
            assert failed.value.code() == grpc.StatusCode.NOT_FOUND

    run(test)


def test_reflection_lists_the_services():
    async def test():
        async with api() as (_, _, channel):
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            call = stub.ServerReflectionInfo()
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            answer = await call.read()
            names = {service.name for service in answer.list_services_response.service}
            assert {"plywire.socket.v1.SocketService", "grpc.health.v1.Health"} <= names
            await call.done_writing()

    run(test)


def test_a_message_too_large_is_refused_and_nothing_is_lost():
    async def test():
        async with api() as (stub, _, _):
            _, client, server = await pair(stub)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await stub.Send(pb.SendRequest(descriptor=client, data=bytes(3 << 20)))
            assert failed.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            await stub.Send(pb.SendRequest(descriptor=client, data=b"fine"))
            got = await stub.Recv(pb.RecvRequest(descriptor=server, max_bytes=10))
            assert got.data == b"fine"

    run(test)


async def _send_and_close(stub, fd, data):
    for start in range(0, len(data), 1 << 18):
        await stub.Send(pb.SendRequest(descriptor=fd, data=data[start : start + (1 << 18)]))
    await stub.CloseSocket(pb.CloseSocketRequest(descriptor=fd))


async def _echo(stub, fd):
    offset = 0
    while True:
        got = await stub.Recv(pb.RecvRequest(descriptor=fd, max_bytes=1 << 18, offset=offset))
        if got.data:
            await stub.Send(pb.SendRequest(descriptor=fd, data=got.data, offset=offset))
            offset += len(got.data)
        if got.end_of_stream:
            await stub.Shutdown(pb.ShutdownRequest(descriptor=fd, how=pb.HOW_WRITE))
            return


async def until(condition):
    """Until something is so; the loop runs meanwhile."""
    while not condition():
        await asyncio.sleep(0.001)
