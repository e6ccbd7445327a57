"""A program whose host's API dies under it, and comes back without its sockets."""

import os
import select
import signal
import threading
from dataclasses import replace

import pytest

from plywire.client import ApiDown, Stack
from plywire.lab.supervisor import Lab
from plywire.runtime import config as places


@pytest.fixture(scope="module")
def small_lab():
    """A lab of this module's own, because its layers are killed, and its apps keep nothing."""
    config = places.load_lab()
    hosts = {name: replace(host, app=replace(host.app, survive=False))
             for name, host in config.hosts.items()}  # fmt: skip
    with Lab(replace(config, hosts=hosts)) as lab:
        yield lab


def kill_app(lab, host):
    before = lab.layer(host, "app")
    os.kill(before.pid, signal.SIGKILL)
    return lambda: lab.wait_for(
        lambda lab: (now := lab.layer(host, "app")).state == "up" and now.pid != before.pid, 30
    )


def test_calls_fail_clearly_and_the_stack_recovers(small_lab):
    with Stack(small_lab.target("h1")) as h1, Stack(small_lab.target("h2")) as h2:
        listener = h2.create_server(("10.0.0.2", 0))
        client = h1.create_connection(listener.getsockname(), timeout=30)
        served, _ = listener.accept()
        served.settimeout(30)
        assert not select.select([client], [], [], 0)[0]
        is_back = kill_app(small_lab, "h1")
        assert select.select([client], [], [], 30)[0]  # woken to find out
        with pytest.raises(ApiDown):
            client.recv(1)
        with pytest.raises(ApiDown):
            client.send(b"x")
        client.close()
        assert is_back()
        # The peer learns of it from h1's tcp: its program is gone.
        with pytest.raises(ConnectionResetError):
            served.recv(1)
        with h1.create_connection(listener.getsockname(), timeout=30) as again:
            again.sendall(b"here again")
            assert listener.accept()[0].recv(100) == b"here again"


def test_a_blocked_call_ends_when_the_api_dies(small_lab):
    with Stack(small_lab.target("h1")) as h1:
        listener = h1.create_server(("10.0.0.1", 0))
        errors = []

        def accept():
            try:
                listener.accept()
            except ApiDown as error:
                errors.append(error)

        thread = threading.Thread(target=accept)
        thread.start()
        is_back = kill_app(small_lab, "h1")
        thread.join(30)
        assert errors
        assert is_back()
