"""The story of connect(), DESIGN section 1, line by line: on the wire, in the trace, in the API."""

from __future__ import annotations

from sim_programs import MS, SECOND, listener, socket, two_hosts

from plywire.lab.simulator import Host, World
from plywire.trace import Event, headers
from plywire.wire import ethernet, ipv4, tcp


def segments(world: World) -> list[tuple[str, tcp.TcpHeader]]:
    """(sender, header) of each TCP segment on the wire since they were last taken."""
    found = []
    for item in world.wire("lan").take():
        header, packet = ethernet.decode(item.frame)
        if header.type == ethernet.TYPE_IPV4:
            ip, body = ipv4.decode(packet)
            found.append((item.host, tcp.decode(body, ip.src, ip.dst)[0]))
    return found


def flags(world: World) -> list[tuple[str, str]]:
    return [(host, tcp.flag_names(header.flags)) for host, header in segments(world)]


def states(events: list[Event], host: str) -> list[str]:
    """The states that TCP has gone through on a host, in order, each change once."""
    found = []
    for event in events:
        if event.host == host and event.layer == "tcp" and event.what == "state":
            before, after = event.before.get("state"), event.after.get("state")
            if after is not None and before != after:
                found.append(str(after))
    return found


def watched() -> tuple[World, Host, Host]:
    world = World(seed=80, strict=True)
    h1, h2 = two_hosts(world)
    world.advance(10 * SECOND)
    world.observe()
    world.wire("lan").take()
    return world, h1, h2


def test_1_the_wire_is_always_there():
    world, h1, _ = watched()
    wire = world.wire("lan")
    mac = h1.config.interfaces[0].mac
    stray = ethernet.EthernetHeader(mac, bytes.fromhex("020000000009"), 0x88B5)
    wire.inject(ethernet.encode(stray, b"a frame that nobody asked for"))
    assert h1.counter("link", "drop_unknown_ethertype") == 1
    assert h1.list_sockets().result() == []
    wire_events = [event for event in world.trace if event.boundary == "link/wire"]
    assert [event.host for event in wire_events] == ["h1", "h2"]


def test_2_a_new_socket_knows_nothing():
    world, h1, _ = watched()
    descriptor = socket(h1)
    info = h1.get_socket(descriptor).result()
    assert info.state == "CLOSED"
    assert info.remote == ("0.0.0.0", 0)
    assert info.local == ("0.0.0.0", 0)
    assert info.control == {}
    assert h1.describe("tcp", "connections") == [], "no buffers: TCP has not heard of it"
    assert h1.send(descriptor, b"hello?").error.name == "ENOTCONN"
    assert h1.recv(descriptor, 1).error.name == "ENOTCONN"
    told = [event.fields for event in world.trace if event.subject == "Send returned"]
    assert told == [{"descriptor": descriptor, "error": "ENOTCONN",
                     "cause": "the socket was never connected"}]  # fmt: skip
    assert segments(world) == []


def test_3_a_name_becomes_an_address():
    world, h1, _ = watched()
    assert h1.resolve("h2.lab").result() == ["10.0.0.2"]
    notes = [event for event in world.trace if event.what == "note" and event.layer == "app"]
    assert any(
        event.fields.get("name") == "h2.lab" and event.fields.get("address") == "10.0.0.2"
        for event in notes
    )


def test_4_connect_hands_tcp_what_it_needs_and_buffers_are_allocated_now():
    world, h1, _ = watched()
    descriptor = socket(h1)
    assert h1.describe("tcp", "connections") == []
    h1.connect(descriptor, ("10.0.0.2", 80))
    [message] = [
        event
        for event in world.trace
        if event.boundary == "app/tcp" and event.subject == "Connect" and event.what == "in"
    ]
    assert message.fields["address"] == "10.0.0.2"
    assert message.fields["port"] == 80
    [connection] = h1.describe("tcp", "connections")
    assert connection["state"] == "SYN-SENT"
    assert connection["send_buffer"] > 0
    assert connection["receive_buffer"] > 0
    info = h1.get_socket(descriptor).result()
    assert info.state == "SYN-SENT"
    assert info.remote == ("10.0.0.2", 80)


def test_5_a_header_with_no_data_gets_a_header_in_each_layer():
    world, h1, h2 = watched()
    listener(h2)
    world.wait(h1.connect(socket(h1), ("10.0.0.2", 80)), limit=SECOND)
    down = [
        [name for name, _ in headers(event)]
        for event in world.trace
        if event.host == "h1" and event.what == "out" and event.direction == "down"
        and event.packet and "arp" not in dict(headers(event))
    ]  # fmt: skip
    assert down[0] == ["tcp"]
    assert down[1] == ["ipv4", "tcp"]
    assert ["ethernet", "ipv4", "tcp"] in down
    assert all("data" not in names for names in down)
    [syn] = [
        dict(headers(event))
        for event in world.trace
        if event.host == "h1" and event.boundary == "link/wire" and event.what == "out"
        and dict(headers(event)).get("tcp", {}).get("flags") == "SYN"
    ]  # fmt: skip
    assert syn["ipv4"]["src"] == "10.0.0.1"
    assert syn["ipv4"]["dst"] == "10.0.0.2"
    assert syn["tcp"]["dst_port"] == 80
    assert syn["tcp"]["ack"] == 0
    assert 32_768 <= syn["tcp"]["src_port"] <= 60_999


def test_5_the_fields_of_the_header_have_these_widths():
    widths = dict(tcp.BIT_WIDTHS)
    assert (widths["src_port"], widths["dst_port"]) == (16, 16)
    assert (widths["seq"], widths["ack"]) == (32, 32)
    assert widths["data_offset"] == 4
    assert (widths["window"], widths["checksum"], widths["urgent"]) == (16, 16, 16)
    assert sum(widths.values()) == 160
    assert tcp.FLAG_NAMES == ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")


def test_6_the_server_makes_a_socket_in_progress_and_answers():
    world, h1, h2 = watched()
    listening = listener(h2)
    world.wire("lan", delay=1 * MS)
    h1.connect(socket(h1), ("10.0.0.2", 80))
    world.run(lambda: bool(h2.describe("tcp", "connections")), limit=SECOND)
    [connection] = h2.describe("tcp", "connections")
    assert connection["state"] == "SYN-RECEIVED"
    assert connection["remote_address"] == "10.0.0.1"
    assert h2.accept(listening, timeout=0).error.name == "EAGAIN", "it is not finished"
    assert flags(world) == [("h1", "SYN"), ("h2", "SYN|ACK")]


def test_6_no_listener_rst():
    world, h1, _ = watched()
    call = h1.connect(socket(h1), ("10.0.0.2", 80))
    world.run(call, limit=SECOND)
    assert call.error.name == "ECONNREFUSED"
    assert call.error.layer == "tcp"
    assert flags(world) == [("h1", "SYN"), ("h2", "RST|ACK")]
    assert h1.describe("tcp", "connections") == []


def test_7_both_sides_are_established_and_the_program_goes_on():
    world, h1, h2 = watched()
    accepted = h2.accept(listener(h2))
    descriptor = socket(h1)
    world.wait(h1.connect(descriptor, ("10.0.0.2", 80)), limit=SECOND)
    server = world.wait(accepted, limit=SECOND)
    assert flags(world) == [("h1", "SYN"), ("h2", "SYN|ACK"), ("h1", "ACK")]
    assert states(world.trace, "h1") == ["SYN-SENT", "ESTABLISHED"]
    assert states(world.trace, "h2")[-2:] == ["SYN-RECEIVED", "ESTABLISHED"]
    ours = h1.get_socket(descriptor).result()
    theirs = h2.get_socket(server.descriptor).result()
    assert (ours.state, theirs.state) == ("ESTABLISHED", "ESTABLISHED")
    assert ours.local == theirs.remote == server.remote
    assert ours.remote == theirs.local == ("10.0.0.2", 80)
    notes = [event.subject for event in world.trace if event.host == "h1" and event.what == "note"]
    assert notes.index("Connect") < notes.index("Connect returned")


def test_7_one_trace_id_ties_the_handshake_together():
    world, h1, h2 = watched()
    listener(h2)
    world.wait(h1.connect(socket(h1), ("10.0.0.2", 80)), limit=SECOND)
    world.advance(SECOND)
    crossings = [
        (event.host, event.boundary)
        for event in world.trace
        if event.what in ("in", "out") and event.subject in ("Connect", "Segment", "Opened")
    ]
    [connect] = [
        event
        for event in world.trace
        if event.subject == "Connect" and event.what == "in" and event.boundary == "app/tcp"
    ]
    same = [event for event in world.trace if event.trace == connect.trace]
    assert connect.trace != 0
    assert {event.host for event in same} == {"h1", "h2"}
    assert {event.layer for event in same} == {"app", "tcp", "ip", "link"}
    assert len(crossings) >= 12


def test_8_what_the_peer_sees_and_what_it_does_not():
    world, h1, h2 = watched()
    listener(h2)
    descriptor = socket(h1)
    world.wait(h1.connect(descriptor, ("10.0.0.2", 80)), limit=SECOND)
    control = h1.get_socket(descriptor).result().control
    seen = dict(segments(world)[0][1]._asdict())
    assert control["iss"] == seen["seq"], "a number that both know"
    assert {"cwnd", "ssthresh", "rto_us"} <= control.keys()
    on_the_wire = {name for name, _ in tcp.BIT_WIDTHS}
    assert not {"cwnd", "ssthresh", "rto_us", "state"} & on_the_wire


def test_8_two_different_stacks_connect():
    world = World()
    h1 = world.host("h1", "10.0.0.1/24", tcp={"initial_window": 2, "window_scaling": False})
    h2 = world.host("h2", "10.0.0.2/24")
    listener(h2)
    descriptor = socket(h1)
    world.wait(h1.connect(descriptor, ("10.0.0.2", 80)), limit=SECOND)
    assert h1.get_socket(descriptor).result().state == "ESTABLISHED"


def test_8_two_personalities_connect_and_their_ports_tell_them_apart():
    world = World()
    h1 = world.host("h1", "10.0.0.1/24", profile="bsd", tcp={"port_high": 20_000})
    h2 = world.host("h2", "10.0.0.2/24", profile="linux")
    accepted = h2.accept(listener(h2))
    descriptor = socket(h1)
    world.wait(h1.connect(descriptor, ("10.0.0.2", 80)), limit=SECOND)
    server = world.wait(accepted, limit=SECOND).descriptor
    assert 10_000 <= h1.get_socket(descriptor).result().local[1] <= 20_000
    h1.send(descriptor, b"from another world").result()
    assert world.wait(h2.recv(server, 100), limit=SECOND).data == b"from another world"


def test_9_a_pipe_until_close_then_fin_ack_fin_ack_time_wait_and_nothing_is_left():
    world, h1, h2 = watched()
    accepted = h2.accept(listener(h2))
    client = socket(h1)
    world.wait(h1.connect(client, ("10.0.0.2", 80)), limit=SECOND)
    server = world.wait(accepted, limit=SECOND).descriptor
    h1.send(client, b"ping").result()
    assert world.wait(h2.recv(server, 10), limit=SECOND).data == b"ping"
    h2.send(server, b"pong").result()
    assert world.wait(h1.recv(client, 10), limit=SECOND).data == b"pong"
    world.advance(SECOND)

    segments(world)
    h1.close_socket(client).result()
    world.advance(SECOND)
    assert flags(world) == [("h1", "FIN|ACK"), ("h2", "ACK")]
    assert h2.recv(server, 10).result().end_of_stream
    assert h2.describe("tcp", "connections")[0]["state"] == "CLOSE-WAIT"
    h2.close_socket(server).result()
    world.advance(SECOND)
    assert flags(world) == [("h2", "FIN|ACK"), ("h1", "ACK")]

    [waiting] = h1.describe("tcp", "connections")
    assert waiting["state"] == "TIME-WAIT"
    assert h2.describe("tcp", "connections") == []
    world.advance(61 * SECOND)
    assert h1.describe("tcp", "connections") == []
    assert states(world.trace, "h1")[-4:] == ["FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSED"]
    assert states(world.trace, "h2")[-3:] == ["CLOSE-WAIT", "LAST-ACK", "CLOSED"]
    assert [item.state for item in h2.list_sockets().result()] == ["LISTEN"]
    assert h1.list_sockets().result() == []
