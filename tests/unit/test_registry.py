from __future__ import annotations

import pytest

from plywire import config
from plywire.config import HostConfig
from plywire.errors import ConfigError
from plywire.registry import implementation, load


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
