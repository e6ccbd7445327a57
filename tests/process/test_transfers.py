"""Transfers between processes: layers killed in the middle, clients killed, readers that stop."""

from __future__ import annotations

import os
import signal

import pytest

from tests.process.programs import block, digest
from tests.process.running import DEADLINE, program, wait_until

SIZE = 30_000_000
H2 = "10.0.0.2"


def kill(lab, host, role):
    """kill -9 a layer, and wait until the supervisor has it up again under another pid."""
    old = lab.layer(host, role).pid
    os.kill(old, signal.SIGKILL)
    assert lab.wait_for(
        lambda lab: lab.layer(host, role).state == "up" and lab.layer(host, role).pid != old,
        DEADLINE,
    )


def test_bytes_arrive_as_they_were_sent(lab):
    with program("receiver", lab.target("h2"), 0, 1) as receiver:
        port = receiver.expect("listening")["port"]
        with program("sender", lab.target("h1"), H2, port, SIZE) as sender:
            sender.expect("connected")
            receiver.expect("progress")
            assert receiver.expect("end") == {"bytes": SIZE, "sha256": digest(SIZE)}
            sender.expect("sent")
            sender.expect("closed")


@pytest.mark.parametrize("host", ["h1", "h2"])
@pytest.mark.parametrize("role", ["link", "ip"])
def test_a_layer_killed_in_mid_transfer_costs_nothing(lab, host, role):
    with program("receiver", lab.target("h2"), 0, SIZE // 10) as receiver:
        port = receiver.expect("listening")["port"]
        with program("sender", lab.target("h1"), H2, port, SIZE) as sender:
            sender.expect("connected")
            receiver.expect("progress")
            kill(lab, host, role)
            assert receiver.expect("end") == {"bytes": SIZE, "sha256": digest(SIZE)}
            sender.expect("sent")
            sender.expect("closed")


def test_a_client_killed_in_mid_send_is_closed_by_its_host(lab, stacks):
    """Its session ends with it; the bytes that were taken arrive, then the end of the stream."""
    stack = stacks["h2"]
    with stack.create_server(("", 0)) as server:
        server.settimeout(DEADLINE)
        with program("endless_sender", lab.target("h1"), H2, server.getsockname()[1]) as sender:
            connection, _ = server.accept()
            connection.settimeout(DEADLINE)
            sender.expect("connected")
            with connection:
                total = len(connection.recv(1))
                sender.kill()
                start = connection.recv(1 << 20)
                received = start
                while start:
                    start = connection.recv(1 << 20)
                    received += start
                total += len(received)
    whole = block(1 << 16)
    expected = whole * (total // len(whole) + 1)
    assert received == expected[1:total]


def test_a_client_that_listens_and_is_killed_leaves_its_port(lab, stacks):
    with program("receiver", lab.target("h2"), 0, 1) as receiver:
        port = receiver.expect("listening")["port"]
        receiver.kill()

    def free():
        try:
            stacks["h2"].create_server(("", port)).close()
        except OSError:
            return False
        return True

    wait_until(free, f"port {port} is free again")


def test_a_reader_that_stops_stops_the_sender_and_nothing_is_lost(lab, stacks):
    size = 16_000_000
    with stacks["h2"].create_server(("", 0)) as server:
        server.settimeout(DEADLINE)
        with program("sender", lab.target("h1"), H2, server.getsockname()[1], size) as sender:
            connection, _ = server.accept()
            connection.settimeout(DEADLINE)
            port = sender.expect("connected")["port"]
            with connection:

                def window():
                    return next(
                        row["snd_wnd"]
                        for row in layer_view(lab, "h1", "tcp", "connections")
                        if row["local"].endswith(f":{port}")
                    )

                wait_until(lambda: window() == 0, "the sender sees a window of 0")
                received = b""
                while data := connection.recv(1 << 20):
                    received += data
            assert received == block(size)
            sender.expect("sent")
            sender.expect("closed")


def layer_view(lab, host, role, topic):
    from plywire.runtime.config import control_endpoint
    from plywire.runtime.observer import ask

    return ask(control_endpoint(lab.directory, host, role), "describe", topic, timeout=10)
