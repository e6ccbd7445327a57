"""`docker compose up`, READY: what containers may do, and what reaches the lab."""

from __future__ import annotations

import json
import re
import sys
from urllib.request import urlopen

import pytest

from plywire.client import Stack
from tests.compose.conftest import LAYERS, ROOT, run, wait_until


def test_up_wait_returns_when_the_lab_works(up):
    log = up.logs("lab")
    assert "8 layers are up, one container each" in log
    assert f"127.0.0.1:{up.ports['H2']}" in log
    assert up.target in log
    for part in ("+TCP SYN ", "+TCP SYN+ACK ", "SYN-RECEIVED -> ESTABLISHED", "handshake: "):
        assert part in log, "the first handshake's diagram"
    assert log.rstrip().endswith("READY")
    assert up.inspect("lab")["State"]["Health"]["Status"] == "healthy"


@pytest.mark.parametrize("service", [*LAYERS, "lab", "h2-web"])
def test_a_container_may_do_little(up, service):
    item = up.inspect(service)
    host = item["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["ReadonlyRootfs"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Init"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert not host["Privileged"]
    assert item["Config"]["User"] not in ("", "0", "root")
    status = run("docker", "exec", up.container(service), "cat", "/proc/self/status")
    words = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert words["Uid"].split() == ["65534"] * 4
    assert int(words["CapEff"], 16) == int(words["CapBnd"], 16) == 0
    assert words["NoNewPrivs"] == "1"
    for bindings in (host["PortBindings"] or {}).values():
        assert {binding["HostIp"] for binding in bindings} == {"127.0.0.1"}


def test_roots_are_read_only_and_pipes_are_their_users_alone(up):
    where = "/run/plywire", "/opt/plywire/x", "/etc/x"
    script = (
        f"stat -c '%a %u' {where[0]}; touch {where[1]} {where[2]}; touch /tmp/x && echo tmp works"
    )
    said = run("docker", "exec", up.container("h1-tcp"), "sh", "-c", script)
    assert "700 65534\n" in said
    assert said.count("Read-only file system") == 2
    assert "tmp works" in said


@pytest.mark.parametrize("service", ["h1-ip", "h1-tcp", "h2-ip", "h2-tcp"])
def test_tcp_and_ip_have_no_network(up, service):
    assert up.inspect(service)["HostConfig"]["NetworkMode"] == "none"
    devices = run("docker", "exec", up.container(service), "cat", "/proc/net/dev")
    assert [line.split(":")[0].strip() for line in devices.splitlines()[2:]] == ["lo"]
    address = up.inspect("lab")["NetworkSettings"]["Networks"][f"{up.name}_api"]["IPAddress"]
    reach = f"import socket; socket.create_connection(('{address}', 7440), 5)"
    said = run("docker", "exec", up.container(service), "python", "-c", reach, check=False)
    assert "Network is unreachable" in said
    reached = run("docker", "exec", up.container("h1-app"), "python", "-c", reach)
    assert reached == "", "the same from where there is a network"


def test_links_see_one_another_and_nothing_else(up):
    for service in ("h1-link", "h2-link"):
        assert list(up.inspect(service)["NetworkSettings"]["Networks"]) == [f"{up.name}_wire"]
    network = run("docker", "network", "inspect", "-f", "{{.Internal}}", f"{up.name}_wire")
    assert network.strip() == "true"


def test_the_command_line_reaches_the_lab_from_outside(up):
    assert up.plywire("status").count(" ok") == 8
    assert "# The lab" in up.plywire("get", "http://h2.lab/lab.md")
    assert "SYN-RECEIVED -> ESTABLISHED" in up.plywire("connect", "h1", "h2:80")
    assert "1 received" in up.plywire("ping", "h1", "h2", "-c", "1")
    assert "0.0.0.0:80" in up.plywire("ss", "-l")


def test_the_command_line_in_a_container(up):
    cli = ("run", "--rm", "-T", "cli")
    assert "SYN-RECEIVED -> ESTABLISHED" in up.compose(*cli, "connect", "h1", "h2:80")
    assert "# The lab" in up.compose(*cli, "get", "http://h2.lab/lab.md")
    assert "h2.link" in up.compose(*cli, "status")


def test_what_belongs_to_docker_is_said_to(up):
    assert "docker compose logs h1-tcp" in up.plywire("logs", "h1.tcp", check=False)
    assert "docker compose down" in up.plywire("down", check=False)
    said = up.plywire("up", check=False)
    assert "PLYWIRE_TARGET" in said


def test_a_program_finds_its_hosts_by_the_lab(up):
    environment = {**up.environment, "PLYWIRE_TARGET": up.target}
    said = run(sys.executable, ROOT / "examples" / "hello.py", env=environment)
    assert "over four processes down and four up" in said


def test_the_board_shows_what_there_is(up):
    url = f"http://127.0.0.1:{up.ports['METRICS']}/metrics?connections=1"
    with Stack(f"127.0.0.1:{up.ports['H1']}") as h1, h1.create_connection(("h2", 80), timeout=10):
        text = urlopen(url, timeout=10).read().decode()
    for host in ("h1", "h2"):
        assert f'plywire_up{{host="{host}",layer="link"}} 1.0' in text
    board = (ROOT / "deploy/metrics/boards/plywire.json").read_text()
    names = {name for panel in json.loads(board)["panels"] for target in panel["targets"]
             for name in re.findall(r"plywire_\w+", target["expr"])}  # fmt: skip
    assert len(names) >= 6
    for name in names:
        assert re.search(rf"^{name}\{{", text, re.MULTILINE), name


def test_a_station_from_outside_joins_the_wire(up):
    said = run(
        "docker", "run", "--rm", "--network", f"{up.name}_wire", "--hostname", "station",
        "--name", f"{up.name}-station", "--network-alias", "station", up.image,
        "sh", "-c", "exec python examples/station.py tcp://h2-link:7001 10.0.0.2 80"
        ' "tcp://$(hostname -i):7001"',
    )  # fmt: skip
    assert "SYN, SYN+ACK, ACK" in said
    assert "FIN, ACK, FIN, ACK" in said


def test_a_second_container_of_a_layer_is_refused(up):
    said = up.compose("run", "--rm", "-T", "h1-tcp", check=False)
    owner = up.inspect("h1-tcp")["Config"]["Hostname"]
    assert f"on {owner}: stop it first" in said
    assert up.plywire("status").count(" ok") == 8


def test_a_container_that_is_missing_is_named(up):
    up.compose("stop", "-t", "2", "h2-tcp")
    try:
        wait_until(lambda: "missing: h2.tcp" in up.logs("lab"), "the loss is told")
        status = up.plywire("status", check=False)
        assert any("h2.tcp" in line and "down" in line for line in status.splitlines())
        up.compose("restart", "-t", "2", "lab")
        named = "still missing after 10 s: h2.tcp;"
        wait_until(lambda: named in up.logs("lab"), "it is named after 10 s")
        assert "docker compose logs h2-tcp" in up.logs("lab")
        assert up.inspect("lab")["State"]["Health"]["Status"] != "healthy"
    finally:
        up.compose("start", "h2-tcp")
    health = lambda: up.inspect("lab")["State"]["Health"]["Status"]  # noqa: E731
    wait_until(lambda: health() == "healthy", "the lab works again")
    assert up.logs("lab").rstrip().endswith("READY")


def test_profiles_three_and_tap(up):
    up.compose("--profile", "three", "--profile", "tap", "up", "-d", "--wait")
    try:
        wait_until(lambda: up.plywire("status", check=False).count(" ok") == 20, "20 layers")
        wait_until(lambda: ":80" in up.plywire("ss", "-l", "--host", "h3"), "the server on h3")
        assert "# The lab" in up.plywire("get", "http://h3.lab/lab.md"), "by way of r1"
        assert "ttl=63" in up.plywire("ping", "h1", "h3", "-c", "1")
        host = up.inspect("t1-link")["HostConfig"]
        assert sorted(host["CapAdd"]) == ["NET_ADMIN", "SETGID", "SETUID"]
        assert [item["PathOnHost"] for item in host["Devices"]] == ["/dev/net/tun"]
        link = "import os; print(open('/proc/%d/status' % max(int(p) for p in os.listdir('/proc')"
        link += " if p.isdigit() and int(p) != os.getpid() and"
        link += " 'services.link' in open(f'/proc/{p}/cmdline').read())).read())"
        status = run("docker", "exec", up.container("t1-link"), "python", "-c", link)
        assert "CapEff:\t0000000000000000" in status, "the link itself has no privilege"
        assert "Uid:\t65534" in status
        wait_until(lambda: ":80" in up.plywire("ss", "-l", "--host", "t1"), "the server on t1")
        fetch = "import urllib.request as u; print(u.urlopen('http://10.0.9.2/lab.md').read(9))"
        said = run("docker", "exec", up.container("t1-link"), "python", "-c", fetch)
        assert "# The lab" in said, "by the kernel's sockets"
        assert "done: pause " in up.plywire("swap", "t1.link"), "the TAP goes from one to the other"
        said = run("docker", "exec", up.container("t1-link"), "python", "-c", fetch)
        assert "# The lab" in said
    finally:
        names = [name for name in up.services() if name[:2] in ("r1", "h3", "t1")]
        up.compose("--profile", "*", "rm", "-sf", *names)
