"""Run directory, endpoints, lab files, and a lab written back to a file."""

from __future__ import annotations

import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from plywire.config import SECOND, LabConfig, TcpConfig, host, parse
from plywire.errors import ConfigError
from plywire.lab.dump import dump_lab
from plywire.runtime import config as places

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv("PLYWIRE_RUN_DIR", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


def test_run_dir_prefers_plywire_run_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    monkeypatch.setenv("PLYWIRE_RUN_DIR", str(tmp_path))
    assert places.run_dir("one") == tmp_path / "one"


def test_run_dir_in_xdg_runtime_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert places.run_dir() == tmp_path / "plywire" / "default"


def test_run_dir_in_tmp_bears_the_user():
    assert places.run_dir() == Path(f"/tmp/plywire-{os.geteuid()}/default")


@pytest.mark.parametrize("name", ["", "../up", "a/b", "x" * 33])
def test_run_dir_refuses_a_name_that_is_a_path(name):
    with pytest.raises(ConfigError, match="a lab's name is"):
        places.run_dir(name)


def test_run_dir_refuses_what_is_not_a_directory(monkeypatch, tmp_path):
    (tmp_path / "lab").symlink_to("/tmp")
    monkeypatch.setenv("PLYWIRE_RUN_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match="not a directory"):
        places.run_dir("lab")


def test_run_dir_refuses_a_directory_of_somebody_else(monkeypatch, tmp_path):
    (tmp_path / "lab").mkdir()
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    monkeypatch.setenv("PLYWIRE_RUN_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match=f"belongs to user {me}, not to you"):
        places.run_dir("lab")


def test_make_run_dir_is_for_this_user_alone(tmp_path):
    directory = tmp_path / "deep" / "lab"
    places.make_run_dir(directory)
    places.make_run_dir(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "logs").is_dir()


def test_make_run_dir_where_a_file_is(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="set PLYWIRE_RUN_DIR"):
        places.make_run_dir(tmp_path / "file" / "lab")


def test_endpoint_names():
    assert places.inbox("/r", "h1", "tcp", "ip") == "ipc:///r/h1.tcp.from-ip"
    assert places.trace_endpoint("/r", "h1", "ip") == "ipc:///r/h1.ip.trace"
    assert places.control_endpoint("/r", "h1", "ip") == "ipc:///r/h1.ip.control"
    assert places.wire_endpoint("/r", "h1", "eth0") == "ipc:///r/h1.eth0.wire"
    assert places.lab_target("/r") == "unix:/r/control.sock"


def test_endpoint_longer_than_a_socket_path_is_refused_with_a_remedy():
    fits = "/" + "d" * (places.IPC_PATH_MAX - 1 - len("/h1.tcp.from-ip"))
    places.inbox(fits, "h1", "tcp", "ip")
    with pytest.raises(ConfigError, match="set PLYWIRE_RUN_DIR to a shorter"):
        places.inbox(fits + "d", "h1", "tcp", "ip")


def test_default_lab_has_two_hosts_on_one_wire():
    lab = places.load_lab()
    assert [(item.name, item.interfaces[0].wire) for item in lab.hosts.values()] == [
        ("h1", "lan"),
        ("h2", "lan"),
    ]
    assert lab.names["h2.lab"] == bytes((10, 0, 0, 2))


def test_annotated_lab_file_is_the_default_lab():
    assert places.load_lab(ROOT / "lab.toml") == places.load_lab()


def test_load_lab_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        places.load_lab(tmp_path / "no.toml")


def test_load_lab_not_toml_says_the_line(tmp_path):
    file = tmp_path / "lab.toml"
    file.write_text("[lab]\nname = \n")
    with pytest.raises(ConfigError, match=r"is not TOML: .*line 2"):
        places.load_lab(file)


def test_load_lab_not_text(tmp_path):
    file = tmp_path / "lab.toml"
    file.write_bytes(b"# \xff\n")
    with pytest.raises(ConfigError, match=r"not UTF-8 text \(byte 2\)"):
        places.load_lab(file)


def test_load_lab_bad_value_says_key_and_reason(tmp_path):
    file = tmp_path / "lab.toml"
    file.write_text('[hosts.h1]\ninterfaces = [{ address = "10.0.0.1" }]\n[wires.lan]\n')
    with pytest.raises(ConfigError, match=r"hosts\.h1\.interfaces\[0\]"):
        places.load_lab(file)


def _round_trip(lab: LabConfig) -> LabConfig:
    return parse(tomllib.loads(dump_lab(lab)))


def test_dump_of_the_default_lab_reads_back():
    lab = places.load_lab()
    assert _round_trip(lab) == lab


def test_dump_of_every_kind_of_value_reads_back():
    lab = parse(
        tomllib.loads(
            """
            [lab]
            name = "both"
            [wires.lan]
            [wires.wan]
            [hosts.r]
            interfaces = [
              { address = "10.0.0.1/24", wire = "lan", mtu = 9000, listen = "tcp://127.0.0.1:40" },
              { address = "10.1.0.1/16", wire = "wan", name = "up0", peers = ["tcp://a:1", "x"] },
              { address = "10.2.0.1/30", device = "tap", tap = "tap0", mac = "02:01:02:03:04:05" },
            ]
            routes = [{ to = "0.0.0.0/0", via = "10.1.0.254" }]
            forwarding = false
            [hosts.r.implementations]
            tcp = "mine.tcp:create"
            [hosts.r.tcp]
            rto_min = 0.3
            window_scaling = false
            congestion = "newreno"
            backlog_max = 7
            [hosts.r.link]
            arp_lifetime = 1.5
            [hosts.r.app]
            listen = "127.0.0.1:4430"
            [names]
            "odd.name" = "10.9.9.9"
            """
        )
    )
    assert _round_trip(lab) == lab


def test_dump_of_a_lab_made_by_a_program():
    first = host("h1", "10.0.0.1/24", tcp=TcpConfig(rto_min=123 * SECOND // 1000))
    lab = LabConfig("made", {"h1": first}, {})
    again = _round_trip(lab)
    assert replace(again.hosts["h1"], names={}) == first


def test_dump_escapes_text():
    lab = places.load_lab()
    odd = replace(lab.hosts["h1"].interfaces[0], listen='ipc://a"b\\c\nd')
    hosts = {"h1": replace(lab.hosts["h1"], interfaces=(odd,))}
    assert _round_trip(replace(lab, hosts=hosts)).hosts["h1"].interfaces[0].listen == odd.listen
