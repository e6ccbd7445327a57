from __future__ import annotations

import json

import pytest

from plywire import config
from plywire.config import HostConfig
from plywire.errors import ConfigError
from plywire.layer import Program
from plywire.registry import find, implementation, load
from plywire.runtime import program


def test_a_factory_is_found_by_module_and_name():
    assert load("plywire.config:host") is config.host


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("plywire.config", "module:factory"),
        ("plywire.config:host:more", "module:factory"),
        (":create", "module:factory"),
        ("plywire.config:", "module:factory"),
        ("plywire.nowhere:create", "there is no module plywire.nowhere"),
        ("nowhere.at.all:create", "there is no module nowhere"),
        ("plywire.config:nothing", "has no nothing"),
        ("plywire.config:SECOND", "SECOND is not a factory but of type int"),
        ("..config:host", "module:factory"),
    ],
)
def test_a_wrong_name_is_refused_with_its_reason(spec, reason):
    with pytest.raises(ConfigError) as caught:
        load(spec)
    assert reason in str(caught.value)
    assert spec in str(caught.value)


def test_a_module_that_needs_a_missing_one_says_so(tmp_path, monkeypatch):
    (tmp_path / "needy_layer.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="needy_layer needs the module surely_not_installed"):
        load("needy_layer:create")


def test_a_host_names_another_implementation():
    host = HostConfig("h1", (), implementations={"link": "services.link.raw:create"})
    assert implementation(host, "link") == "services.link.raw:create"
    assert implementation(host, "tcp") == "services.tcp:create"


def test_a_program_is_found_but_is_no_factory():
    assert isinstance(find("services.ip_js:PROGRAM"), Program)
    with pytest.raises(ConfigError, match="is a program of its own"):
        load("services.ip_js:PROGRAM")


def test_a_program_is_told_what_its_role_needs(tmp_path):
    item = config.host(
        "h1", "10.0.0.1/24", routes=(config.RouteConfig(bytes(4), 0, b"\x0a\0\0\2"),)
    )
    told = json.loads(program.command(Program("ip", ("true",)), program.settings(
        "ip", item, tmp_path, "mine:PROGRAM", True
    ))[-1])  # fmt: skip
    assert told == {
        "role": "ip", "host": "h1", "directory": str(tmp_path), "implementation": "mine:PROGRAM",
        "supervised": True, "successor": False, "forwarding": False,
        "interfaces": [{"name": "eth0", "ifindex": 1, "address": "10.0.0.1/24",
                        "mac": "02:00:0a:00:00:01", "mtu": 1500}],
        "routes": [{"to": "0.0.0.0/0", "via": "10.0.0.2"}],
        "ip": {"ttl": 64, "reassembly_timeout": 30_000_000_000, "reassembly_bytes": 4 << 20,
               "icmp_rate": 1000, "icmp_burst": 50},
    }  # fmt: skip


def test_a_program_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="no-such-program: is not on this machine"):
        program.check(Program("ip", ("no-such-program", "x")), "ip")
