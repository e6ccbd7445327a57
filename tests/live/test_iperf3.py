"""Debian's iperf3 server on the kernel's TCP, and a client of its protocol on plywire's."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from examples.iperf3 import PORT, measure
from tests.live.conftest import KERNEL
from tests.live.judge import PROBES, TAIL_PROBES

SIZE = 20_000_000


@pytest.fixture
def iperf3(setup):
    """A server for one test; it ends after it."""
    if not shutil.which("iperf3"):
        pytest.skip("needs iperf3")
    server = setup.popen("iperf3", "-s", "-1", "-B", KERNEL, "-p", str(PORT), "--forceflush",
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    try:
        while "Server listening" not in (line := server.stdout.readline()):
            assert line, "iperf3 has ended"
        yield server
        output, _ = server.communicate(timeout=20)
        assert server.returncode == 0, output
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("reverse", [False, True], ids=["to the kernel", "from the kernel"])
def test_iperf3_measures_a_stream(setup, iperf3, capture, capsys, reverse):
    capture.also_expected = TAIL_PROBES + PROBES  # of a byte: to tshark a keep-alive

    def connect():
        return setup.stack.create_connection((KERNEL, PORT), timeout=60)

    size, seconds, results = measure(connect, SIZE, reverse)
    with capsys.disabled():
        way = "sends" if reverse else "receives"
        print(f"\n  iperf3 {way} {size * 8 / seconds / 1e6:.0f} Mbit/s")
    # What is in the buffers when the sender has done is not in the receiver's count.
    assert SIZE * 0.8 < size <= SIZE * 1.01
    assert results["streams"][0]["bytes"] >= size
