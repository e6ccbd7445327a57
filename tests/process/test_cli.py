"""The command `plywire`: what each command prints, each refusal, and the exit codes."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from plywire.client import Stack
from plywire.lab.rundir import supervisor_of
from plywire.lab.supervisor import Lab
from plywire.runtime import config as places

PLYWIRE = Path(sys.executable).with_name("plywire")
BODY = b"a page\n" * 10_000


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("labs")


@pytest.fixture(scope="module")
def plywire(base):
    """Runs the command with run directories of its own: `plywire("up", lab=...)`."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        environment["PLYWIRE_RUN_DIR"] = str(base)
        return subprocess.run(
            [PLYWIRE, *arguments], capture_output=True, text=True, env=environment, timeout=60
        )

    yield run
    for directory in base.iterdir():  # only after a failure
        pid = supervisor_of(directory)
        if pid is not None and pid != os.getpid():
            os.kill(pid, signal.SIGTERM)


@pytest.fixture(scope="module")
def up(plywire, base, monkeypatch_module):
    """A lab that is up, with an HTTP server on h2, until the tests of this module are done."""
    done = plywire("up")
    assert done.returncode == 0, done.stderr
    monkeypatch_module.setenv("PLYWIRE_RUN_DIR", str(base))
    with Stack.find("h2") as h2, h2.create_server(("", 80)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        yield done
        server.close()
    assert plywire("down").returncode == 0


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def serve(server) -> None:
    """Answer every request, /missing with 404, until the listener is closed."""
    while True:
        try:
            peer, _ = server.accept()
        except OSError:
            return
        with contextlib.suppress(OSError), peer, peer.makefile("rb") as lines:
            request = lines.readline()
            while lines.readline().strip():
                pass
            found = b"/missing" not in request
            head = b"HTTP/1.0 200 OK" if found else b"HTTP/1.0 404 Not Found"
            peer.sendall(head + b"\r\n\r\n" + (BODY if found else b"no such page\n"))


def refused(done: subprocess.CompletedProcess, code: int, *words: str) -> None:
    """One line on standard error with these words, nothing on standard output, this exit code."""
    assert done.stderr.startswith("plywire: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert (done.returncode, done.stdout) == (code, "")


def runs(pid: int) -> bool:
    """The process is there and is no zombie that init has not collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


# --- no lab is up ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["down"],
        ["status"],
        ["ss"],
        ["logs"],
        ["trace", "1"],
        ["connect", "h1", "h2:80"],
        ["get", "http://h2.lab/"],
    ],
    ids=lambda command: command[0],
)
def test_no_lab_is_up(plywire, command):
    refused(plywire("--lab", "none", *command), 3, "no lab 'none' is up", "`plywire up`")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["frobnicate"], "No such command 'frobnicate' (see `plywire --help`)"),
        (["up", "--nonsense"], "see `plywire up --help`"),
        (["connect", "h1"], "DEST:PORT"),
        (["connect", "h1", "h2"], "'h2' is not DEST:PORT, as in h2:80"),
        (["connect", "h1", "h2:99999"], "is not DEST:PORT"),
        (["trace", "xyz"], "'xyz' is not a trace id"),
        (["get"], "Missing argument"),
        (["logs", "-n", "0"], "-n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_line_that_is_wrong(plywire, command, words):
    refused(plywire(*command), 2, words)


def test_lab_name_that_is_a_path(plywire):
    refused(plywire("--lab", "../x", "status"), 1, "a lab's name is letters")


def test_no_command_shows_the_help(plywire):
    done = plywire()
    assert done.returncode == 2
    assert "Usage: plywire" in done.stderr


def test_help_and_version(plywire):
    done = plywire("--help")
    assert done.returncode == 0
    for command in ("up", "down", "status", "connect", "get", "ss", "trace", "logs", "demo"):
        assert re.search(rf"^  {command}  ", done.stdout, re.M)
    assert re.fullmatch(r"plywire \d+\.\d+\.\d+\n", plywire("--version").stdout)


def test_help_does_not_import_what_takes_long():
    program = (
        "import sys; from plywire.lab import cli\n"
        "print(*{'grpc', 'zmq', 'msgpack', 'asyncio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == []


# --- files that are refused -----------------------------------------------------------------------


def test_up_without_the_file(plywire):
    refused(plywire("up", "-f", "/no/lab.toml"), 1, "/no/lab.toml", "No such file")


def test_up_with_a_file_that_is_not_toml(plywire, tmp_path):
    file = tmp_path / "lab.toml"
    file.write_text("[hosts\n")
    refused(plywire("up", "-f", str(file)), 1, "is not TOML", "line 1")


def test_up_with_a_bad_value_says_key_and_reason(plywire, tmp_path):
    file = tmp_path / "lab.toml"
    file.write_text('[wires.lan]\n[hosts.h1]\ninterfaces = [{ address = "10.0.0.1/24", mtu = 80 }]')
    refused(plywire("up", "-f", str(file)), 1, "hosts.h1.interfaces[0].mtu", "80 is not from 576")


def test_up_with_an_implementation_that_is_not_there(plywire, tmp_path, base):
    file = tmp_path / "lab.toml"
    file.write_text(
        '[lab]\nname = "odd"\n[wires.lan]\n[hosts.h1]\ninterfaces = [{ address = "10.0.0.1/24" }]\n'
        'implementations = { tcp = "nowhere.tcp:create" }\n'
    )
    refused(plywire("up", "-f", str(file)), 1, "h1.tcp cannot start", "there is no module nowhere")
    assert supervisor_of(base / "odd") is None


def test_up_where_no_run_directory_can_be(plywire, base):
    (base / "file").write_text("")
    refused(plywire("--lab", "file", "up"), 1, "is not a directory")
    (base / "file").unlink()


# --- a lab that is up -----------------------------------------------------------------------------


def test_up_prints_addresses_and_targets(up, base):
    head, _, *hosts = up.stdout.splitlines()
    seconds = re.fullmatch(r"lab default is up: 8 layers, ready in (\d+\.\d) s", head)
    assert float(seconds[1]) > 0  # how fast is for benchmarks: this machine may be busy
    assert [line.split() for line in hosts] == [
        [name, address, f"unix:{base}/default/{name}.api.sock"]
        for name, address in (("h1", "10.0.0.1/24"), ("h2", "10.0.0.2/24"))
    ]
    assert up.stderr == ""


def test_up_twice(plywire, up, base):
    pid = supervisor_of(base / "default")
    refused(plywire("up"), 4, f"a lab is already up (pid {pid})", "plywire down")
    assert supervisor_of(base / "default") == pid


def test_other_labs_are_named(plywire, up):
    refused(plywire("--lab", "none", "status"), 3, "up are: default")


def test_status(plywire, up, base):
    done = plywire("status")
    head, columns, *rows = done.stdout.splitlines()
    assert done.returncode == 0
    assert head.startswith("lab default, up ")
    assert columns.split() == ["LAYER", "IMPLEMENTATION", "PID", "UPTIME", "PACKETS/S", "QUEUE",
                               "DROPS", "CPU", "RESTARTS", "HEALTH"]  # fmt: skip
    assert [row.split()[0] for row in rows] == [
        f"{host}.{role}" for host in ("h1", "h2") for role in ("app", "tcp", "ip", "link")
    ]
    assert all(row.split()[-2:] == ["0", "ok"] for row in rows)


def test_get(plywire, up):
    done = plywire("get", "http://h2.lab/index")
    assert (done.returncode, done.stdout.encode(), done.stderr) == (0, BODY, "")
    assert plywire("get", "--host", "h2", "http://10.0.0.2:80/").returncode == 0


def test_get_into_a_full_disk_and_into_head(plywire, up, base):
    environment = os.environ | {"PLYWIRE_RUN_DIR": str(base)}

    def shell(command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, env=environment, timeout=60
        )

    full = shell(f"{PLYWIRE} get http://h2.lab/index > /dev/full")
    refused(full, 1, "the body cannot be written: No space left on device")
    head = shell(f"{PLYWIRE} get http://h2.lab/index | head -n 1")
    assert (head.stdout, head.stderr) == ("a page\n", "")


def test_get_of_a_page_that_is_not_there(plywire, up):
    done = plywire("get", "http://h2.lab/missing")
    assert (done.returncode, done.stdout) == (1, "no such page\n")
    assert done.stderr == "plywire: http://h2.lab/missing: HTTP 404 Not Found\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["http://h2.lab:81/"], "h2.lab:81: Connection refused"),
        (["http://nobody.lab/"], "nobody.lab:80: Name or service not known"),
        (["ftp://h2.lab/"], "only http:// URLs can be fetched"),
        (["http://h2.lab:x/"], "http://h2.lab:x/"),
        (["http://h2.lab/", "--host", "h9"], "no host 'h9' in this lab; there are h1, h2"),
    ],
)
def test_get_refuses(plywire, up, arguments, words):
    refused(plywire("get", *arguments), 1, words)


def test_ping(plywire, up):
    done = plywire("ping", "h1", "h2", "-c", "2", "-i", "0")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "PING h2 (10.0.0.2) 56(84) bytes of data."
    assert re.fullmatch(r"64 bytes from 10\.0\.0\.2: icmp_seq=1 ttl=64 time=[\d.]+ ms", lines[1])
    assert lines[4] == "--- h2 ping statistics ---"
    assert lines[5].startswith("2 packets transmitted, 2 received, 0% packet loss, time ")
    assert lines[6].startswith("rtt min/avg/max/mdev = ")


def test_ss(plywire, up, base):
    with (
        Stack.find("h1") as h1,
        h1.create_connection(("h2.lab", 80), timeout=10) as client,
    ):
        name, port = client.getsockname()
        host, *row = "h1", "ESTAB", "0", "0", f"{name}:{port}", "10.0.0.2:80"
        lines = [line.split() for line in plywire("ss").stdout.splitlines()]
        assert lines[0] == ["Host", "State", "Recv-Q", "Send-Q", "Local", "Address:Port",
                            "Peer", "Address:Port"]  # fmt: skip
        assert [host, *row] in lines
        assert ["h2", "ESTAB", "0", "0", "10.0.0.2:80", f"{name}:{port}"] in lines
        lines = [line.split() for line in plywire("ss", "--host", "h1").stdout.splitlines()]
        assert lines[0][0] == "State"
        assert row in lines
        listening = plywire("ss", "-l").stdout.splitlines()[1:]
        assert [line.split() for line in listening] == [
            ["h2", "LISTEN", "0", "128", "0.0.0.0:80", "0.0.0.0:*"]
        ]
    everything = plywire("ss", "-a").stdout
    assert "LISTEN" in everything
    assert "TIME-WAIT" in everything
    refused(plywire("ss", "--host", "h9"), 1, "no host 'h9'")


def test_connect_and_trace(plywire, up, tmp_path):
    capture = tmp_path / "connect.pcapng"
    done = plywire("connect", "h1", "h2:80", "--width", "100", "-o", str(capture))
    assert done.returncode == 0, done.stderr
    assert "ESTABLISHED" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert capture.read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"
    trace = re.search(r"plywire trace (\d+)", done.stdout)[1]
    done = plywire("trace", trace)
    assert (done.returncode, done.stderr) == (0, "")
    assert "SYN" in done.stdout
    assert plywire("trace", hex(int(trace))).returncode == 0


def test_trace_of_an_unknown_id(plywire, up):
    refused(plywire("trace", "12345"), 1, "12345")


def test_connect_where_nobody_listens(plywire, up, tmp_path):
    done = plywire("connect", "h1", "h2:81", "-o", str(tmp_path / "refused.pcapng"))
    assert done.returncode == 1
    assert "RST" in done.stdout
    assert "Connection refused" in done.stdout + done.stderr


def test_connect_from_or_to_nowhere(plywire, up, tmp_path):
    output = ("-o", str(tmp_path / "nowhere.pcapng"))
    refused(plywire("connect", "h9", "h2:80", *output), 1, "h9")
    assert plywire("connect", "h1", "nobody:80", *output).returncode == 1


def test_logs(plywire, up):
    done = plywire("logs")
    assert all(f"{host}.{role} INFO" in done.stdout
               for host in ("h1", "h2") for role in ("app", "tcp", "ip", "link"))  # fmt: skip
    only = plywire("logs", "h1.tcp", "-n", "1").stdout
    assert only.count("\n") == 1
    assert " h1.tcp INFO " in only
    assert " h1.ip INFO " in plywire("logs", "h1").stdout
    refused(plywire("logs", "h9"), 1, "no host 'h9' in this lab; there are h1, h2")
    refused(plywire("logs", "h1.udp"), 1, "no layer 'udp'; there are app, tcp, ip, link")


def test_logs_into_head(up, base):
    pipe = f"{PLYWIRE} logs -n 10000 | head -n 1"
    environment = os.environ | {"PLYWIRE_RUN_DIR": str(base)}
    done = subprocess.run(["sh", "-c", pipe], capture_output=True, text=True, env=environment)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command", ["--help", "up --help", "status", "ss", "logs -n 10000", "counters --json",
                "get http://h2.lab/", "exp compare --help", "capture --help"]
)  # fmt: skip
def test_who_reads_nothing_more_ends_a_printing_command_quietly(up, base, command):
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | {"PLYWIRE_RUN_DIR": str(base)}
    done = subprocess.run([PLYWIRE, *command.split()], stdout=write, stderr=subprocess.PIPE,
                          text=True, env=environment, timeout=60)  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_logs_follow_until_interrupted(up, base, plywire):
    with subprocess.Popen(
        [PLYWIRE, "logs", "h1.link", "-f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PLYWIRE_RUN_DIR": str(base)},
    ) as process:
        assert "h1.link INFO" in process.stdout.readline()
        rows = plywire("status").stdout.splitlines()
        pid = next(row.split()[2] for row in rows if row.startswith("h1.link"))
        os.kill(int(pid), signal.SIGKILL)
        while "killed by SIGKILL; starting it again at once" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=10)
    assert (process.returncode, words.strip()) == (130, "")


# --- coming and going -----------------------------------------------------------------------------


def test_down_waits_until_all_is_gone(plywire, base):
    assert plywire("--lab", "brief", "up").returncode == 0
    pid = supervisor_of(base / "brief")
    done = plywire("--lab", "brief", "down")
    assert (done.returncode, done.stdout) == (0, f"lab brief is down (was pid {pid})\n")
    assert not runs(pid)
    assert sorted(path.name for path in (base / "brief").iterdir()) == ["lab.lock", "logs"]
    refused(plywire("--lab", "brief", "down"), 3, "no lab 'brief' is up")


def test_name_in_the_file_names_the_lab(plywire, base, tmp_path):
    file = tmp_path / "lab.toml"
    file.write_text(
        '[lab]\nname = "one"\n[wires.lan]\n[hosts.a]\ninterfaces = [{ address = "10.9.0.1/24" }]'
    )
    assert plywire("up", "-f", str(file)).stdout.startswith("lab one is up: 4 layers")
    assert supervisor_of(base / "one") is not None
    assert "a.app" in plywire("--lab", "one", "status").stdout
    assert plywire("--lab", "one", "down").returncode == 0


def test_down_of_a_lab_that_a_program_holds(plywire, base):
    with Lab(directory=base / "held"):
        refused(plywire("--lab", "held", "down"), 1, "has no control service", str(os.getpid()))
    assert supervisor_of(base / "held") is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_foreground_ends_with_a_signal(base, number):
    with subprocess.Popen(
        [PLYWIRE, "--lab", "front", "up", "--foreground"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PLYWIRE_RUN_DIR": str(base)},
    ) as process:
        assert "lab front is up" in process.stdout.readline()
        assert supervisor_of(base / "front") == process.pid
        process.send_signal(number)
        _, words = process.communicate(timeout=10)
    assert (process.returncode, words) == (0, "")
    assert sorted(path.name for path in (base / "front").iterdir()) == ["lab.lock", "logs"]


def test_killed_daemon_takes_its_layers_along_and_up_works_again(plywire, base):
    assert plywire("--lab", "killed", "up").returncode == 0
    rows = plywire("--lab", "killed", "status").stdout.splitlines()[2:]
    watched = [os.pidfd_open(int(row.split()[2])) for row in rows]
    os.kill(supervisor_of(base / "killed"), signal.SIGKILL)
    assert plywire("--lab", "killed", "up").returncode == 0
    for pidfd in watched:
        assert select.select([pidfd], [], [], 0)[0]
        os.close(pidfd)
    assert plywire("--lab", "killed", "down").returncode == 0
    assert not places.api_path(base / "killed", "h1").exists()
