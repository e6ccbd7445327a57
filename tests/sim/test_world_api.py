"""The simulator as an outside tool drives it: clock, hosts, wires, observation."""

from __future__ import annotations

from pathlib import Path

import pytest
from sim_programs import MS, SECOND, connected, listener, socket, two_hosts

from plywire.errors import ConfigError, SocketError
from plywire.lab.simulator import World
from plywire.wire import arp, ethernet


def errno_of(call) -> str:
    """The errno of a call that has failed."""
    assert call.done
    assert call.error is not None, call.value
    return call.error.name


# --- the clock ------------------------------------------------------------------------------------


def test_an_empty_world_has_nothing_pending():
    world = World(start=7)
    assert world.now == 7
    assert world.next_time() is None
    assert world.step() is None
    assert world.now == 7


def test_the_clock_is_advanced_to_a_time_and_by_an_amount():
    world = World()
    world.advance_to(1000)
    world.advance(500)
    assert world.now == 1500


def test_time_does_not_go_back():
    world = World(start=1000)
    with pytest.raises(ValueError, match="does not go back"):
        world.advance_to(999)


def test_actions_run_in_the_order_of_their_times_and_then_of_their_arming():
    world = World()
    seen = []
    world.at(20, lambda: seen.append(("b", world.now)))
    world.at(10, lambda: seen.append(("a", world.now)))
    world.at(20, lambda: seen.append(("c", world.now)))
    assert world.next_time() == 10
    assert world.step() == 10
    assert world.step() == 20
    assert world.step() is None
    assert seen == [("a", 10), ("b", 20), ("c", 20)]


def test_what_an_event_causes_at_its_own_time_runs_in_the_same_step():
    world = World()
    seen = []
    world.at(10, lambda: world.at(10, lambda: seen.append(world.now)))
    assert world.step() == 10
    assert seen == [10]


def test_run_stops_where_its_goal_is_reached():
    world = World()
    for time in (10, 20, 30):
        world.at(time, lambda: None)
    assert world.run(lambda: world.now >= 20)
    assert world.now == 20
    assert world.run()
    assert world.now == 30


def test_run_gives_up_at_its_limit_with_the_clock_there():
    world = World()
    world.at(100, lambda: None)
    assert not world.run(lambda: world.now >= 100, limit=40)
    assert world.now == 40


def test_the_clock_cannot_be_moved_from_inside_of_an_event():
    world = World()
    world.at(10, lambda: world.advance(5))
    with pytest.raises(RuntimeError, match="inside"):
        world.step()


def test_a_world_that_gets_no_further_is_a_bug_that_shows(monkeypatch):
    monkeypatch.setattr("plywire.lab.simulator.world.EVENTS_IN_AN_INSTANT", 1000)
    world = World()

    def again() -> None:
        world.at(world.now, again)

    world.at(5, again)
    with pytest.raises(RuntimeError, match="never gets any further"):
        world.step()


def test_a_world_at_rest_comes_to_an_end():
    world = World()
    two_hosts(world)
    assert world.run(limit=3600 * SECOND), "an idle host must not wake up for ever"
    assert world.step() is None


# --- hosts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"address": "10.0.0.300/24"}, "is not an IPv4 address"),
        ({}, "needs either an address"),
        ({"address": "10.0.0.1/24", "interfaces": []}, "needs either an address"),
        ({"address": "10.0.0.1/24", "mtu": 10}, "mtu"),
        ({"address": "10.0.0.1/24", "profile": "os2"}, "profile"),
        ({"address": "10.0.0.1/24", "tcp": {"time_wiat": 1}}, r"tcp\.time_wiat: unknown key"),
        ({"address": "10.0.0.1/24", "tcp": {"time_wait": 0.5}}, "not of type int"),
        ({"address": "10.0.0.1/24", "implementations": {"udp": "a:b"}}, "not a layer"),
        ({"address": "10.0.0.1/24", "implementations": {"tcp": "no.such:create"}}, "no module"),
        ({"address": "10.0.0.1/24", "routes": [("0.0.0.0/0", "10.9.9.9")]}, "not on a network"),
        ({"address": "10.0.0.1/24", "interfaces": None, "names": {}}, "names"),
    ],
)
def test_a_host_that_cannot_be_is_refused_with_its_reason(settings, reason):
    world = World()
    with pytest.raises((ConfigError, TypeError), match=reason):
        world.host("h1", **settings)
    assert "h1" not in world.hosts


def test_two_hosts_of_one_name_are_refused():
    world = World()
    world.host("h1", "10.0.0.1/24")
    with pytest.raises(ConfigError, match="host h1"):
        world.host("h1", "10.0.0.2/24")


def test_a_host_is_on_one_kind_of_wire():
    world = World()
    world.wire("raw", raw=True)
    with pytest.raises(ConfigError, match="raw wire"):
        world.host(
            "h1",
            interfaces=[
                {"address": "10.0.0.1/24", "wire": "raw"},
                {"address": "10.0.1.1/24", "wire": "lan"},
            ],
        )


def test_every_host_resolves_the_names_of_all():
    world = World()
    h1 = world.host("h1", "10.0.0.1/24")
    world.host("late", "10.0.0.9/24")
    assert h1.resolve("late").result() == ["10.0.0.9"]
    assert h1.resolve("late.lab").result() == ["10.0.0.9"]
    assert errno_of(h1.resolve("nobody")) == "EAI_NONAME"


def test_misuse_is_an_errno():
    world = World()
    h1, _ = two_hosts(world)
    assert errno_of(h1.bind(999, ("", 80))) == "EBADF"
    assert errno_of(h1.send(socket(h1), b"x")) == "ENOTCONN"
    assert errno_of(h1.set_option(socket(h1), "SO_NONSENSE", 1)) == "ENOPROTOOPT"


def test_a_blocking_call_is_pending_until_the_world_has_moved_on():
    world = World()
    h1, h2 = two_hosts(world)
    waiting = h2.accept(listener(h2))
    descriptor = socket(h1)
    call = h1.connect(descriptor, ("10.0.0.2", 80))
    assert not call.done
    assert not waiting.done
    with pytest.raises(BlockingIOError):
        call.result()
    assert world.run([call, waiting], limit=SECOND)
    assert call.result().remote == ("10.0.0.2", 80)
    assert waiting.result().remote[0] == "10.0.0.1"


def test_calls_that_do_not_wait_fail_as_a_kernels_do():
    world = World()
    h1, h2 = two_hosts(world)
    listening = listener(h2)
    assert errno_of(h2.accept(listening, timeout=0)) == "EAGAIN"
    client = socket(h1)
    assert errno_of(h1.connect(client, ("10.0.0.2", 80), timeout=0)) == "EINPROGRESS"
    world.advance(SECOND)
    assert h1.get_option(client, "SO_ERROR").result() == 0
    server = h2.accept(listening, timeout=0).result().descriptor
    assert errno_of(h1.recv(client, 10, timeout=0)) == "EAGAIN"
    h2.send(server, b"now there is").result()
    world.advance(SECOND)
    assert h1.recv(client, 100, timeout=0).result().data == b"now there is"


def test_a_timeout_is_in_virtual_seconds():
    world = World()
    _, h2 = two_hosts(world)
    call = h2.accept(listener(h2), timeout=2.5)
    world.advance(2_499 * MS)
    assert not call.done
    world.advance(2 * MS)
    assert errno_of(call) == "EAGAIN"


def test_send_without_waiting_says_what_it_took_and_then_eagain():
    world = World()
    h1, h2 = two_hosts(world)
    client, _ = connected(world, h1, h2)
    total = 0
    for _ in range(1000):
        call = h1.send(client, bytes(65_536), timeout=0)
        if call.error is not None:
            break
        total = call.value.offset
        world.advance(10 * MS)
    assert errno_of(call) == "EAGAIN"
    assert total > 65_536
    assert h1.get_socket(client).result().send_offset == total


def test_a_cancelled_call_is_not_answered_and_takes_nothing_with_it():
    world = World()
    h1, h2 = two_hosts(world)
    client, server = connected(world, h1, h2)
    call = h2.recv(server, 100)
    h2.cancel(call)
    h1.send(client, b"for the next one").result()
    world.advance(SECOND)
    assert not call.done
    assert h2.recv(server, 100).result().data == b"for the next one"


def test_a_wait_that_cannot_end_is_a_timeout_error():
    world = World()
    _, h2 = two_hosts(world)
    with pytest.raises(TimeoutError, match="still pending"):
        world.wait(h2.accept(listener(h2)), limit=SECOND)


def test_wait_raises_what_the_call_failed_with():
    world = World()
    h1, _ = two_hosts(world)
    with pytest.raises(SocketError, match="ECONNREFUSED"):
        world.wait(h1.connect(socket(h1), ("10.0.0.2", 81)))


def test_options_are_per_host():
    world = World()
    one = world.host("h1", "10.0.0.1/24", tcp={"time_wait": SECOND}, ip={"ttl": 7})
    two = world.host("h2", "10.0.0.2/24")
    assert (one.config.tcp.time_wait, two.config.tcp.time_wait) == (SECOND, 60 * SECOND)
    call = one.connect(socket(one), ("10.0.0.2", 1))
    world.run(call)
    frames = [item.frame for item in world.wire("lan").take() if item.host == "h1"]
    packets = [ethernet.decode(frame)[1] for frame in frames if frame[12:14] == b"\x08\x00"]
    assert packets[0][8] == 7  # the TTL


def test_a_reset_host_is_fresh():
    world = World()
    h1, h2 = two_hosts(world)
    client, _ = connected(world, h1, h2)
    waiting = h1.recv(client, 10)
    h1.reset(tcp={"time_wait": SECOND})
    assert errno_of(waiting) == "ECONNABORTED"
    assert h1.list_sockets().result() == []
    assert h1.describe("link", "neighbours") == []
    assert h1.config.tcp.time_wait == SECOND
    call = h1.connect(socket(h1), ("10.0.0.2", 80))
    world.wait(call, limit=SECOND)
    with pytest.raises(ConfigError, match="cannot be reset"):
        h1.reset(address="10.0.0.5/24")


# --- wires ----------------------------------------------------------------------------------------


def test_what_was_sent_is_taken_with_its_time_once():
    world = World(start=5 * SECOND)
    h1, _ = two_hosts(world)
    wire = world.wire("lan")
    wire.take()
    world.advance(10 * SECOND)  # announcements of addresses are over
    wire.take()
    began = world.now
    h1.connect(socket(h1), ("10.0.0.2", 80))
    world.advance(SECOND)
    sent = wire.take()
    assert (sent[0].time, sent[0].host, sent[0].interface) == (began, "h1", "eth0")
    assert arp.decode(ethernet.decode(sent[0].frame)[1]).target_ip == bytes((10, 0, 0, 2))
    assert [item.time for item in sent] == sorted(item.time for item in sent)
    assert wire.take() == []


def test_a_frame_is_injected_at_its_time():
    world = World()
    world.host("h1", "10.0.0.1/24")
    world.advance(10 * SECOND)
    wire = world.wire("lan")
    wire.take()
    mac, address = bytes.fromhex("020000000009"), bytes((10, 0, 0, 9))
    request = arp.ArpPacket(arp.REQUEST, mac, address, bytes(6), bytes((10, 0, 0, 1)))
    header = ethernet.EthernetHeader(ethernet.BROADCAST, mac, ethernet.TYPE_ARP)
    frame = ethernet.encode(header, arp.encode(request))
    wire.inject(frame, at=world.now + 123)
    world.advance(122)
    assert wire.take() == []
    world.advance(1)
    [answer] = wire.take()
    assert answer.time == world.now
    assert arp.decode(ethernet.decode(answer.frame)[1]).operation == arp.REPLY


def test_wrong_use_of_a_wire_is_refused():
    world = World()
    world.host("h1", "10.0.0.1/24")
    wire = world.wire("lan")
    world.advance(100)
    with pytest.raises(ValueError, match="past"):
        wire.inject(b"", at=99)
    with pytest.raises(ValueError, match="at most"):
        wire.inject(bytes(70_000))
    with pytest.raises(ConfigError, match="no station of a host 'h9'"):
        wire.impair("h9", loss=1.0)
    with pytest.raises(ConfigError, match="other kind"):
        world.wire("lan", raw=True)
    with pytest.raises(ConfigError, match="impairment lost"):
        world.wire("lan", lost=0.5)


def test_one_direction_is_impaired_alone_and_while_running():
    world = World()
    h1, h2 = two_hosts(world)
    client, server = connected(world, h1, h2)
    wire = world.wire("lan")
    wire.impair("h1", loss=1.0)
    h1.send(client, b"held").result()
    h2.send(server, b"through").result()
    world.advance(50 * MS)
    assert h1.recv(client, 100, timeout=0).result().data == b"through"
    assert errno_of(h2.recv(server, 100, timeout=0)) == "EAGAIN"
    assert wire.counts("h1")["lost"] > 0
    assert wire.counts("h2")["lost"] == 0
    wire.impair("h1", loss=0.0)
    assert world.wait(h2.recv(server, 100), limit=10 * SECOND).data == b"held"


def test_the_next_frame_is_lost_on_request():
    world = World()
    h1, h2 = two_hosts(world)
    client, server = connected(world, h1, h2)
    world.wire("lan").drop_next(1, "h1")
    began = world.now
    h1.send(client, b"again").result()
    world.wait(h2.recv(server, 100), limit=10 * SECOND)
    assert world.now - began >= 200 * MS  # it was sent again after a timeout
    assert world.wire("lan").counts()["dropped_on_request"] == 1


# --- observation ----------------------------------------------------------------------------------


def test_events_are_built_only_while_somebody_observes():
    world = World()
    h1, h2 = two_hosts(world)
    assert not h1.nodes["tcp"].tracer.enabled
    seen = []
    stop = world.observe(seen.append)
    connected(world, h1, h2)
    count = len(seen)
    assert count > 50
    assert {event.layer for event in seen} == {"app", "tcp", "ip", "link"}
    stop()
    assert not h1.nodes["tcp"].tracer.enabled
    h1.connect(socket(h1), ("10.0.0.2", 81))
    world.advance(SECOND)
    assert len(seen) == count


def test_a_trace_is_collected_on_request():
    world = World()
    h1, h2 = two_hosts(world)
    assert world.trace == []
    world.observe()
    connected(world, h1, h2)
    times = [event.time for event in world.trace]
    assert times == sorted(times)
    wire = [event for event in world.trace if event.boundary == "link/wire"]
    assert wire
    assert all(event.packet for event in wire)


def test_a_new_layer_is_observed_too():
    world = World()
    h1, h2 = two_hosts(world)
    seen = []
    world.observe(seen.append)
    h1.replace("tcp")
    seen.clear()
    connected(world, h1, h2)
    assert any(event.host == "h1" and event.layer == "tcp" for event in seen)


def test_a_capture_holds_each_frame_once(tmp_path):
    world = World(strict=True)
    h1, h2 = two_hosts(world)
    path = tmp_path / "world.pcapng"
    wire = world.wire("lan")
    wire.take()
    with world.capture(path):
        connected(world, h1, h2)
        wire.impair(loss=1.0)
        h1.connect(socket(h1), ("10.0.0.2", 80))
        world.advance(MS)
    written = path.read_bytes()
    sent = wire.take()
    assert written[:4] == b"\x0a\x0d\x0d\x0a"
    for item in sent:
        assert item.frame in written
    assert b"lost" in written
    world.advance(2 * SECOND)
    assert path.read_bytes() == written, "it is closed"


def test_with_a_hop_delay_a_step_is_a_hop():
    world = World(hop_delay=1000)
    h1, h2 = two_hosts(world)
    world.advance(10 * SECOND)
    listening = h2.create_socket().result()
    world.wait(h2.bind(listening, ("", 80)))
    world.wait(h2.listen(listening, 1))
    events = []
    world.observe(events.append)
    began = world.now
    h1.connect(socket(h1), ("10.0.0.2", 80))
    world.advance(SECOND)
    hops = [
        (event.time - began, event.boundary)
        for event in events
        if event.host == "h1" and event.what == "in" and event.direction == "down"
    ]
    assert hops[:3] == [(1000, "app/tcp"), (2000, "tcp/ip"), (3000, "ip/link")]


# --- the documentation ----------------------------------------------------------------------------


def test_the_first_world_of_the_documentation_works(capsys):
    page = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
    exec(page.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out.startswith("b'hello' ")
