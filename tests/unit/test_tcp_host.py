"""The system's sockets as a TCP: addresses, the device's corners, and what crosses on the way."""

from __future__ import annotations

import errno
import random
import select
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plywire import messages, tcp_info
from plywire.config import SECOND, host
from plywire.roles import APP, WIRE
from plywire.trace import Tracer
from services.tcp_host import calls, create
from services.tcp_host.addresses import Addresses
from services.tcp_host.devices import open_ports

HOME = bytes((127, 128, 0, 1))
LIMIT = 20


# --- addresses ------------------------------------------------------------------------------------


@given(first=st.integers(1, 126), rest=st.binary(min_size=3, max_size=3), length=st.integers(9, 30))
def test_an_address_comes_back_as_it_went_out(first, rest, length):
    own = bytes((first,)) + rest
    value = int.from_bytes(own, "big")
    low = value & ((1 << (32 - length)) - 1)
    if low in (0, (1 << (32 - length)) - 1):
        return  # no host's address
    config = host("h1", f"{'.'.join(map(str, own))}/{length}")
    addresses = Addresses(config.interfaces[0])
    mapped = addresses.outward(own)
    assert (mapped[0], mapped[1] >= 128, mapped[2:]) == (127, True, own[2:])
    assert addresses.inward(mapped) == own


def test_addresses_by_example():
    addresses = Addresses(host("h1", "10.0.0.1/24").interfaces[0])
    assert addresses.outward(bytes((10, 0, 0, 2))) == bytes((127, 128, 0, 2))
    for own in (bytes(4), bytes((127, 0, 0, 1)), bytes((10, 0, 0, 1))):
        assert addresses.outward(own) == HOME
    for strange in (bytes((10, 0, 1, 1)), bytes((10, 0, 0, 255)), bytes((224, 0, 0, 1))):
        assert addresses.outward(strange) is None
    assert addresses.inward(bytes((127, 0, 0, 1))) == bytes((127, 0, 0, 1))


# --- the device -----------------------------------------------------------------------------------


@pytest.fixture
def port():
    (made,) = open_ports(host("h1", "10.0.0.1/24"), None, "", {})
    yield made
    made.close()


def ask(port, *asked) -> list:
    port.send(asked)
    return port.expire(0)


def until(port, kind: type) -> list:
    """Everything that the port says, up to the first message of a kind."""
    said = port.expire(0)
    while not any(type(item) is kind for item in said):
        assert select.select([port.pollable()], [], [], LIMIT)[0], f"no {kind.__name__}: {said}"
        said += port.receive()
    return said


def is_quiet(port) -> bool:
    """Nothing wakes the loop: there is nothing to do."""
    return port.deadline() is None and not select.select([port.pollable()], [], [], 0)[0]


@pytest.fixture
def peer():
    """A listener of the machine's."""
    with socket.create_server(("127.128.0.9", 0)) as made:
        made.settimeout(LIMIT)
        yield made


def dialled(port, peer, room: int = 1 << 16) -> socket.socket:
    """The peer's end of a connection with the handle 2."""
    address, number = peer.getsockname()
    port.send(
        [calls.Dial(1, 2, HOME, socket.inet_aton(address), number, room, {"TCP_MAXSEG": 500})]
    )
    (connected,) = until(port, calls.Connected)
    assert (connected.local, connected.remote_port) == (HOME, number)
    made, _ = peer.accept()
    return made


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def test_what_came_before_a_reset_is_read(port, peer):
    theirs = dialled(port, peer)
    theirs.sendall(bytes(200_000)[: 1 << 17])
    reset(theirs)
    said = until(port, calls.Failed)
    assert said[-1].error == "ECONNRESET"
    assert any(type(item) is calls.Arrived for item in said)
    assert is_quiet(port)


def test_without_room_nothing_is_read_but_a_reset_is_heard(port, peer):
    theirs = dialled(port, peer, room=10)
    theirs.sendall(bytes(1000))
    assert len(until(port, calls.Arrived)[-1].payload) == 10
    assert is_quiet(port)
    assert ask(port, calls.Room(1, 2, 5)) == []
    assert len(until(port, calls.Arrived)[-1].payload) == 5
    reset(theirs)
    assert until(port, calls.Failed)[-1].error == "ECONNRESET"


def test_both_ended_and_unread_bytes_do_not_wake_the_loop_for_ever(port, peer):
    theirs = dialled(port, peer, room=1)
    theirs.sendall(b"unread")
    theirs.shutdown(socket.SHUT_WR)
    until(port, calls.Arrived)
    assert ask(port, calls.Finish(1, 2)) == [calls.Finished(1, 2)]
    assert theirs.recv(1) == b""
    while not is_quiet(port):
        assert port.receive() == []
    ask(port, calls.Room(1, 2, 100))
    said = until(port, calls.Ended)
    assert [item.payload for item in said if type(item) is calls.Arrived] == [b"nread"]
    theirs.close()


def test_what_the_system_says_of_a_connection_and_its_options(port, peer):
    theirs = dialled(port, peer)
    theirs.sendall(b"unread")
    ask(port, calls.Set(1, 2, "TCP_NODELAY", 1), calls.Set(1, 2, "TCP_KEEPCNT", 1000))
    assert port.counters == {"drop_host_option_einval": 1}
    ask(port, calls.Set(1, 2, "IP_TOS", 0x28))
    assert port._sockets[2].sock.getsockopt(socket.SOL_IP, socket.IP_TOS) == 0x28
    (looked,) = ask(port, calls.Look(1, 2, ""))
    assert looked.fields["state"] == "ESTABLISHED"
    assert 0 < looked.fields["snd_mss"] <= 500  # the option of the Dial, set before the SYN
    assert looked.fields["receive_queue"] == 6
    assert looked.fields["srtt_us"] > 0
    theirs.close()


def test_congestion_control_is_the_sockets(port, peer):
    theirs = dialled(port, peer)
    (there,) = ask(port, calls.Look(1, 0, "congestion"))
    assert "reno" in there.fields  # every Linux has it, and lets everybody choose it
    ask(port, calls.Set(1, 2, "TCP_CONGESTION", "reno"))
    (looked,) = ask(port, calls.Look(1, 2, ""))
    assert looked.fields["congestion"] == "reno"
    ask(port, calls.Set(1, 2, "TCP_CONGESTION", "none such"))
    assert port.counters == {"drop_host_option_enoent": 1}
    theirs.close()


def test_tcp_info_is_the_systems(port, peer):
    theirs = dialled(port, peer)
    ask(port, calls.Write(1, 2, b"x" * 1000))
    assert theirs.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
    (looked,) = ask(port, calls.Look(1, 2, "tcp_info"))
    assert looked.topic == "tcp_info"
    assert (looked.fields["state"], looked.fields["ca_state"]) == ("ESTABLISHED", "Open")
    assert looked.fields["bytes_sent"] == 1000
    assert 0 < looked.fields["snd_mss"] <= 500
    assert looked.fields["data_segs_out"] >= 2
    assert ask(port, calls.Look(1, 3, "tcp_info")) == [calls.Looked(1, 3, {}, "tcp_info")]
    theirs.close()


@given(data=st.binary(min_size=tcp_info.SIZE, max_size=tcp_info.SIZE), cut=st.integers(0, 400))
def test_struct_tcp_info_there_and_back(data, cut):
    info = tcp_info.unpack(data)
    again = tcp_info.pack(info)
    assert again[:7] + again[8:] == data[:7] + data[8:]  # the other bits of byte 7 are of Fast Open
    shorter = tcp_info.unpack(data[:cut])  # of an older kernel
    assert shorter.items() <= info.items()
    assert ("rto" in shorter) == (cut >= 12)


def test_close_gives_the_system_everything_first(port, peer):
    theirs = dialled(port, peer)
    data = random.Random(1).randbytes(8 << 20)
    said = ask(port, calls.Write(1, 2, data), calls.Leave(1, 2, 0))
    assert not any(type(item) is calls.Gone for item in said)  # more than the system holds
    received = bytearray()
    theirs.setblocking(False)
    while True:
        port.receive()
        try:
            part = theirs.recv(1 << 20)
        except BlockingIOError:
            continue
        if not part:
            break
        received += part
    assert received == data
    assert is_quiet(port)


def test_a_listener_without_descriptors_pauses_until_it_may_go_on(port):
    class Full:
        """A socket whose accept finds no descriptor free."""

        def __init__(self, sock):
            self.sock, self.full = sock, True

        def accept(self):
            if self.full:
                raise OSError(errno.EMFILE, "Too many open files")
            return self.sock.accept()

        def __getattr__(self, name):
            return getattr(self.sock, name)

    (bound,) = ask(port, calls.Announce(1, 2, HOME, 0, 0, 4), calls.Admit(1, 2, 1, 10))
    listener = port._sockets[2]
    listener.sock = full = Full(listener.sock)
    with socket.create_connection(("127.128.0.1", bound.port)):
        select.select([port.pollable()], [], [], LIMIT)
        assert port.receive() == []
        assert port.counters["drop_host_accept_emfile"] == 1
        assert is_quiet(port)
        full.full = False
        ask(port, calls.Admit(1, 2, 3, 10))
        assert until(port, calls.Connected)[-1].handle == 1


def test_what_cannot_be_bound(port):
    (bound,) = ask(port, calls.Reserve(1, 2, bytes((192, 0, 2, 1)), 0, 0))
    assert (bound.error, bound.listening) == ("EADDRNOTAVAIL", 0)
    (bound,) = ask(port, calls.Announce(1, 4, HOME, 0, 0, 4))
    (again,) = ask(port, calls.Announce(1, 6, HOME, bound.port, 0, 4))
    assert (bound.error, again.error, again.listening) == ("", "EADDRINUSE", 1)


# --- the core: what crosses on the way ------------------------------------------------------------


def core():
    return create(host("h1", "10.0.0.1/24"), random.Random(1), Tracer("h1", "tcp", None))


def given_to(layer, message, source=APP) -> list:
    layer.receive(message, source, SECOND)
    return [output.message for output in layer.outputs()]


def test_a_connection_that_comes_when_its_listener_has_gone_is_reset():
    layer = core()
    given_to(layer, messages.Listen(1, 2, 4, {}))
    said = given_to(layer, calls.Reserved(1, 2, 80, 1, "", ""), WIRE)
    admitted = [item for item in said if type(item) is calls.Admit]
    assert [item.child for item in admitted] == [1, 3, 5, 7, 9]
    given_to(layer, messages.Close(1, 2, 0, 0))
    came = calls.Connected(1, 1, 2, HOME, 80, HOME, 5000)
    assert given_to(layer, came, WIRE) == [calls.Leave(1, 1, 1)]


def test_answers_for_a_socket_that_was_closed_are_passed_over():
    layer = core()
    given_to(layer, messages.Bind(1, 2, bytes(4), 80, 0))
    given_to(layer, messages.Close(1, 2, 0, 0))
    assert given_to(layer, calls.Reserved(1, 2, 80, 0, "", ""), WIRE) == []
    late = [calls.Arrived(1, 4, b"x"), calls.Failed(1, 4, "EIO", ""), calls.Wrote(1, 4, 1)]
    for message in (*late, calls.Ended(1, 4), calls.Finished(1, 4), calls.Gone(1, 4)):
        assert given_to(layer, message, WIRE) == []


def test_a_snapshot_keeps_listeners_and_says_that_connections_are_over():
    layer = core()
    given_to(layer, messages.Bind(1, 6, bytes(4), 81, 0))
    given_to(layer, calls.Reserved(1, 6, 81, 0, "", ""), WIRE)
    given_to(layer, messages.Listen(1, 2, 4, {}))
    given_to(layer, calls.Reserved(1, 2, 80, 1, "", ""), WIRE)
    given_to(layer, messages.Connect(1, 4, bytes((10, 0, 0, 2)), 80, 1000, {}))
    heir = core()
    heir.restore(layer.snapshot(), SECOND)
    said = [output.message for output in heir.outputs()]
    reserve, announce, closed = said
    assert (type(reserve), reserve.handle, reserve.port) == (calls.Reserve, 6, 81)
    assert (type(announce), announce.handle, announce.port) == (calls.Announce, 2, 80)
    assert (closed.handle, closed.error) == (4, "ECONNRESET")
    assert given_to(heir, calls.Reserved(0, 6, 81, 0, "", ""), WIRE) == []
    (closed,) = given_to(heir, calls.Reserved(0, 2, 80, 1, "EADDRINUSE", "taken"), WIRE)
    assert (closed.handle, closed.error) == (2, "EADDRINUSE")
    assert heir.describe("listeners", SECOND) == []
