"""`plywire impair`: what the commands do to frames of a running lab, and what they refuse."""

from __future__ import annotations

import json
import os
import random
import signal
import threading

import pytest

from plywire.client import Stack
from plywire.lab.control import LabClient
from tests.process.commanded import QUIET, Commands
from tests.process.running import wait_until


@pytest.fixture(scope="module")
def plywire(tmp_path_factory):
    commands = Commands(tmp_path_factory.mktemp("labs"))
    commands.up(QUIET)
    yield commands
    try:
        commands.do("down")
    finally:
        commands.end()


@pytest.fixture
def client(plywire):
    with LabClient(plywire.directory()) as client:
        client.ask("h1", "ip", "ping", "10.0.0.2", 56, 10_000)  # both know each other's address
        yield client
    plywire.do("impair", "reset")


def shown(plywire) -> dict[str, dict]:
    rows = json.loads(plywire.do("impair", "show", "--json"))
    return {f"{row['from']}>{row['to']}": row for row in rows}


def test_nothing_is_impaired_at_first(plywire, client):
    assert plywire.do("impair", "show") == "nothing is impaired\n"
    assert shown(plywire) == {}


def test_a_delay_in_both_directions(plywire, client):
    said = plywire.do("impair", "set", "h1-h2", "--delay", "20ms", "--seed", "7")
    assert said == "h1>h2 delay 20ms, seed 7\nh2>h1 delay 20ms, seed 7\n"
    assert client.ask("h1", "ip", "ping", "10.0.0.2", 56, 5000)["rtt_ns"] >= 40_000_000
    rows = shown(plywire)
    assert set(rows) == {"h1>h2", "h2>h1"}
    assert rows["h1>h2"]["settings"]["delay"] == 20_000_000
    assert rows["h1>h2"]["counts"] == {"sent": 1}


def test_one_direction_alone(plywire, client):
    plywire.do("impair", "set", "h2>h1", "--loss", "100%")
    done = plywire("ping", "h1", "h2", "-c", "1", "-W", "0.2")
    assert done.returncode == 1
    rows = shown(plywire)
    assert set(rows) == {"h2>h1"}
    assert rows["h2>h1"]["counts"] == {"sent": 1, "lost": 1}
    assert plywire.do("impair", "reset", "h1-h2") == "1 line reset\n"
    plywire.do("ping", "h1", "h2", "-c", "1")


def test_settings_are_changed_one_by_one_and_shown_as_given(plywire, client):
    plywire.do("impair", "set", "h1>h2", "--delay", "1.5ms", "--jitter", "200us", "--seed", "3")
    said = plywire.do("impair", "set", "h1>h2", "--loss", "0.5%", "--dup", "1%", "--reorder", "2%",
                      "--reorder-by", "3ms", "--corrupt", "4%", "--rate", "10mbit",
                      "--queue", "50", "--ecn-mark", "3%", "--ecn-queue", "20")  # fmt: skip
    words = (
        "delay 1.5ms jitter 200us loss 0.5% ecn-mark 3% dup 1% reorder 2% corrupt 4% reorder-by 3ms"
        " rate 10mbit queue 50 ecn-queue 20"
    )
    assert said == f"h1>h2 {words}, seed 3\n"
    head, row = plywire.do("impair", "show").splitlines()
    assert head.split() == ["LINK", "SENT", "LOST", "ECN-MARKED", "DUPLICATED",
                            "REORDERED", "CORRUPTED", "QUEUE-FULL", "DROP-NEXT", "HELD", "SEED",
                            "SETTINGS"]  # fmt: skip
    assert row.startswith("h1>h2 ")
    assert row.endswith(f"  3     {words}")
    said = plywire.do("impair", "set", "h1>h2", "--rate", "0", "--loss", "0%", "--delay", "0")
    assert "rate" not in said
    assert "loss" not in said
    assert "delay" not in said


def test_the_next_frames_are_lost(plywire, client):
    assert plywire.do("impair", "drop-next", "h1>h2", "2") == "h1>h2 loses the next 2\n"
    assert shown(plywire)["h1>h2"]["drop_next"] == 2
    assert plywire("ping", "h1", "h2", "-c", "3", "-i", "0", "-W", "0.2").stdout.count("ttl=") == 1
    row = shown(plywire)["h1>h2"]
    assert (row["drop_next"], row["counts"]) == (0, {"sent": 3, "dropped_on_request": 2})


def test_a_transfer_over_a_bad_wire_arrives_whole(plywire, client):
    plywire.do("impair", "set", "h1-h2", "--loss", "2%", "--dup", "2%", "--reorder", "2%",
               "--corrupt", "1%", "--delay", "1ms", "--jitter", "1ms", "--seed", "1")  # fmt: skip
    data = random.Random(1).randbytes(500_000)
    got = bytearray()

    def read(server) -> None:
        peer, _ = server.accept()
        with peer:
            while part := peer.recv(65_536):
                got.extend(part)

    with (
        Stack(client.target("h1")) as h1,
        Stack(client.target("h2")) as h2,
        h2.create_server(("", 0)) as server,
    ):
        thread = threading.Thread(target=read, args=(server,), daemon=True)
        thread.start()
        with h1.create_connection(("10.0.0.2", server.getsockname()[1])) as sock:
            sock.sendall(data)
        thread.join(120)
        assert not thread.is_alive()
    assert bytes(got) == data
    counts = shown(plywire)["h1>h2"]["counts"]
    assert all(counts[name] for name in ("lost", "duplicated", "reordered", "corrupted"))


def test_a_link_that_is_started_again_goes_on_impairing(plywire, client):
    plywire.do("impair", "set", "h1>h2", "--delay", "7ms", "--seed", "9")

    def link():
        (host,) = (host for host in client.status().hosts if host.name == "h1")
        return next(layer for layer in host.layers if layer.role == "link")

    os.kill(link().pid, signal.SIGKILL)
    wait_until(lambda: link().restarts == 1 and link().state == "up", "link is up again")
    row = shown(plywire)["h1>h2"]
    assert (row["settings"]["delay"], row["seed"]) == (7_000_000, 9)
    wait_until(lambda: plywire("ping", "h1", "h2", "-c", "1", "-W", "2").returncode == 0, "a reply")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["set", "h1-h3", "--loss", "1%"], 1, "'h3' is not on a wire of h1; there are h2"),
        (["set", "h3-h4", "--loss", "1%"], 2, "hosts are h1, h2"),
        (["set", "h1", "--loss", "1%"], 2, "'h1' is not a link, as in h1-h2 or 'h1>h2'"),
        (["set", "h3>h4", "--loss", "1%"], 2, "neither of h3>h4 is a host"),
        (["set", "h1>h1", "--loss", "1%"], 1, "'h1' is not on a wire of h1"),
        (["set", "h1-h2"], 2, "nothing to set"),
        (["set", "h1-h2", "--loss", "1"], 2, "0% to 100%"),
        (["set", "h1-h2", "--loss", "101%"], 2, "0% to 100%"),
        (["set", "h1-h2", "--delay", "20"], 2, "ns, us, ms, s"),
        (["set", "h1-h2", "--delay", "-1ms"], 2, "is not a number with a unit"),
        (["set", "h1-h2", "--rate", "10mb"], 2, "bit, kbit, mbit, gbit"),
        (["set", "h1-h2", "--delay", "1" + "0" * 30 + "s"], 2, "too much"),
        (["drop-next", "h1-h2", "0"], 2, "COUNT"),
        (["reset", "h1-h3"], 1, "'h3' is not on a wire of h1"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_is_refused(plywire, arguments, code, words):
    assert words in plywire.refused("impair", *arguments, code=code)
    assert plywire.do("impair", "show") == "nothing is impaired\n"


def test_without_a_lab(plywire):
    for words in (["show"], ["reset"], ["set", "h1-h2", "--loss", "1%"], ["drop-next", "h1-h2"]):
        said = plywire.refused("--lab", "none", "impair", *words, code=3)
        assert "no lab 'none' is up" in said
