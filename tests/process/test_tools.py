"""The commands that look at a lab, on a lab that runs: output, JSON, refusals and exit codes."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from running import wait_until

from plywire.client import Stack
from plywire.lab.rundir import supervisor_of

PLYWIRE = Path(sys.executable).with_name("plywire")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("labs")


@pytest.fixture(scope="module")
def environment(base):
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    return kept | {"PLYWIRE_RUN_DIR": str(base)}


@pytest.fixture(scope="module")
def plywire(base, environment):
    """Runs the command with run directories of its own."""

    def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [PLYWIRE, *arguments], capture_output=True, text=True, timeout=60,
            env=environment | changes,
        )  # fmt: skip

    yield run
    for directory in base.iterdir():  # only after a failure
        pid = supervisor_of(directory)
        if pid is not None:
            os.kill(pid, signal.SIGTERM)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def listen():
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def lab(plywire, base, listen):
    """A lab that is up and serves metrics; with a connection over which 64 KiB went."""
    done = plywire("up", "--metrics", listen)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"metrics at http://{listen}/metrics"
    directory = base / "default"
    with (
        Stack(f"unix:{directory}/h2.api.sock") as h2,
        h2.create_server(("", 80)) as server,
        Stack(f"unix:{directory}/h1.api.sock") as h1,
        h1.create_connection(("10.0.0.2", 80), timeout=10) as client,
    ):
        peer, _ = server.accept()
        with peer:
            client.sendall(bytes(65_536))
            left = 65_536
            while left:
                left -= len(peer.recv(left))
            yield client.getsockname()[1]
    assert plywire("down").returncode == 0


def refused(done: subprocess.CompletedProcess, code: int, *words: str) -> None:
    assert done.stderr.startswith("plywire: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert (done.returncode, done.stdout) == (code, "")


# --- ss -------------------------------------------------------------------------------------------


def test_ss_tin(plywire, lab):
    lines = plywire("ss", "h1", "-tin").stdout.splitlines()
    (place,) = [index for index, line in enumerate(lines) if f"10.0.0.1:{lab} " in line]
    assert lines[place].split() == ["ESTAB", "0", "0", f"10.0.0.1:{lab}", "10.0.0.2:80"]
    info = lines[place + 1]
    assert re.match(r"\t (ts )?(sack )?(newreno|cubic) ", info)
    assert re.search(r" wscale:\d+,\d+ rto:[\d.]+ rtt:[\d.]+/[\d.]+ (ato:\d+ )?mss:\d+ ", info)
    assert re.search(r" cwnd:\d+ ", info)
    assert " bytes_acked:6553" in info


def test_ss_with_timers_handles_and_hosts(plywire, lab):
    lines = plywire("ss", "-aeH").stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("h1 ") and f"10.0.0.1:{lab} " in line]
    words = r"h1 +ESTAB +0 +0 +\S+ +10\.0\.0\.2:80 +(timer:\(.*\) )?sk:[0-9a-f]+"
    assert re.fullmatch(words, line)
    assert any(line.split()[:2] == ["h2", "LISTEN"] for line in lines)


def test_ss_json(plywire, lab):
    rows = json.loads(plywire("ss", "--json", "--host", "h1").stdout)
    (row,) = [row for row in rows if row["local"] == f"10.0.0.1:{lab}"]
    assert (row["host"], row["state"], row["peer"]) == ("h1", "ESTABLISHED", "10.0.0.2:80")
    assert row["info"]["bytes_acked"] >= 65_536


# --- ping -----------------------------------------------------------------------------------------


def test_ping_json(plywire, lab):
    done = plywire("ping", "h1", "h2.lab", "-c", "2", "-i", "0", "--json")
    start, *replies, end = map(json.loads, done.stdout.splitlines())
    assert start["address"] == "10.0.0.2"
    assert [row["icmp_seq"] for row in replies] == [1, 2]
    assert (end["transmitted"], end["received"], end["loss_percent"]) == (2, 2, 0)
    assert done.returncode == 0


def test_ping_of_a_neighbour_that_is_not_there(plywire, lab):
    done = plywire("ping", "h1", "10.0.0.77", "-c", "1")
    assert done.returncode == 1
    assert "From 10.0.0.1 icmp_seq=1 Destination Host Unreachable\n" in done.stdout
    assert "1 packets transmitted, 0 received, +1 errors, 100% packet loss" in done.stdout
    assert re.search(r"^10\.0\.0\.77 dev eth0 FAILED$", plywire("arp", "h1").stdout, re.M)


@pytest.mark.parametrize(
    ("host", "destination", "words"),
    [
        ("h1", "192.0.2.1", "192.0.2.1: Network is unreachable"),
        ("h1", "nobody", "nobody"),
        ("h9", "h2", "no host 'h9'"),
    ],
)
def test_ping_of_what_cannot_be(plywire, lab, host, destination, words):
    refused(plywire("ping", host, destination, "-c", "1"), 2, words)


def test_ping_of_a_wire_that_doubles_frames(plywire, lab):
    assert plywire("impair", "set", "h1>h2", "--dup", "100%").returncode == 0
    done = plywire("ping", "h1", "h2", "-c", "3", "-i", "0.1")
    assert plywire("impair", "reset").returncode == 0
    assert done.returncode == 0
    doubles = re.findall(r"icmp_seq=(\d) ttl=64 time=[\d.]+ ms \(DUP!\)", done.stdout)
    assert doubles[:2] == ["1", "2"]  # the last one's double may come after the end
    assert f"3 packets transmitted, 3 received, +{len(doubles)} duplicates, 0%" in done.stdout


def test_requests_go_out_in_time_and_what_is_held_back_is_a_queue(plywire, lab):
    assert plywire("impair", "set", "h1>h2", "--delay", "30s").returncode == 0
    try:
        done = plywire("ping", "h1", "h2", "-c", "3", "-i", "0.01", "-W", "0.2", "-O")
        (row,) = [row for row in json.loads(plywire("status", "-i", "0", "--json").stdout)["layers"]
                  if row["name"] == "h1.link"]  # fmt: skip
    finally:
        plywire("impair", "reset")
    assert done.returncode == 1
    assert "no answer yet for icmp_seq=1\nno answer yet for icmp_seq=2\n" in done.stdout
    assert "3 packets transmitted, 0 received, 100% packet loss" in done.stdout
    assert row["queue"] >= 3


def test_ping_until_interrupted(lab, environment):
    with subprocess.Popen(
        [PLYWIRE, "ping", "h1", "h2", "-i", "0.05"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout.readline().startswith("PING h2 (10.0.0.2)")
        assert "icmp_seq=1 " in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, words = process.communicate(timeout=10)
    assert (process.returncode, words) == (0, "")
    assert "packets transmitted" in rest


def test_a_ping_that_waits_stands_in_nobodys_way(lab, environment, plywire):
    """It used to hold one of the service's few threads."""
    with subprocess.Popen(
        [PLYWIRE, "ping", "h1", "10.0.0.200", "-i", "0.01", "-c", "40"], text=True,
        stdout=subprocess.PIPE, env=environment,
    ) as process:  # fmt: skip
        process.stdout.readline()
        assert plywire("status", "-i", "0").returncode == 0
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert process.returncode == 1


# --- arp, route, counters -------------------------------------------------------------------------


def test_arp(plywire, lab):
    line = "10.0.0.2 dev eth0 lladdr 02:00:0a:00:00:02 "
    assert any(row.startswith(line) for row in plywire("arp", "h1").stdout.splitlines())
    assert any(row.startswith(f"h1  {line}") for row in plywire("arp").stdout.splitlines())
    (row,) = [row for row in json.loads(plywire("arp", "h1", "--json").stdout)
              if row["dst"] == "10.0.0.2"]  # fmt: skip
    assert (row["host"], row["dev"], row["lladdr"]) == ("h1", "eth0", "02:00:0a:00:00:02")
    refused(plywire("arp", "h9"), 1, "no host 'h9' in this lab; there are h1, h2")


def test_route(plywire, lab):
    assert plywire("route", "h1").stdout == (
        "10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.1\n"
    )
    assert plywire("route", "h1", "--table", "all").stdout.startswith("local 10.0.0.1 dev lo ")
    assert plywire("route", "h2", "--get", "10.0.0.1").stdout == (
        "10.0.0.1 dev eth0 src 10.0.0.2\n"
    )
    (row,) = json.loads(plywire("route", "h2", "--json").stdout)
    assert (row["dst"], row["prefsrc"]) == ("10.0.0.0/24", "10.0.0.2")
    refused(plywire("route", "--get", "192.0.2.1"), 1, "ENETUNREACH")
    refused(plywire("route", "--get", "x"), 1, "x")


def test_counters(plywire, lab):
    head, *rows = plywire("counters", "h1.tcp").stdout.splitlines()
    assert head == "#h1"
    names = [row.split()[0] for row in rows]
    assert names[:1] == ["TcpActiveOpens"]
    assert {"TcpInSegs", "TcpOutSegs"} <= set(names)
    assert "TcpRetransSegs" in plywire("counters", "h1", "Tcp*", "-z").stdout
    found = json.loads(plywire("counters", "--json", "Link?xPackets").stdout)
    assert set(found) == {"h1", "h2"}
    assert set(found["h1"]) == {"LinkRxPackets", "LinkTxPackets"}
    assert plywire("counters", "h1.ip", "Nothing*").stdout == ""
    refused(plywire("counters", "h9"), 1, "no host 'h9'")
    refused(plywire("counters", "h1.udp"), 1, "no layer 'udp'; there are app, tcp, ip, link")


def test_counters_over_an_interval(plywire, lab):
    done = plywire("counters", "h1", "-z", "-i", "0.05", "Tcp*")
    assert done.returncode == 0
    assert re.search(r"^TcpActiveOpens +0 +0\.0$", done.stdout, re.M)


# --- status ---------------------------------------------------------------------------------------


def test_status_json(plywire, lab):
    done = plywire("status", "--json", "-i", "0")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["lab"]) == (0, "default")
    assert [f"{row['host']}.{row['layer']}" for row in answer["layers"]] == [
        f"{host}.{role}" for host in ("h1", "h2") for role in ("app", "tcp", "ip", "link")
    ]
    tcp = answer["layers"][1]
    assert (tcp["health"], tcp["state"], tcp["restarts"]) == ("ok", "up", 0)
    assert tcp["rate"] > 0
    assert 0 < tcp["cpu"] <= 2
    assert set(tcp["traffic"]) == {"app", "ip"}
    assert tcp["traffic"]["ip"]["sent"] >= 45  # 64 KiB


def test_status_of_a_layer_that_hangs(plywire, lab):
    rows = json.loads(plywire("status", "--json", "-i", "0").stdout)["layers"]
    pid = next(row["pid"] for row in rows if row["name"] == "h2.link")
    os.kill(pid, signal.SIGSTOP)
    try:
        done = plywire("status", "-i", "0")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert done.returncode == 1
    assert re.search(r"^h2\.link .* no answer$", done.stdout, re.M)
    wait_until(lambda: plywire("status", "-i", "0").returncode == 0, "all is well again")


# --- metrics --------------------------------------------------------------------------------------


def scrape(listen: str, query: str = "") -> dict:
    with urllib.request.urlopen(f"http://{listen}/metrics{query}", timeout=20) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_of_every_layer(lab, listen):
    found = scrape(listen)
    for host in ("h1", "h2"):
        for layer in ("app", "tcp", "ip", "link"):
            assert found["plywire_up", ("host", host), ("layer", layer)] == 1
    place = (("host", "h1"), ("layer", "tcp"))
    assert found["plywire_counter_total", *place, ("name", "tcp_active_opens")] >= 1
    assert found["plywire_queue_depth", *place, ("neighbour", "ip")] == 0
    assert found["plywire_messages_sent_total", *place, ("neighbour", "ip")] >= 45
    assert found["plywire_tcp_established", ("host", "h1")] >= 1
    assert not any(key[0] == "plywire_tcp_rtt_seconds" for key in found)


def test_metrics_of_memory(lab, listen):
    found = scrape(listen)
    assert found["plywire_tcp_memory_bytes", ("host", "h1")] == 0  # all is read and acknowledged
    assert found["plywire_tcp_memory_bound_bytes", ("host", "h1")] == 256 << 20


def test_metrics_of_connections_on_request(lab, listen):
    found = scrape(listen, "?connections=1")
    path = (("host", "h1"), ("local", f"10.0.0.1:{lab}"), ("peer", "10.0.0.2:80"))
    assert 0 < found["plywire_tcp_rtt_seconds", *path] < 5
    assert found["plywire_tcp_cwnd_bytes", *path] >= 1460
    assert found["plywire_tcp_bytes_acked_total", *path] >= 65_536


def test_metrics_printed(plywire, lab):
    done = plywire("metrics", "--connections")
    names = {family.name for family in text_string_to_metric_families(done.stdout)}
    assert {"plywire_up", "plywire_counter", "plywire_tcp_rtt_seconds"} <= names


def test_metrics_served_by_a_command_until_interrupted(lab, environment):
    listen = f"127.0.0.1:{free_port()}"
    with subprocess.Popen(
        [PLYWIRE, "metrics", "--listen", listen], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == f"metrics at http://{listen}/metrics\n"
        assert scrape(listen)["plywire_up", ("host", "h1"), ("layer", "ip")] == 1
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://{listen}/x", timeout=10)
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=10)
    assert (process.returncode, words.strip()) == (130, "")


def test_metrics_at_a_port_that_is_taken(plywire, base):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        refused(plywire("--lab", "second", "up", "--metrics", listen), 1,
                f"metrics cannot be served at {listen}: Address already in use")  # fmt: skip
    assert supervisor_of(base / "second") is None
    assert sorted(path.name for path in (base / "second").iterdir()) == ["lab.lock", "logs"]


def test_metrics_at_an_address_that_is_none(plywire):
    refused(plywire("up", "--metrics", "9464"), 1, "--metrics", "'9464' is not HOST:PORT")


def test_metrics_of_the_lab_file(plywire, tmp_path):
    listen = f"127.0.0.1:{free_port()}"
    file = tmp_path / "lab.toml"
    file.write_text(
        f'[lab]\nname = "counted"\nmetrics = "{listen}"\n[wires.lan]\n[hosts.a]\n'
        'interfaces = [{ address = "10.9.0.1/24" }]'
    )
    assert plywire("up", "-f", str(file)).returncode == 0
    try:
        assert scrape(listen)["plywire_up", ("host", "a"), ("layer", "app")] == 1
    finally:
        assert plywire("--lab", "counted", "down").returncode == 0
    with pytest.raises(urllib.error.URLError):
        scrape(listen)


# --- doctor ---------------------------------------------------------------------------------------


def test_doctor(plywire):
    done = plywire("--lab", "none", "doctor")
    assert done.returncode == 0, done.stdout
    for line in done.stdout.splitlines():
        assert re.match(r"(ok|warn) +\S", line)
    for word in ("python", "pyzmq", "libzmq", "grpcio", "path lengths", "TAP", "docker", "ports"):
        assert word in done.stdout


def finding(done: subprocess.CompletedProcess, what: str) -> dict:
    return next(row for row in json.loads(done.stdout) if row["what"] == what)


def test_doctor_finds_a_port_that_is_taken(plywire, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = tmp_path / "lab.toml"
        file.write_text(
            f'[lab]\nmetrics = "127.0.0.1:{port}"\n[wires.lan]\n[hosts.a]\n'
            f'interfaces = [{{ address = "10.9.0.1/24", listen = "tcp://127.0.0.1:{port}" }}]'
        )
        done = plywire("--lab", "none", "doctor", "-f", str(file), "--json")
    assert done.returncode == 1
    row = finding(done, "ports")
    assert row["verdict"] == "fail"
    assert "Address already in use" in row["text"]
    assert "a.eth0" in row["text"] or "metrics" in row["text"]


def test_doctor_finds_paths_that_are_too_long(plywire, tmp_path):
    done = plywire("doctor", "--json", PLYWIRE_RUN_DIR=str(tmp_path / ("x" * 90)))
    assert done.returncode == 1
    assert "PLYWIRE_RUN_DIR" in finding(done, "path lengths")["remedy"]


def test_doctor_finds_what_a_killed_lab_left(plywire, base):
    assert plywire("--lab", "killed", "up").returncode == 0
    pid = supervisor_of(base / "killed")
    rows = json.loads(plywire("--lab", "killed", "status", "--json", "-i", "0").stdout)["layers"]
    watched = [os.pidfd_open(row["pid"]) for row in rows]
    os.kill(pid, signal.SIGKILL)
    poll = select.poll()
    for pidfd in watched:
        poll.register(pidfd)
    while watched:
        for pidfd, _ in poll.poll(10_000):
            poll.unregister(pidfd)
            watched.remove(pidfd)
            os.close(pidfd)
    done = plywire("--lab", "killed", "doctor", "--json")
    assert done.returncode == 0
    assert finding(done, "stale files")["verdict"] == "warn"
    assert plywire("--lab", "killed", "up").returncode == 0
    assert plywire("--lab", "killed", "down").returncode == 0
    assert finding(plywire("--lab", "killed", "doctor", "--json"), "stale files")["verdict"] == "ok"


def test_doctor_finds_an_implementation_that_is_not_there(plywire, tmp_path):
    file = tmp_path / "lab.toml"
    file.write_text(
        '[wires.lan]\n[hosts.a]\ninterfaces = [{ address = "10.9.0.1/24" }]\n'
        'implementations = { tcp = "nowhere.tcp:create" }\n'
    )
    done = plywire("--lab", "none", "doctor", "-f", str(file))
    assert done.returncode == 1
    assert re.search(r"^fail +layers +.*no module nowhere", done.stdout, re.M)


def test_doctor_of_a_file_that_is_none(plywire):
    done = plywire("doctor", "-f", "/no/lab.toml")
    assert done.returncode == 1
    assert re.search(r"^fail +lab +.*/no/lab\.toml", done.stdout, re.M)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [["status"], ["ss"], ["arp"], ["route"], ["counters"], ["metrics"], ["ping", "h1", "h2"]],
    ids=lambda command: command[0],
)
def test_no_lab_is_up(plywire, command):
    refused(plywire("--lab", "none", *command), 3, "no lab 'none' is up")


@pytest.mark.parametrize(
    "command",
    [["status", "-i", "-1"], ["ss", "h1", "--host", "h2"], ["ping", "h1"],
     ["route", "--table", "x"], ["ping", "h1", "h2", "-s", "70000"], ["counters", "-i", "0"]],
    ids=" ".join,
)  # fmt: skip
def test_command_line_that_is_wrong(plywire, command):
    refused(plywire(*command), 2, f"see `plywire {command[0]} --help`")
