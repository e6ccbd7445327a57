"""Wrong input through the API, on pipes and on the wire: clear errors, counted, nothing lost."""

from __future__ import annotations

import errno
import os
import socket

import grpc
import pytest
import zmq
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from plywire import envelope
from plywire.messages import Frame, Segment
from plywire.rpc import socket_pb2 as pb
from plywire.runtime.config import control_endpoint, inbox, wire_endpoint
from plywire.runtime.observer import ask
from tests.process.running import wait_until

H1, H2 = "10.0.0.1", "10.0.0.2"


def info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    found = error_details_pb2.ErrorInfo()
    (detail,) = rpc_status.from_call(error).details
    assert detail.Unpack(found)
    return found


def refused(call, request) -> error_details_pb2.ErrorInfo:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)
    assert caught.value.code() is not grpc.StatusCode.UNAVAILABLE
    return info(caught.value)


def counters(lab, host, role) -> dict:
    return ask(control_endpoint(lab.directory, host, role), "describe", "counters", timeout=10)


@pytest.fixture
def stub(stacks):
    return stacks["h1"].api.stub


@pytest.fixture
def descriptor(stub):
    made = stub.CreateSocket(pb.CreateSocketRequest()).descriptor
    yield made
    stub.CloseSocket(pb.CloseSocketRequest(descriptor=made))


def connect_request(descriptor, host=H2, port=9, **more):
    return pb.ConnectRequest(
        descriptor=descriptor, address=pb.Address(host=host, port=port), **more
    )


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Bind", pb.BindRequest(descriptor=999_999)),
        ("Listen", pb.ListenRequest(descriptor=999_999)),
        ("Connect", connect_request(999_999)),
        ("Accept", pb.AcceptRequest(descriptor=999_999)),
        ("Send", pb.SendRequest(descriptor=999_999, data=b"x")),
        ("Recv", pb.RecvRequest(descriptor=999_999, max_bytes=1)),
        ("Shutdown", pb.ShutdownRequest(descriptor=999_999, how=pb.HOW_BOTH)),
        ("CloseSocket", pb.CloseSocketRequest(descriptor=999_999)),
        ("SetOption", pb.SetOptionRequest(descriptor=999_999, name="TCP_NODELAY", value=1)),
        ("GetOption", pb.GetOptionRequest(descriptor=999_999, name="TCP_NODELAY")),
        ("GetSocket", pb.GetSocketRequest(descriptor=999_999)),
    ],
)
def test_an_unknown_descriptor_is_ebadf(stub, method, request_):
    found = refused(getattr(stub, method), request_)
    assert (found.reason, found.domain) == ("EBADF", "plywire")
    assert found.metadata["host"] == "h1"
    assert found.metadata["layer"] == "app"
    assert found.metadata["cause"]


def test_send_before_connect(stub, descriptor):
    found = refused(stub.Send, pb.SendRequest(descriptor=descriptor, data=b"x"))
    assert found.reason == "ENOTCONN"
    assert found.metadata["cause"] == "the socket was never connected"


def test_recv_before_connect(stub, descriptor):
    found = refused(stub.Recv, pb.RecvRequest(descriptor=descriptor, max_bytes=1))
    assert found.reason == "ENOTCONN"


def test_refused_names_errno_layer_and_cause(stub, descriptor):
    found = refused(stub.Connect, connect_request(descriptor, port=9))
    assert found.reason == "ECONNREFUSED"
    assert found.metadata["layer"] == "tcp"
    assert "RST" in found.metadata["cause"]


def test_connect_twice(stacks):
    with (
        stacks["h2"].create_server(("", 0)) as server,
        stacks["h1"].create_connection((H2, server.getsockname()[1])) as sock,
        pytest.raises(OSError) as caught,
    ):
        sock.connect((H2, server.getsockname()[1]))
    assert caught.value.errno == errno.EISCONN


def test_no_route(stub, descriptor):
    assert refused(stub.Connect, connect_request(descriptor, "192.0.2.1")).reason == "ENETUNREACH"


def test_a_neighbour_that_is_not_there(stub, descriptor):
    assert refused(stub.Connect, connect_request(descriptor, "10.0.0.77")).reason == "EHOSTUNREACH"


def test_no_such_host(stub):
    found = refused(stub.Resolve, pb.ResolveRequest(name="nobody.lab"))
    assert found.reason == "EAI_NONAME"


def test_a_port_in_use(stacks):
    stack = stacks["h1"]
    with stack.create_server(("", 0)) as server, stack.socket() as other:
        other.bind((H1, 0))
        with stack.socket() as third, pytest.raises(OSError) as caught:
            third.bind(("", server.getsockname()[1]))
        assert caught.value.errno == errno.EADDRINUSE


def test_an_address_of_somebody_else(stacks):
    with stacks["h1"].socket() as sock, pytest.raises(OSError) as caught:
        sock.bind((H2, 0))
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_out_of_descriptors(lab, stub):
    limit = lab.config.hosts["h1"].app.max_descriptors
    there = len(stub.ListSockets(pb.ListSocketsRequest()).sockets)
    made = [stub.CreateSocket(pb.CreateSocketRequest()) for _ in range(limit - there)]
    found = refused(stub.CreateSocket, pb.CreateSocketRequest())
    for item in made:
        stub.CloseSocket(pb.CloseSocketRequest(descriptor=item.descriptor))
    assert found.reason == "EMFILE"
    again = stub.CreateSocket(pb.CreateSocketRequest())
    stub.CloseSocket(pb.CloseSocketRequest(descriptor=again.descriptor))


@pytest.mark.parametrize(
    "request_",
    [
        pb.ConnectRequest(address=pb.Address(host="not an address", port=80)),
        pb.ConnectRequest(address=pb.Address(host=H2, port=70_000)),
        pb.ConnectRequest(address=pb.Address(host=H2, port=80), timeout=-1),
    ],
)
def test_values_that_cannot_be_are_einval(stub, descriptor, request_):
    request_.descriptor = descriptor
    found = refused(stub.Connect, request_)
    assert found.reason == "EINVAL"
    assert found.metadata["cause"]


@pytest.mark.parametrize("role", ["tcp", "ip", "link"])
def test_garbage_on_a_pipe_is_counted_and_the_layer_goes_on(lab, stacks, role):
    above = {"tcp": "app", "ip": "tcp", "link": "ip"}[role]
    before = counters(lab, "h1", role)
    pid = lab.layer("h1", role).pid
    with zmq.Context() as context, context.socket(zmq.PUSH) as pipe:
        pipe.set(zmq.LINGER, 5000)
        pipe.connect(inbox(lab.directory, "h1", role, above))
        pipe.send(os.urandom(64))
        pipe.send(envelope.dump_state([99, []]))
        pipe.send(envelope.dump_state([envelope.SCHEMA, [48, 0, "x"], [16, 1], "?", [7777, 1]]))
        pipe.send(b"\0" * (envelope.MAX_BATCH + 1))

    def counted():
        now = counters(lab, "h1", role)
        return sum(now.get(name, 0) - before.get(name, 0)
                   for name in now if name.startswith("drop_pipe_")) >= 6  # fmt: skip

    wait_until(counted, "the bad messages are counted")
    assert lab.layer("h1", role).pid == pid
    still_works(stacks)


def test_garbage_frames_are_counted_and_the_wire_goes_on(lab, stacks):
    before = counters(lab, "h1", "link")
    mac = b"\x02\x00\x0a\x00\x00\x01"
    header = mac + b"\x02" * 6
    frames = [
        b"",
        b"short",
        header + b"\x08\x00",
        header + b"\x08\x06" + b"\xff" * 46,
        header + b"\x12\x34" + bytes(46),
        header + b"\x08\x00" + os.urandom(46),
    ]
    with zmq.Context() as context, context.socket(zmq.PUSH) as wire:
        wire.set(zmq.LINGER, 5000)
        wire.connect(wire_endpoint(lab.directory, "h1", "eth0"))
        wire.send(envelope.encode([Frame(0, 1, 0, frame) for frame in frames]))

    def counted():
        now = counters(lab, "h1", "link")
        return sum(now[name] - before.get(name, 0) for name in now if name.startswith("drop_")) >= 4

    wait_until(counted, "the bad frames are counted")
    still_works(stacks)


def test_segments_for_nobody_are_answered_and_counted(lab, stacks):
    before = counters(lab, "h1", "tcp")
    with zmq.Context() as context, context.socket(zmq.PUSH) as pipe:
        pipe.set(zmq.LINGER, 5000)
        pipe.connect(inbox(lab.directory, "h1", "tcp", "ip"))
        segment = Segment(0, 6, bytes((10, 0, 0, 2)), bytes((10, 0, 0, 1)), 0, 64, 0, b"\0" * 20)
        pipe.send(envelope.encode([segment]))

    def counted():
        now = counters(lab, "h1", "tcp")
        return now.get("drop_tcp_bad_checksum", 0) > before.get("drop_tcp_bad_checksum", 0)

    wait_until(counted, "the bad segment is counted")
    still_works(stacks)


def still_works(stacks):
    with (
        stacks["h2"].create_server(("", 0)) as server,
        stacks["h1"].create_connection((H2, server.getsockname()[1]), timeout=30) as ours,
    ):
        server.settimeout(30)
        theirs, _ = server.accept()
        with theirs:
            ours.sendall(b"still here")
            assert theirs.recv(10, socket.MSG_WAITALL) == b"still here"
