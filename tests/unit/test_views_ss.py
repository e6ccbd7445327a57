"""`plywire ss` against the words, order and units of ss(8)."""

import re
import shutil
import socket
import subprocess

import pytest
from golden import check

from plywire.lab.ss import Show, SocketRow, info_text, ss_json, ss_lines, timer_text

BULK = {
    "handle": 2, "snd_una": 0xFFFF_FF00, "snd_nxt": 5000, "snd_wnd": 65_536, "snd_scale": 7,
    "snd_mss": 1460, "rcv_wnd": 131_072, "rcv_scale": 7, "rcv_mss": 536, "send_queue": 20_000,
    "congestion": "newreno", "cwnd": 14_600, "ssthresh": 1 << 30, "srtt_us": 4003,
    "rttvar_us": 2000, "rto_us": 204_000, "backoff": 0, "retries": 0, "path_mtu": 1500,
    "segs_in": 70, "segs_out": 140, "retransmits": 0, "bytes_acked": 200_001, "bytes_received": 0,
    "timers_ms": {"rto": 204},
}  # fmt: skip
LOST = BULK | {
    "handle": 3, "snd_una": 100, "snd_nxt": 1560, "send_queue": 1460, "cwnd": 1460,
    "ssthresh": 29_200, "rto_us": 816_000, "backoff": 2, "retries": 2, "retransmits": 5,
    "srtt_us": 110_500, "rttvar_us": 15_250, "timers_ms": {"rto": 1500, "keep-alive": 7_100_000},
}  # fmt: skip
SELECTIVE = LOST | {
    "handle": 5,
    "congestion": "cubic",
    "timestamps": 1,
    "sack": 1,
    "snd_mss": 1448,
    "timers_ms": {"tail loss": 42},
    "tcp_info": {
        "ca_state": "Recovery",
        "ato": 40_000,
        "unacked": 12,
        "sacked": 3,
        "lost": 2,
        "retrans": 1,
        "total_retrans": 5,
        "last_data_sent": 8,
        "last_data_recv": 0,
        "min_rtt": 2125,
        "reordering": 4,
        "rcv_space": 131_072,
        "delivery_rate": 3_000_000,
        "delivered": 120,
        "dsack_dups": 1,
        "reord_seen": 1,
    },
}
FRESH = {
    "handle": 4, "snd_una": 7, "snd_nxt": 8, "snd_wnd": 0, "snd_scale": 0, "snd_mss": 536,
    "rcv_wnd": 65_535, "rcv_scale": 0, "rcv_mss": 536, "send_queue": 0, "congestion": "newreno",
    "cwnd": 5360, "ssthresh": 1 << 30, "srtt_us": 0, "rttvar_us": 0, "rto_us": 1_000_000,
    "backoff": 0, "retries": 0, "path_mtu": 1500, "segs_in": 0, "segs_out": 1, "retransmits": 0,
    "bytes_acked": 0, "bytes_received": 0, "timers_ms": {"rto": 999},
}  # fmt: skip
ROWS = [
    SocketRow("h1", "ESTABLISHED", 0, 20_000, "10.0.0.1:40000", "10.0.0.2:80", BULK),
    SocketRow("h1", "ESTABLISHED", 0, 1460, "10.0.0.1:40001", "10.0.0.254:8080", LOST),
    SocketRow("h1", "SYN-SENT", 0, 0, "10.0.0.1:40002", "10.0.0.2:81", FRESH),
    SocketRow("h1", "CLOSE-WAIT", 0, 1460, "10.0.0.1:40003", "10.0.0.2:80", SELECTIVE),
    SocketRow("h1", "TIME-WAIT", 0, 0, "10.0.0.1:39999", "10.0.0.2:80",
              FRESH | {"timers_ms": {"left over": 59_200}}),
    SocketRow("h2", "LISTEN", 1, 128, "0.0.0.0:80", "0.0.0.0:*"),
    SocketRow("h2", "ESTABLISHED", 512, 0, "10.0.0.2:80", "10.0.0.1:40000", BULK),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "show", "host"),
    [
        ("ss-tn", Show(), True),
        ("ss-tan-h1", Show(everything=True), False),
        ("ss-tln", Show(listening=True), True),
        ("ss-tin", Show(info=True), False),
        ("ss-taine", Show(everything=True, info=True, extended=True), True),
        ("ss-tnoH", Show(timers=True, header=False), False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_table(name, show, host):
    check(f"{name}.txt", ss_lines(ROWS if host else ROWS[:5], show, with_host=host))


def test_no_socket_at_all():
    assert ss_lines([]) == ["State Recv-Q Send-Q Local Address:Port Peer Address:Port"]
    assert ss_lines([], Show(header=False)) == []


def test_json_has_the_layers_own_units():
    rows = ss_json(ROWS)
    assert [row["local"] for row in rows] == ["10.0.0.1:40000", "10.0.0.1:40001", "10.0.0.1:40002",
                                              "10.0.0.1:40003",
                                              "10.0.0.2:80"]  # fmt: skip
    assert rows[0]["info"] == BULK


def test_a_tcp_that_says_little():
    assert info_text({"state": "ESTABLISHED", "cwnd": 10}) == "cwnd:10"
    marked = {"sack": 1, "ecn": 1, "ecn_seen": 1, "tcp_info": {"delivered": 9, "delivered_ce": 2}}
    assert info_text(marked) == "sack ecn ecnseen delivered:9 delivered_ce:2"
    assert info_text({"srtt_us": 6703, "rttvar_us": 5271, "snd_mss": 1460}) == (
        "rtt:6.703/5.271 mss:1460"
    )


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [
        (-5, "000ms"), (4, "004ms"), (204, "204ms"), (1000, "1sec"), (1500, "1.500ms"),
        (9_999, "9.999ms"), (12_300, "12sec"), (59_200, "59sec"), (60_000, "1min"),
        (61_400, "1min1sec"), (7_140_000, "119min"), (660_500, "11min"),
    ],
)  # fmt: skip
def test_timers_as_ss_writes_them(milliseconds, words):
    assert timer_text(milliseconds) == words


LABEL = re.compile(r"([a-z_]+):")


def test_the_order_is_that_of_ss_itself():
    """A real connection of the kernel's, shown by a real ss: what both have comes in one order."""
    assert shutil.which("ss"), "ss (iproute2) is needed"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        client.sendall(b"x" * 100_000)
        accepted.recv(10)
        port = client.getsockname()[1]
        done = subprocess.run(
            ["ss", "-tinH", f"( sport = :{port} or dport = :{port} )"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    ours = LABEL.findall(info_text(SELECTIVE | {"bytes_sent": 1, "data_segs_out": 1}))
    assert len(ours) > 24
    for line in done.stdout.splitlines():
        if not line.startswith("\t"):
            continue
        assert line.startswith("\t ")
        theirs = LABEL.findall(line)
        common = [label for label in theirs if label in ours]
        assert len(common) > 8
        assert [label for label in ours if label in common] == common
        assert re.search(r" wscale:\d+,\d+ rto:[\d.]+ rtt:[\d.]+/[\d.]+ ", line)
