"""An ip in another language in a running lab: services/ip_js, a program for Node.js."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgpack
import pytest

from plywire.client import Stack
from plywire.config import LabConfig, host
from plywire.errors import ConfigError
from plywire.lab.child import UP
from plywire.lab.rundir import LabError
from plywire.lab.supervisor import Lab
from plywire.messages import SCHEMA, Barrier, Datagram, Fence, Hello, Segment
from plywire.registry import find
from plywire.runtime import config as places
from plywire.runtime import program as programs
from plywire.runtime.lock import holder
from plywire.runtime.observer import ask
from plywire.wire import icmp, ipv4
from tests.conformance.foreign import ForeignLayer
from tests.node import FOLDER, IP_JS, needs_node
from tests.process.commanded import QUIET, Commands
from tests.process.programs import PIECE, block, digest
from tests.process.running import ROOT, program, wait_until

pytestmark = needs_node

PYTHON = "services.ip:create"
H1, H2, ALL = b"\x0a\0\0\x01", b"\x0a\0\0\x02", b"\xff\xff\xff\xff"
SIZE = 1_000_000


@pytest.fixture(scope="module")
def lab():
    """h1 has the ip in JavaScript, h2 the usual one."""
    with Lab(places.load_lab(ROOT / "examples" / "ip_js.toml")) as lab:
        yield lab


@pytest.fixture
def alone():
    """The program, with this test as its neighbours."""
    layer = ForeignLayer("ip", IP_JS, find(IP_JS), host("h1", "10.0.0.1/24"))
    yield layer
    layer.close()


def ask_ip(lab: Lab, name: str, *words: object) -> object:
    return ask(places.control_endpoint(lab.directory, name, "ip"), *words, timeout=20)


def transfer(lab: Lab, sender: str, receiver: str, size: int, meanwhile=lambda: None) -> None:
    """Bytes from one host to the other over one connection; `meanwhile()` once some have come."""
    address = {"h1": "10.0.0.1", "h2": "10.0.0.2"}[receiver]
    with program("receiver", lab.target(receiver), 0, 1) as taking:
        port = taking.expect("listening")["port"]
        with program("sender", lab.target(sender), address, port, size) as giving:
            giving.expect("connected")
            taking.expect("progress")
            meanwhile()
            assert taking.expect("end") == {"bytes": size, "sha256": digest(size)}
            giving.expect("sent")
            giving.expect("closed")


# --- in a lab -------------------------------------------------------------------------------------


def test_the_lab_says_which_ip_is_which(lab):
    assert lab.layer("h1", "ip").implementation == IP_JS
    told = ask_ip(lab, "h1", "describe", "runtime")
    assert told["implementation"] == IP_JS
    assert told["pid"] == lab.layer("h1", "ip").pid
    assert Path(f"/proc/{told['pid']}/comm").read_text().strip() == "node"
    assert told["cpu_ns"] > 0
    assert set(told["traffic"]) == {"tcp", "link"}


def test_it_pings_and_is_pinged(lab):
    for here, there in (("h1", "10.0.0.2"), ("h2", "10.0.0.1"), ("h1", "10.0.0.1")):
        answer = ask_ip(lab, here, "ask", "ping", there, 1400, 10_000)
        assert (answer["from"], answer["bytes"], answer["ttl"]) == (there, 1400, 64)
    with pytest.raises(ValueError, match=r"^ETIMEDOUT: no answer within 1 ms$"):
        ask_ip(lab, "h1", "ask", "ping", "10.0.0.77", 10, 1)
    answer = ask_ip(lab, "h1", "ask", "ping", "10.0.0.2", 1473, 1000)
    assert (answer["type"], answer["code"], answer["mtu"]) == (3, 4, 1500)
    answer = ask_ip(lab, "h1", "ask", "ping", "9.9.9.9", 10, 1000)
    assert (answer["type"], answer["code"]) == (3, 0)


@pytest.mark.parametrize(
    "words",
    [("ping", "10.0.0", 10, 1), ("ping", "10.0.0.2", -1, 1), ("route", "h2"), ("nothing",),
     ("ping",), ("clock", "adopt", 1), ("clock", "plan", 1, 0)],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(lab, words):
    with pytest.raises(ValueError):
        ask_ip(lab, "h1", "ask", *words)
    assert ask_ip(lab, "h1", "ping")["pid"] == lab.layer("h1", "ip").pid


@pytest.mark.parametrize(("sender", "receiver"), [("h1", "h2"), ("h2", "h1")])
def test_bytes_arrive_as_they_were_sent(lab, sender, receiver):
    transfer(lab, sender, receiver, SIZE)


def carried(lab: Lab) -> int:
    """The packets that h1's ip has sent since it was started."""
    return ask_ip(lab, "h1", "describe", "counters").get("ip_out_requests", 0)


def test_a_connection_outlives_its_death(lab):
    before = lab.layer("h1", "ip")

    def kill() -> None:
        os.kill(before.pid, signal.SIGKILL)
        assert lab.wait_for(lambda lab: lab.layer("h1", "ip").restarts == before.restarts + 1)

    transfer(lab, "h1", "h2", 8 * SIZE, kill)
    assert lab.layer("h1", "ip").pid not in (0, before.pid)
    assert lab.layer("h1", "ip").state == UP
    assert carried(lab) > SIZE // 1460  # the rest of it, and not a few bytes


def test_it_is_swapped_out_and_in_under_a_running_transfer(lab):
    """Bytes flow until both have carried some of them; then what came is what was sent."""
    enough = threading.Event()
    sent, received = hashlib.sha256(), hashlib.sha256()
    with (
        Stack(lab.target("h2")) as h2,
        Stack(lab.target("h1")) as h1,
        h2.create_server(("", 0)) as server,
        h1.create_connection(("h2.lab", server.getsockname()[1]), timeout=60) as client,
        server.accept()[0] as peer,
        h1.create_connection(("h2.lab", server.getsockname()[1]), timeout=60) as idle,
        server.accept()[0] as other,
        ThreadPoolExecutor() as pool,
    ):
        peer.settimeout(60)
        other.settimeout(60)

        def send() -> None:
            number = 0
            while not enough.is_set():
                piece = block(PIECE - number % 1000)
                number += 1
                client.sendall(piece)
                sent.update(piece)
            client.shutdown(1)

        def receive() -> None:
            while data := peer.recv(PIECE):
                received.update(data)

        ends = [pool.submit(send), pool.submit(receive)]
        try:
            for implementation in (PYTHON, IP_JS, IP_JS):
                report = lab.swap("h1", "ip", implementation)
                assert (report.after, report.silent) == (implementation, ())
                assert lab.layer("h1", "ip").implementation == implementation
                wait_until(lambda: carried(lab) > 500, f"{implementation} carries it")
                idle.sendall(implementation.encode())
                assert other.recv(100) == implementation.encode()
        finally:
            enough.set()
        for end in ends:
            end.result(60)
    assert sent.digest() == received.digest()


def test_its_neighbours_are_swapped_and_it_holds_what_it_has_for_them(lab):
    def swap() -> None:
        for role in ("tcp", "link"):
            assert lab.swap("h1", role).silent == ()

    before = drops(lab)
    transfer(lab, "h2", "h1", 8 * SIZE, swap)
    assert drops(lab) == before


def drops(lab: Lab) -> dict[str, int]:
    """What h1's ip could not hand on."""
    counters = ask_ip(lab, "h1", "describe", "counters")
    return {name: value for name, value in counters.items() if name.endswith("away_or_full")}


def test_it_cannot_be_swapped_for_a_layer_of_another_role(lab):
    before = lab.layer("h1", "tcp").pid
    with pytest.raises(LabError, match="is ip, and cannot be tcp"):
        lab.swap("h1", "tcp", IP_JS)
    assert lab.layer("h1", "tcp").pid == before


# --- what it says to tools ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plywire(tmp_path_factory):
    """A lab with it, used by the command line."""
    commands = Commands(tmp_path_factory.mktemp("labs"))
    h1 = 'link = { arp_announce = 1 }\nimplementations = { ip = "services.ip_js:PROGRAM" }'
    commands.up(QUIET.replace("link = { arp_announce = 1 }", h1, 1))
    yield commands
    try:
        commands.do("down")
    finally:
        commands.end()


def test_the_command_line_sees_it_as_any_other(plywire):
    rows = {line.split()[0]: line for line in plywire.do("status").splitlines() if "." in line}
    assert rows["h1.ip"].split()[1] == IP_JS
    assert rows["h1.ip"].endswith(" ok")
    said = plywire.do("ping", "h1", "h2", "-c", "2", "-i", "0")
    assert "2 packets transmitted, 2 received, 0% packet loss" in said
    assert "IcmpOutEchos                    2 " in plywire.do("counters", "h1")
    local = plywire.do("route", "h1", "--table", "all").splitlines()
    assert local == [
        "local 10.0.0.1 dev lo proto kernel scope host src 10.0.0.1",
        "local 127.0.0.0/8 dev lo proto kernel scope host src 127.0.0.1",
        "10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.1",
    ]
    assert plywire.do("route", "h1", "--get", "10.0.0.2").strip() == (
        "10.0.0.2 dev eth0 src 10.0.0.1"
    )
    assert f"ip runs as {IP_JS}" in plywire.do("logs", "h1.ip")


def test_the_story_of_a_connect_goes_through_it(plywire):
    said = plywire("connect", "h1", "h2:80").stdout  # refused, as nobody listens
    assert "+IPv4 src=10.0.0.1 dst=10.0.0.2 ttl=64 protocol=6" in said
    assert "-IPv4 src=10.0.0.2 dst=10.0.0.1 protocol=6" in said


def test_it_lives_by_the_labs_clock(plywire):
    """While the lab stands still a ping is not given up; then it is, by lab time."""
    directory = plywire.directory()
    control = places.control_endpoint(directory, "h1", "ip")
    plywire.do("clock", "pause")
    try:
        still = ask(control, "ask", "clock")["time"]
        assert ask(control, "ask", "clock")["time"] == still
        with pytest.raises(TimeoutError):
            ask(control, "ask", "ping", "10.0.0.77", 10, 1, timeout=0.3)
        assert ask(control, "ask", "ping", "10.0.0.2", 10, 1)["rtt_ns"] == 0
    finally:
        plywire.do("clock", "resume")
    with pytest.raises(ValueError, match=r"^ETIMEDOUT"):
        ask(control, "ask", "ping", "10.0.0.77", 10, 1, timeout=20)
    assert ask(control, "ask", "clock")["num"] == 1


# --- what comes in that should not ----------------------------------------------------------------


def batch(*rows: object, version: int = SCHEMA) -> bytes:
    return msgpack.packb([version, *rows])


SEGMENT = [32, 5, 6, H1, H2, 0, 0, 0, b"good"]
BAD_BATCHES = [
    (b"\xc1", "batch_not_msgpack"),
    (b"", "batch_not_msgpack"),
    (batch(SEGMENT)[:-1], "batch_not_msgpack"),
    (batch(SEGMENT) + b"\0", "batch_not_msgpack"),
    (msgpack.packb({"a": 1}), "batch_not_array"),
    (msgpack.packb([]), "batch_not_array"),
    (batch(SEGMENT, version=SCHEMA + 1), "schema_version"),
    (batch(*[SEGMENT] * 4097), "batch_not_msgpack"),
    (batch(7), "message_not_array"),
    (batch([]), "message_not_array"),
    (batch([99, 0]), "unknown_kind"),
    (batch(SEGMENT[:-1]), "bad_arity"),
    (batch([*SEGMENT, 0]), "bad_arity"),
    (batch([32, 5, 6, "10.0.0.1", H2, 0, 0, 0, b""]), "bad_type"),
    (batch([32, 5, 6.5, H1, H2, 0, 0, 0, b""]), "bad_type"),
    (batch([32, 5, 256, H1, H2, 0, 0, 0, b""]), "bad_size"),
    (batch([32, -1, 6, H1, H2, 0, 0, 0, b""]), "bad_size"),
    (batch([32, 5, 6, H1, b"abc", 0, 0, 0, b""]), "bad_size"),
    (batch([32, 5, 6, H1, H2, 0, 0, 0, bytes(65_536)]), "bad_size"),
]


@pytest.mark.parametrize(("data", "reason"), BAD_BATCHES)
def test_a_bad_batch_is_counted_and_what_follows_is_carried(alone, data, reason):
    alone.send_raw("tcp", data)
    alone.receive(Segment(7, 6, H1, H2, 0, 0, 0, b"next"), "tcp", 0)
    ((role, message),) = alone.outputs()
    assert (role, message.trace) == ("link", 7)
    assert alone.counters[f"drop_pipe_{reason}"] == 1


def test_a_bad_message_costs_itself_only(alone):
    alone.send_raw("tcp", batch(SEGMENT, [32], SEGMENT, [99, 0]))
    alone.settle("tcp")
    assert [message.trace for _, message in alone.outputs()] == [5, 5]
    assert alone.counters["drop_pipe_bad_arity"] == alone.counters["drop_pipe_unknown_kind"] == 1


def test_a_trace_id_of_64_bits_is_kept(alone):
    trace = (1 << 64) - 1
    alone.receive(Segment(trace, 6, H1, H2, 0, 0, 0, b""), "tcp", 0)
    assert alone.outputs()[0].message.trace == trace


HEADER = ipv4.Ipv4Header(H2, H1, 6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda packet: b"", "ip_too_short"),
        (lambda packet: packet[:19], "ip_too_short"),
        (lambda packet: b"\x65" + packet[1:], "ip_bad_version"),
        (lambda packet: b"\x44" + packet[1:], "ip_bad_header_length"),
        (lambda packet: b"\x4f" + packet[1:40], "ip_bad_header_length"),
        (lambda packet: packet[:-1], "ip_bad_total_length"),
        (lambda packet: packet[:2] + b"\0\x13" + packet[4:], "ip_bad_total_length"),
        (lambda packet: packet[:8] + b"\x09" + packet[9:], "ip_bad_checksum"),
    ],
)
def test_a_bad_header_is_counted_and_dropped(alone, change, reason):
    packet = ipv4.encode(HEADER, b"x" * 20)
    alone.receive(Datagram(1, 1, bytes(4), 0, change(packet)), "link", 0)
    assert alone.outputs() == []
    assert alone.counters["ip_in_hdr_errors"] == alone.counters[f"drop_{reason}"] == 1


def test_options_are_passed_over_and_a_ttl_of_0_is_no_reason(alone):
    header = HEADER._replace(options=b"\x07\x07\x04\0\0\0\0\0", ttl=0)
    alone.receive(Datagram(1, 1, bytes(4), 0, ipv4.encode(header, b"payload")), "link", 0)
    ((role, segment),) = alone.outputs()
    assert (role, segment.ttl, segment.payload) == ("tcp", 0, b"payload")


def test_fragments_are_counted_and_dropped(alone):
    for header in (HEADER._replace(more_fragments=True), HEADER._replace(offset=8)):
        alone.receive(Datagram(1, 1, bytes(4), 0, ipv4.encode(header, b"8 bytes!")), "link", 0)
    assert alone.outputs() == []
    assert alone.counters["drop_fragment"] == 2


def test_what_is_too_long_to_be_sent_whole_is_refused_with_the_mtu(alone):
    alone.receive(Segment(1, 6, H1, H2, 0, 0, 0, b"x" * 1481), "tcp", 0)
    ((role, error),) = alone.outputs()
    assert (role, error.local, error.type, error.code, error.mtu) == ("tcp", 1, 3, 4, 1500)


@pytest.mark.parametrize("dst", [ALL, b"\x0a\0\0\xff"])
def test_an_echo_for_all_is_not_answered(alone, dst):
    request = icmp.encode(icmp.IcmpMessage(icmp.ECHO_REQUEST, 0, 1, b""))
    packet = ipv4.encode(ipv4.Ipv4Header(H2, dst, 1), request)
    alone.receive(Datagram(1, 1, bytes(4), 1, packet), "link", 0)
    assert alone.outputs() == []


def test_errors_are_sent_no_faster_than_the_hosts_rate(alone):
    packet = ipv4.encode(ipv4.Ipv4Header(H2, H1, 99), b"nobody has this")
    alone.send("link", [Datagram(1, 1, bytes(4), 0, packet)] * 4000)
    alone.settle("link")
    sent = len(alone.outputs())
    assert 50 <= sent < 4000
    assert alone.counters["icmp_out_rate_limit_global"] == 4000 - sent


def test_a_barrier_goes_behind_what_was_made_before_it(alone):
    barrier = Barrier(3, 1, "h9", 5)
    segment = Segment(7, 6, H1, H2, 0, 0, 0, b"")
    alone.send("tcp", [segment, segment, barrier, segment])
    came = [alone.next_for("link") for _ in range(4)]
    assert came.index(barrier) == 2


# --- when a neighbour is exchanged ----------------------------------------------------------------


PACKET = ipv4.encode(HEADER, b"x" * 20)


@pytest.fixture
def fenced(alone):
    """The program, whose tcp has asked for a fence; three segments for that one wait."""
    received = alone.describe("runtime")["traffic"]["link"]["received"]
    alone.send("tcp", [Fence(0, 0, 7)])
    assert alone.next_for("tcp") == Fence(0, 1, 7)
    alone.send("link", [Datagram(number, 1, bytes(4), 0, PACKET) for number in (1, 2, 3)])
    wait_until(
        lambda: alone.describe("runtime")["traffic"]["link"]["received"] == received + 3,
        "the program has the packets",
    )
    assert not alone.inboxes["tcp"].readable()
    return alone


def test_a_fence_that_is_lifted_lets_go_of_what_was_held(fenced):
    fenced.send("tcp", [Fence(0, 2, 7)])
    assert [fenced.next_for("tcp").trace for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("generation", [1 << 40, 9])
def test_the_successors_hello_lets_go_of_what_was_held(fenced, generation):
    fenced.send("tcp", [Hello(0, "tcp", generation, 0)])
    traces = []
    while len(traces) < 3:
        message = fenced.next_for("tcp")
        if isinstance(message, Segment):
            traces.append(message.trace)
    assert traces == [1, 2, 3]


def test_no_successor_comes_and_what_was_held_goes_out(fenced):
    """After two seconds; the wait is the program's."""
    assert [fenced.next_for("tcp").trace for _ in range(3)] == [1, 2, 3]


def test_what_is_held_is_bounded(fenced):
    for _ in range(3):
        fenced.send("link", [Datagram(9, 1, bytes(4), 0, PACKET)] * 3000)
    wait_until(lambda: fenced.counters["drop_tcp_away_or_full"] == 9003 - 8192, "the rest is lost")


# --- how it starts and ends -----------------------------------------------------------------------


def run(told: dict, **changes: object) -> subprocess.CompletedProcess:
    words = programs.command(find(IP_JS), told | changes)
    return subprocess.run(words, capture_output=True, text=True, timeout=20, input="")


@pytest.fixture
def told(tmp_path):
    return programs.settings("ip", host("h1", "10.0.0.1/24"), tmp_path, IP_JS, True)


def running(told) -> subprocess.Popen:
    command = programs.command(find(IP_JS), told)
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_it_ends_with_its_standard_input_and_lets_go_of_its_locks(told, tmp_path):
    done = run(told)
    assert (done.returncode, done.stdout) == (0, "ready\n")
    assert holder(tmp_path / "h1.ip.lock") is None
    assert run(told).returncode == 0


def test_a_successor_whose_turn_does_not_come_holds_nothing(told, tmp_path):
    with running(told) as first:
        assert first.stdout.readline() == b"ready\n"
        done = run(told | {"successor": True})  # its supervisor has ended
        assert (done.returncode, done.stdout) == (0, "prepared\n")
        assert holder(tmp_path / "h1.ip.lock") == first.pid
        first.stdin.close()


def test_two_of_one_host_are_refused(told, tmp_path):
    with running(told) as first:
        assert first.stdout.readline() == b"ready\n"
        for name in ("h1.ip.lock", "h1.ip.from-tcp.lock", "h1.ip.from-link.lock"):
            assert holder(tmp_path / name) == first.pid
        done = run(told)
        assert done.returncode == 2
        assert f"h1.ip.lock is held by process {first.pid}: stop it first" in done.stderr
        first.terminate()
        assert first.wait(20) == 0


def test_without_a_supervisor_it_shows_that_it_lives(told, tmp_path):
    alive = places.alive_path(tmp_path, "h1", "ip")
    words = programs.command(find(IP_JS), told | {"supervised": False})
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        assert alive.exists()
        process.terminate()
        assert process.wait(20) == 0
    assert not alive.exists()


def test_a_host_that_is_not_for_it_is_refused_in_one_line(told):
    done = run(told, interfaces=told["interfaces"] * 2)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("h1.ip ERROR h1 has 2 interfaces, and this ip is for one\n")
    done = run(told, forwarding=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = run(told, directory="/no/such/place")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_lab_that_cannot_have_it_says_why(tmp_path):
    config = LabConfig("test", {"h1": host("h1", "10.0.0.1/24", forwarding=True,
                                           implementations={"ip": IP_JS})}, {})  # fmt: skip
    with pytest.raises(LabError, match=r"h1\.ip cannot start: h1 is to forward, which"):
        Lab(config, tmp_path / "run").start()


def test_a_machine_without_node_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("plywire.runtime.program.shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match="node: is not on this machine"):
        programs.check(find(IP_JS), "ip")


def test_its_packages_are_missing(told, tmp_path):
    for file in FOLDER.glob("*.js*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    words = ["node", str(tmp_path / "ip.js"), json.dumps(told)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert "an npm package is missing: run `npm install --no-package-lock`" in done.stderr
