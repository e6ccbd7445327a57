"""Raw-IP mode: a test tool that speaks bare IP packets drives one host."""

from __future__ import annotations

from sim_programs import SECOND, listener, socket

from plywire.lab.simulator import World
from plywire.wire import ipv4, tcp

HOST, TOOL = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 9))


def packet(flags: int, seq: int, ack: int = 0, data: bytes = b"", port: int = 80) -> bytes:
    """A TCP packet from the tool to the host."""
    header = tcp.TcpHeader(1234, port, seq, ack, flags, 65_535)
    return ipv4.encode(ipv4.Ipv4Header(TOOL, HOST, 6), tcp.encode(header, data, TOOL, HOST))


def segments(wire) -> list[tuple[int, tcp.TcpHeader, bytes]]:
    """(time, header, data) of each segment that the host has sent."""
    found = []
    for item in wire.take():
        header, body = ipv4.decode(item.frame)
        assert (header.src, header.dst) == (HOST, TOOL)
        found.append((item.time, *tcp.decode(body, HOST, TOOL)))
    return found


def raw_host(world: World):
    wire = world.wire("lan", raw=True)
    host = world.host("h1", "10.0.0.1/24")
    assert wire.take() == [], "there is no ARP on a raw wire"
    return host, wire


def test_a_syn_is_answered_with_syn_and_ack_at_its_time():
    world = World()
    host, wire = raw_host(world)
    listener(host)
    wire.inject(packet(tcp.SYN, 1000), at=1_000_000)
    world.advance_to(999_999)
    assert wire.take() == []
    world.advance_to(2_000_000)
    [(time, header, _)] = segments(wire)
    assert time == 1_000_000
    assert header.flags == tcp.SYN | tcp.ACK
    assert header.ack == 1001


def test_a_whole_connection_by_hand():
    world = World()
    host, wire = raw_host(world)
    accepted = host.accept(listener(host))
    wire.inject(packet(tcp.SYN, 1000))
    [(_, answer, _)] = segments(wire)
    theirs = answer.seq + 1
    wire.inject(packet(tcp.ACK, 1001, theirs))
    server = accepted.result().descriptor
    assert host.get_socket(server).result().state == "ESTABLISHED"

    wire.inject(packet(tcp.ACK | tcp.PSH, 1001, theirs, b"hello"))
    assert host.recv(server, 100).result().data == b"hello"
    host.send(server, b"world").result()
    world.advance(SECOND // 10)
    sent = segments(wire)
    assert b"".join(data for _, _, data in sent) == b"world"
    assert sent[-1][1].ack == 1006

    wire.inject(packet(tcp.ACK | tcp.FIN, 1006, theirs + 5))
    assert host.recv(server, 100).result().end_of_stream
    host.close_socket(server).result()
    world.advance(SECOND // 10)
    last = segments(wire)[-1][1]
    assert last.flags & tcp.FIN
    assert last.ack == 1007
    wire.inject(packet(tcp.ACK, 1007, theirs + 6))
    assert host.describe("tcp", "connections") == []


def test_a_syn_to_a_port_without_listener_is_reset():
    world = World()
    _, wire = raw_host(world)
    wire.inject(packet(tcp.SYN, 1000, port=81))
    [(_, header, _)] = segments(wire)
    assert header.flags == tcp.RST | tcp.ACK
    assert (header.seq, header.ack) == (0, 1001)


def test_the_hosts_own_syn_is_taken_and_answered():
    world = World()
    host, wire = raw_host(world)
    descriptor = socket(host)
    call = host.connect(descriptor, ("10.0.0.9", 80))
    [(_, syn, _)] = segments(wire)
    assert syn.flags == tcp.SYN
    reply = tcp.TcpHeader(80, syn.src_port, 5000, syn.seq + 1, tcp.SYN | tcp.ACK, 65_535)
    wire.inject(ipv4.encode(ipv4.Ipv4Header(TOOL, HOST, 6), tcp.encode(reply, b"", TOOL, HOST)))
    assert call.done
    assert call.error is None
    [(_, ack, _)] = segments(wire)
    assert (ack.flags, ack.ack) == (tcp.ACK, 5001)


def test_syns_that_nobody_answers_follow_the_table_of_back_off():
    world = World()
    host, wire = raw_host(world)
    host.connect(socket(host), ("10.0.0.9", 80))
    world.run(limit=300 * SECOND)
    assert [time // SECOND for time, _, _ in segments(wire)] == [0, 1, 3, 7, 15, 31, 63]


def test_a_fresh_host_for_the_next_script():
    world = World()
    host, wire = raw_host(world)
    listener(host)
    wire.inject(packet(tcp.SYN, 1000))
    assert len(segments(wire)) == 1
    host.reset()
    wire.inject(packet(tcp.SYN, 2000))
    [(_, header, _)] = segments(wire)
    assert header.flags & tcp.RST  # the listener is gone with all else
