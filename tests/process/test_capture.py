"""`plywire capture` on a lab that runs: what tshark reads back, how it ends, what it refuses."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import threading
from collections import Counter
from pathlib import Path

import pytest

from plywire.client import Stack
from plywire.lab.control import LabClient
from tests.process.commanded import PLYWIRE, QUIET, Commands
from tests.process.running import wait_until
from tests.unit.test_pcapng import blocks, options

LIMIT = 60
PORT = 4321
BODY = bytes(range(256)) * 200
needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="no tshark")
BOUNDARIES = {"link": "link/wire", "ip": "ip/link", "tcp": "tcp/ip"}


@pytest.fixture(scope="module")
def plywire(tmp_path_factory):
    commands = Commands(tmp_path_factory.mktemp("labs"))
    commands.up(QUIET)
    yield commands
    try:
        commands.do("down")
    finally:
        commands.end()


@pytest.fixture(scope="module")
def client(plywire):
    with LabClient(plywire.directory()) as client:
        client.ask("h1", "ip", "ping", "10.0.0.2", 56, 10_000)  # both know each other's address
        yield client


@pytest.fixture(scope="module")
def stacks(client):
    with Stack(client.target("h1")) as h1, Stack(client.target("h2")) as h2:
        yield h1, h2


class Running:
    """A capture that has said that it listens (or serves)."""

    def __init__(self, plywire: Commands, *arguments: str, **how: object) -> None:
        self.process = subprocess.Popen(
            [PLYWIRE, "capture", *arguments], env=plywire.environment, text=False,
            stdout=how.pop("stdout", subprocess.PIPE), stderr=subprocess.PIPE, **how,
        )  # fmt: skip
        self.first = self.process.stderr.readline().decode()
        assert self.first.startswith(("listening on ", "serving at ")), self.first

    def end(self, number: int | None = signal.SIGINT) -> tuple[int, bytes, str]:
        """Exit code, standard output, and the rest of standard error."""
        if number is not None:
            self.process.send_signal(number)
        out, errors = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, out, errors.decode()


@pytest.fixture
def capture(plywire):
    """Starts captures; ends those that a failed test has left."""
    running: list[Running] = []

    def start(*arguments: str, **how: object) -> Running:
        running.append(Running(plywire, *arguments, **how))
        return running[-1]

    yield start
    for item in running:
        if item.process.poll() is None:
            item.process.kill()
            item.process.communicate()


def connections(client: LabClient) -> set[str]:
    """The states of all connections of both hosts."""
    return {row["state"] for host in ("h1", "h2")
            for row in client.describe(host, "tcp", "connections")}  # fmt: skip


def exchange(client: LabClient, stacks, body: bytes = BODY, port: int = PORT) -> None:
    """One connection from h1 to h2 that carries `body`, from SYN to the last ACK of FIN."""
    h1, h2 = stacks
    with (
        h2.create_server(("", port)) as server,
        h1.create_connection(("10.0.0.2", port)) as sock,
        server.accept()[0] as peer,
    ):
        sender = threading.Thread(target=sock.sendall, args=(body,))
        sender.start()
        left = len(body)
        while left:
            more = peer.recv(65_536)
            assert more
            left -= len(more)
        sender.join()
        sock.close()  # the first FIN comes from h1, which then is in TIME-WAIT
        assert peer.recv(1) == b""
    wait_until(lambda: connections(client) <= {"TIME-WAIT", "CLOSED"}, "both have closed")


def rows(path: Path, *fields: str, where: str = "") -> list[list[str]]:
    """What tshark says of each packet; "" for a field that is not there."""
    command = ["tshark", "-r", str(path), "-Y", where, "-T", "fields"]
    for check in ("ip", "tcp"):
        command += ["-o", f"{check}.check_checksum:TRUE"]
    for field in fields:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def summary(errors: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+) packets? captured, (\d+) dropped\n", errors)
    assert found, errors
    return int(found[1]), int(found[2])


def statistics(path: Path) -> list[dict[int, int]]:
    """The counts in the statistics of each interface: 4 received, 5 dropped, 8 written."""
    found = [options(body[12:]) for kind, body in blocks(path.read_bytes()) if kind == 5]
    return [{code: int.from_bytes(item[code], "little") for code in (4, 5, 6, 8)} for item in found]


def traces(found: list[list[str]]) -> list[str]:
    """The trace ids in the comments that stand first in each row."""
    ids = [re.fullmatch(r"trace (\d+)", row[0])[1] for row in found]
    assert "0" not in ids
    return ids


# --- what is captured -----------------------------------------------------------------------------


@needs_tshark
def test_every_boundary_reads_back(capture, client, stacks, tmp_path):
    path = tmp_path / "h1.pcapng"
    running = capture("h1", "--at", "link,ip,tcp", "-o", str(path))
    assert running.first == (
        "listening on h1 link/wire (Ethernet), h1 ip/link (IP packets), h1 tcp/ip (TCP segments)\n"
    )
    exchange(client, stacks)
    code, out, errors = running.end()
    assert (code, out) == (0, b"")
    captured, dropped = summary(errors)
    assert dropped == 0
    assert rows(path, "frame.number", where="_ws.malformed || tcp.checksum.status == 0") == []
    found = rows(path, "frame.comment", "frame.interface_name", "frame.packet_flags_direction",
                 "ip.src", "tcp.seq_raw", "tcp.len", "tcp.flags", "frame.time_epoch",
                 "tcp.checksum.status", "tcp.options.mss_val", "tcp.window_size_value",
                 where="tcp")  # fmt: skip
    assert len(found) == captured
    packets = {name: [row for row in found if row[1] == f"h1 {name}"]
               for name in BOUNDARIES.values()}  # fmt: skip
    segments = {name: sorted((*row[:1], *row[2:7], *row[8:]) for row in seen)
                for name, seen in packets.items()}  # fmt: skip
    assert len(segments["tcp/ip"]) == captured / 3
    # The same packets at each boundary, once, with the same trace id, flags and direction.
    assert segments["tcp/ip"] == segments["ip/link"] == segments["link/wire"]
    for row in found:
        assert int(row[2], 16) == (2 if row[3] == "10.0.0.1" else 1)
        assert row[8] == "1"
    sent = sum(int(row[5]) for row in packets["tcp/ip"] if row[3] == "10.0.0.1")
    assert sent == len(BODY)
    # The handshake has one trace id: what connect() caused.
    assert len({*traces([row for row in packets["tcp/ip"] if int(row[6], 16) & 2])}) == 1
    traces(found)
    # Down from layer to layer, time goes on.
    times = {name: next(row[7] for row in seen if int(row[6], 16) == 2)
             for name, seen in packets.items()}  # fmt: skip
    assert times["tcp/ip"] < times["ip/link"] < times["link/wire"]
    assert re.fullmatch(r"\d{10}\.\d{9}", times["tcp/ip"])
    counts = statistics(path)
    assert [item[8] for item in counts] == [len(packets[name]) for name in BOUNDARIES.values()]
    assert {item[5] for item in counts} == {0}


@needs_tshark
def test_all_hosts_show_what_one_sends_and_the_other_gets(capture, client, stacks, tmp_path):
    path = tmp_path / "all.pcapng"
    running = capture("--all", "--at", "tcp,link", "-o", str(path))
    exchange(client, stacks)
    code, _, errors = running.end()
    captured, _ = summary(errors)
    found = rows(path, "frame.interface_name", "ip.src", "tcp.seq_raw", "tcp.ack_raw", "tcp.len",
                 where="tcp")  # fmt: skip
    by_point = {name: sorted(row[1:] for row in found if row[0] == name)
                for name in ("h1 tcp/ip", "h1 link/wire", "h2 link/wire", "h2 tcp/ip")}  # fmt: skip
    assert code == 0
    assert captured == len(found) == 4 * len(by_point["h1 tcp/ip"])
    assert len({json.dumps(item) for item in by_point.values()}) == 1


@needs_tshark
def test_arp_and_ping_are_seen_where_they_are(plywire, capture, client, tmp_path):
    path = tmp_path / "ping.pcapng"
    running = capture("h1,h2", "--at", "link,ip,tcp", "-o", str(path))
    client.ask("h1", "ip", "ping", "10.0.0.2", 56, 10_000)
    running.end()
    found = Counter(
        (row[0], row[1]) for row in rows(path, "frame.interface_name", "icmp.type", where="icmp")
    )
    assert found == {
        (f"{host} {name}", kind): 1
        for host in ("h1", "h2")
        for name in ("link/wire", "ip/link")
        for kind in ("8", "0")
    }


def test_lines_are_printed_when_no_file_is_named(capture, client, stacks):
    running = capture("h1", "tcp", "port", str(PORT))
    exchange(client, stacks, b"x" * 100)
    code, out, errors = running.end()
    lines = out.decode().splitlines()
    assert code == 0
    assert summary(errors) == (len(lines), 0)
    clock, there, back = r"\d\d:\d\d:\d\d\.\d{6} ", r"IP 10\.0\.0\.1\.\d+ > 10\.0\.0\.2\.4321: ", (
        r"IP 10\.0\.0\.2\.4321 > 10\.0\.0\.1\.\d+: "
    )  # fmt: skip
    options_ = r"options \[mss 1460,[^]]*wscale \d+\], "
    for line, pattern in zip(lines, (
        rf"{there}Flags \[S\], seq \d+, win \d+, {options_}length 0",
        rf"{back}Flags \[S\.\], seq \d+, ack \d+, win \d+, {options_}length 0",
        rf"{there}Flags \[\.\], ack 1, win \d+, (options \[.*\], )?length 0",
        rf"{there}Flags \[P\.\], seq 1:101, ack 1, win \d+, (options \[.*\], )?length 100",
    ), strict=False):  # fmt: skip
        assert re.fullmatch(clock + pattern, line), line


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is not installed")
def test_tcpdump_prints_the_same_of_the_same_packets(capture, client, stacks, tmp_path):
    path = tmp_path / "lines.pcapng"
    running = capture("h1", "-o", str(path), "--print")
    exchange(client, stacks)
    client.ask("h1", "ip", "ping", "10.0.0.2", 56, 10_000)
    _, out, _ = running.end()
    command = ["tcpdump", "-n", "-r", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert out.decode().splitlines() == done.stdout.splitlines()


def test_a_filter_and_a_count(capture, client, stacks):
    running = capture("h2", "-c", "2", "dst", "host", "h2", "and", "not", "arp")
    exchange(client, stacks, b"x")
    code, out, errors = running.end(None)
    assert (code, summary(errors)) == (0, (2, 0))
    assert out.count(b"> 10.0.0.2.4321") == 2
    with_file = capture("h1", "icmp", "--at", "ip", "--print")
    exchange(client, stacks, b"x", PORT + 1)
    client.ask("h1", "ip", "ping", "10.0.0.2", 56, 10_000)
    code, out, errors = with_file.end()
    assert summary(errors) == (2, 0)
    assert [line.split(" ", 1)[1].split(",")[0] for line in out.decode().splitlines()] == [
        "IP 10.0.0.1 > 10.0.0.2: ICMP echo request", "IP 10.0.0.2 > 10.0.0.1: ICMP echo reply",
    ]  # fmt: skip


def test_statistics_tell_what_the_filter_let_through(capture, client, tmp_path):
    path = tmp_path / "none.pcapng"
    running = capture("h1", "--at", "ip", "-o", str(path), "tcp")
    client.ask("h1", "ip", "ping", "10.0.0.2", 56, 10_000)
    assert summary(running.end()[2]) == (0, 0)
    assert statistics(path) == [{4: 2, 5: 0, 6: 0, 8: 0}]


def test_a_capture_that_is_stopped_at_once_has_all_that_was_sent_before(capture, client, stacks):
    """Much is on its way through the lab then."""
    running = capture("h1", "--at", "tcp", "tcp", "and", "src", "h1", stdout=subprocess.PIPE)
    reader = threading.Thread(target=lambda: lines.extend(running.process.stdout))
    lines: list[bytes] = []
    reader.start()
    exchange(client, stacks, b"x" * 1_500_000)
    running.process.send_signal(signal.SIGINT)
    reader.join(LIMIT)
    assert running.process.wait(LIMIT) == 0
    assert summary(running.process.stderr.read().decode()) == (len(lines), 0)
    sent = sum(int(line.rpartition(b"length ")[2]) for line in lines)
    assert sent >= 1_500_000
    assert b"Flags [F" in lines[-1] or b"Flags [F" in lines[-2]


# --- who reads ------------------------------------------------------------------------------------


@needs_tshark
def test_a_pipe_gets_pcapng_while_it_happens(capture, client, tmp_path):
    running = capture("h1", "--at", "ip", "-o", "-")
    data = b""
    client.ask("h1", "ip", "ping", "10.0.0.2", 56, 10_000)
    while data.count(b"trace ") < 2:  # both packets, before the capture ends
        data += os.read(running.process.stdout.fileno(), 65_536)
    code, rest, errors = running.end(signal.SIGTERM)
    assert (code, summary(errors)) == (0, (2, 0))
    path = tmp_path / "piped.pcapng"
    path.write_bytes(data + rest)
    assert rows(path, "icmp.type") == [["8"], ["0"]]


@pytest.mark.parametrize("how", [["-o", "-"], ["--print"]], ids=lambda how: how[0])
def test_a_reader_that_stops_ends_the_capture(capture, how):
    """As with `| head`; nothing need happen in the lab for that."""
    running = capture("h1", *how)
    running.process.stdout.close()
    assert running.process.wait(LIMIT) == 0
    assert summary(running.process.stderr.read().decode()) == (0, 0)


def test_standard_output_that_is_not_used_may_be_closed(capture, client, tmp_path):
    running = capture("h1", "--at", "ip", "-o", str(tmp_path / "f.pcapng"), "-c", "2")
    running.process.stdout.close()
    client.ask("h1", "ip", "ping", "10.0.0.2", 56, 10_000)
    assert running.process.wait(LIMIT) == 0


class Reader:
    """Who connects to a capture that is served, and reads as far as `until`."""

    def __init__(self, running: Running) -> None:
        port = int(re.search(r"127\.0\.0\.1:(\d+):", running.first)[1])
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
        self.data = b""

    def until(self, packets: int) -> bytes:
        """Read until so many packets are there; -1: to the end."""
        while packets < 0 or self.data.count(b"trace ") < packets:
            more = self.socket.recv(65_536)
            if not more:
                assert packets < 0
                break
            self.data += more
        return self.data

    def begun(self) -> None:
        """The stream's head is there, so packets from now on will be in it."""
        while b"ip/link" not in self.data:
            self.data += self.socket.recv(65_536)


@needs_tshark
def test_readers_on_a_port_have_captures_of_their_own(capture, client, tmp_path):
    running = capture("h1", "--at", "ip", "--serve", "0")
    assert "wireshark -k -i TCP@127.0.0.1:" in running.first
    first = Reader(running)
    first.begun()
    client.ask("h1", "ip", "ping", "10.0.0.2", 56, 10_000)
    first.until(2)
    second = Reader(running)
    second.begun()
    first.socket.close()
    client.ask("h1", "ip", "ping", "10.0.0.2", 56, 10_000)
    second.until(2)
    running.process.send_signal(signal.SIGINT)
    second.until(-1)
    code, _, errors = running.end(None)
    assert code == 0
    assert sorted(re.findall(r"127\.0\.0\.1:\d+: (\d+) packets captured, 0 dropped", errors)) == [
        "2", "2"
    ]  # fmt: skip
    second.socket.close()
    path = tmp_path / "served.pcapng"
    path.write_bytes(second.data)
    assert rows(path, "icmp.type", "_ws.malformed") == [["8", ""], ["0", ""]]
    assert statistics(path) == [{4: 2, 5: 0, 6: 2, 8: 2}]


def test_a_reader_that_goes_ends_its_capture_alone(capture, client):
    running = capture("h1", "--at", "ip", "--serve", "0")
    one = Reader(running)
    one.begun()
    one.socket.close()
    line = running.process.stderr.readline().decode()
    assert re.fullmatch(r"127\.0\.0\.1:\d+: 0 packets captured, 0 dropped\n", line)
    another = Reader(running)
    another.begun()
    another.socket.close()
    assert running.end()[0] == 0


@pytest.mark.skipif(shutil.which("dumpcap") is None, reason="dumpcap is not installed")
def test_wiresharks_own_capture_reads_from_the_port(capture, client, tmp_path):
    running = capture("h1", "--at", "link,ip", "--serve", "0")
    port = re.search(r"127\.0\.0\.1:(\d+):", running.first)[1]
    path = tmp_path / "dumped.pcapng"
    command = ["dumpcap", "-q", "-i", f"TCP@127.0.0.1:{port}", "-c", "4", "-w", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as dumpcap:
        for line in dumpcap.stderr:
            if line.startswith("File: "):  # it has the head of the stream
                break
        client.ask("h1", "ip", "ping", "10.0.0.2", 56, 10_000)
        dumpcap.communicate(timeout=LIMIT)
    assert dumpcap.returncode == 0
    found = Counter(row[0] for row in rows(path, "frame.interface_name"))
    assert found == {"h1 link/wire": 2, "h1 ip/link": 2}
    running.end()


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "which host?"),
        (["h9"], 1, "no host 'h9' in this lab; there are h1, h2"),
        (["h1,h9"], 1, "no host 'h9'"),
        (["h1", "--at", "app"], 2, "no capture format knows"),
        (["h1", "--at", "wire"], 2, "'wire' is not one of link, ip, tcp"),
        (["h1", "--at", ""], 2, "'' is not one of"),
        (["h1", "banana"], 2, "'banana'"),
        (["h1", "host", "h9"], 2, "'h9' is neither a host of the lab nor an IPv4 address"),
        (["h1", "port", "80000"], 2, "not a port number"),
        (["--all", "h1"], 2, "'h1'"),
        (["h1", "-c", "0"], 2, "-c"),
        (["h1", "--serve", "99999"], 2, "--serve"),
        (["h1", "--serve", "0", "-o", "f"], 2, "--serve goes with none of"),
        (["h1", "-o", "-", "--print"], 2, "give -o a file"),
        (["h1", "-o", "/no/such/place.pcapng"], 1, "No such file or directory"),
        (["h1", "-o", "/"], 1, "Is a directory"),
        (["h1", "-o", "/dev/full"], 1, "No space left on device"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_refused(plywire, client, arguments, code, words):
    assert words in plywire.refused("capture", *arguments, code=code)


def test_no_lab_is_up(plywire):
    assert "no lab 'none' is up" in plywire.refused("--lab", "none", "capture", "h1", code=3)


def test_a_port_in_use(plywire, client):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = plywire.refused("capture", "h1", "--serve", port, code=1)
    assert f"port {port} of 127.0.0.1 cannot be served (Address already in use)" in line
    assert "name another one" in line


def test_a_refused_capture_touches_no_file(plywire, client, tmp_path):
    old = tmp_path / "old.pcapng"
    old.write_bytes(b"what was there before")
    plywire.refused("capture", "h9", "-o", str(old), code=1)
    plywire.refused("capture", "h1", "-o", str(old), "banana", code=2)
    plywire.refused("capture", "h9", "-o", str(tmp_path / "new.pcapng"), code=1)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"what was there before"]


@needs_tshark
def test_a_file_that_gets_no_more_room_can_be_read(capture, client, tmp_path):
    """The limit on a file's size stands for a disk that fills up."""
    path = tmp_path / "full.pcapng"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    running = capture("h1", "--at", "ip", "-o", str(path), preexec_fn=limit)
    for _ in range(5):
        client.ask("h1", "ip", "ping", "10.0.0.2", 56, 10_000)
    code, _, errors = running.end(None)
    first, second = errors.splitlines()
    captured, dropped = summary(first + "\n")
    assert (code, dropped) == (1, 0)
    assert second.startswith(f"plywire: {path} cannot be written (File too large): make room")
    assert len(rows(path, "frame.number")) == captured > 0


def test_a_reader_that_does_not_read_does_not_keep_the_capture_from_ending(capture, client, stacks):
    """Its pipe is full, so the capture cannot bring itself to its end."""
    running = capture("h1", "--at", "link,ip,tcp", "-o", "-")
    exchange(client, stacks, b"x" * 500_000)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(LIMIT) == 1
    assert running.process.stderr.read() == (
        b"plywire: who reads the capture does not take its end: it is cut off\n"
    )


def test_the_lab_ends_while_it_is_captured(plywire, tmp_path):
    file = tmp_path / "other.toml"
    file.write_text(QUIET)
    plywire.do("--lab", "other", "up", "-f", str(file))
    path = tmp_path / "ended.pcapng"
    environment = dict(plywire.environment, PLYWIRE_LAB="other")
    running = subprocess.Popen(
        [PLYWIRE, "capture", "h1", "-o", str(path)], env=environment, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert running.stderr.readline().startswith("listening on")
        plywire.do("--lab", "other", "ping", "h1", "h2", "-c", "1")
        plywire.do("--lab", "other", "down")
        _, errors = running.communicate(timeout=LIMIT)
    finally:
        running.kill()
    first, second = errors.splitlines()
    assert running.returncode == 1
    assert summary(first + "\n")[0] >= 2
    assert second == "plywire: the lab has ended"
    assert len(statistics(path)) == 1


MIXED = """
[wires.lan]
[wires.tunnel]
[hosts.h1]
interfaces = [{ address = "10.0.0.1/24" }]
routes = [{ to = "10.9.0.0/24", via = "10.0.0.9" }]
[hosts.r]
interfaces = [
  { address = "10.0.0.9/24" },
  { address = "10.9.0.9/24", device = "raw", wire = "tunnel" },
]
[hosts.far]
interfaces = [{ address = "10.9.0.2/24", device = "raw", wire = "tunnel" }]
routes = [{ to = "0.0.0.0/0", via = "10.9.0.9" }]
"""


@needs_tshark
def test_a_router_with_an_ethernet_and_a_raw_wire(plywire, tmp_path):
    file, path = tmp_path / "mixed.toml", tmp_path / "mixed.pcapng"
    file.write_text(MIXED)
    plywire.do("--lab", "mixed", "up", "-f", str(file))
    try:
        mixed = Commands(plywire.base)
        mixed.environment["PLYWIRE_LAB"] = "mixed"
        running = Running(mixed, "r,far", "-o", str(path), "icmp")
        assert running.first == (
            "listening on r link/wire eth0 (Ethernet), r link/wire eth1 (IP packets),"
            " far link/wire (IP packets)\n"
        )
        with LabClient(mixed.directory("mixed")) as client:
            client.ask("h1", "ip", "ping", "10.9.0.2", 56, 10_000)
        assert summary(running.end()[2]) == (6, 0)
        found = Counter(map(tuple, rows(path, "frame.interface_name", "frame.protocols")))
        assert found == {
            ("r link/wire eth0", "eth:ethertype:ip:icmp:data"): 2,
            ("r link/wire eth1", "raw:ip:icmp:data"): 2,
            ("far link/wire", "raw:ip:icmp:data"): 2,
        }
    finally:
        plywire.do("--lab", "mixed", "down")


def test_captures_leave_nothing_behind(capture, client):
    """When the last one has gone, layers no longer trace."""
    running = capture("h1")
    assert running.end()[0] == 0
    before = {path.name for path in client.directory.iterdir()}
    again = capture("h1")
    assert again.end()[0] == 0
    assert {path.name for path in client.directory.iterdir()} == before
