"""Metrics: the text that Prometheus reads, by its own parser, and the HTTP that it is read over."""

import asyncio
import socket

import pytest
from golden import check
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from plywire.config import parse as parse_lab
from plywire.errors import ConfigError
from plywire.lab import metrics
from plywire.lab.dump import dump_lab
from plywire.lab.readings import Reading
from plywire.lab.rundir import LabError

CONNECTION = {
    "local": "10.0.0.1:40000", "peer": "10.0.0.2:80", "state": "ESTABLISHED", "srtt_us": 4003,
    "rttvar_us": 2000, "rto_us": 204_000, "cwnd": 14_600, "ssthresh": 29_200, "snd_wnd": 65_536,
    "rcv_wnd": 131_072, "send_q": 20_000, "recv_q": 0, "retransmits": 5, "bytes_acked": 200_001,
    "bytes_received": 7,
}  # fmt: skip
FRESH = CONNECTION | {"local": "10.0.0.1:40001", "srtt_us": 0, "ssthresh": 1 << 30}
PIPE = {"connected": 1, "received": 71, "sent": 64, "waiting": 3}
READINGS = [
    Reading("h1", "tcp", "services.tcp:create", 7, 12.5, "up", 1,
            {"pid": 7, "cpu_ns": 250_000_000, "traffic": {"app": PIPE, "ip": PIPE},
             "counters": {"tcp_retrans_segs": 5, "tcp_curr_estab": 2, "drop_no_ack": 1,
                          "tcp_memory": 40_000, "tcp_memory_bound": 1 << 28}},
            [CONNECTION, FRESH, {"local": "10.0.0.1:2", "peer": "10.0.0.2:80", "srtt_us": 1000},
             {"odd": 1}]),
    Reading("h1", "ip", 'a "quoted\\ name":\ncreate', 0, 0.0, "down", 3, None, []),
]  # fmt: skip


def samples(text, reader=parse):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in reader(text)
        for sample in family.samples
    }


def exposition(readings=READINGS, target="/metrics?connections=1", accept=""):
    async def read(connections):
        return readings if connections else [item._replace(connections=[]) for item in readings]

    return asyncio.run(metrics._resource("GET", target, accept, read))


def test_the_text_is_what_it_was():
    check("metrics.txt", exposition()[2].decode().splitlines())


def test_the_official_parser_reads_every_value():
    status, kind, body = exposition()
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = samples(body.decode())
    layer = (("host", "h1"), ("layer", "tcp"))
    path = (("host", "h1"), ("local", "10.0.0.1:40000"), ("peer", "10.0.0.2:80"))
    assert found["plywire_up", *layer] == 1
    assert found["plywire_up", ("host", "h1"), ("layer", "ip")] == 0
    assert found["plywire_counter_total", *layer, ("name", "drop_no_ack")] == 1
    assert found["plywire_queue_depth", *layer, ("neighbour", "app")] == 3
    assert found["plywire_layer_cpu_seconds_total", *layer] == 0.25
    assert found["plywire_tcp_rtt_seconds", *path] == 0.004003
    assert found["plywire_tcp_cwnd_bytes", *path] == 14_600
    assert found["plywire_tcp_established", ("host", "h1")] == 2
    assert found["plywire_tcp_memory_bytes", ("host", "h1")] == 40_000
    assert found["plywire_tcp_memory_bound_bytes", ("host", "h1")] == 1 << 28
    assert ("plywire_counter_total", *layer, ("name", "tcp_memory")) not in found
    assert ("plywire_layer_info", ("host", "h1"), ("implementation", 'a "quoted\\ name":\ncreate'),
            ("layer", "ip")) in found  # fmt: skip


def test_openmetrics_when_it_is_asked_for():
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    status, kind, body = exposition(accept=accept)
    assert status == 200
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    plain = samples(exposition()[2].decode())
    assert samples(body.decode(), openmetrics) == plain


def test_an_accept_header_that_makes_no_sense():
    status, kind, _ = exposition(
        accept="text/plain;version=x,application/openmetrics-text;version=y"
    )
    assert (status, kind[:10]) == (200, "text/plain")


def test_what_a_connection_does_not_know_yet_is_left_out():
    found = samples(exposition()[2].decode())
    fresh = (("host", "h1"), ("local", "10.0.0.1:40001"), ("peer", "10.0.0.2:80"))
    assert ("plywire_tcp_rtt_seconds", *fresh) not in found
    assert ("plywire_tcp_ssthresh_bytes", *fresh) not in found
    assert ("plywire_tcp_cwnd_bytes", *fresh) in found


@pytest.mark.parametrize("target", ["/metrics", "/metrics?connections=0", "/metrics?connections="])
def test_connections_are_there_on_request_only(target):
    assert b"plywire_tcp_rtt_seconds" not in exposition(target=target)[2]
    assert b"plywire_tcp_rtt_seconds" in exposition()[2]


# --- over HTTP ------------------------------------------------------------------------------------


async def talk(request: bytes, read=None) -> bytes:
    """What a server on a free port says to `request`."""

    async def nothing(connections):
        return []

    server = await metrics.start(f"127.0.0.1:{free()}", read or nothing)
    async with server:
        place = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*place)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /metrics HTTP/1.1", b"200 OK"),
        ("HEAD /metrics HTTP/1.0", b"200 OK"),
        ("GET / HTTP/1.1", b"200 OK"),
        ("GET /other HTTP/1.1", b"404 Not Found"),
        ("GET http://[ HTTP/1.1", b"400 Bad Request"),
        ("POST /metrics HTTP/1.1", b"405 Method Not Allowed"),
        ("nonsense", b"405 Method Not Allowed"),
        ("", b"405 Method Not Allowed"),
    ],
)
def test_answers(request_line, status):
    answer = asyncio.run(talk(f"{request_line}\r\nHost: x\r\n\r\n".encode()))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"Length" in line)
    assert len(body) == (0 if request_line.startswith("HEAD") else length)


def test_a_lab_that_does_not_answer():
    async def read(connections):
        raise LabError("the lab has ended")

    assert asyncio.run(talk(b"GET /metrics HTTP/1.1\r\n\r\n", read)).startswith(b"HTTP/1.1 503")


def test_a_head_that_is_too_long():
    assert asyncio.run(talk(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000)) == b""


def test_a_port_that_is_taken():
    async def start(port):
        return await metrics.start(f"127.0.0.1:{port}", None)

    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(LabError, match="Address already in use; end what listens"),
    ):
        asyncio.run(start(taken.getsockname()[1]))


@pytest.mark.parametrize("listen", ["9464", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ":0"])
def test_an_address_that_is_none(listen):
    with pytest.raises(LabError, match="is not HOST:PORT"):
        asyncio.run(metrics.start(listen, None))


def test_the_key_of_a_lab_file():
    table = {"hosts": {"h1": {"interfaces": [{"address": "10.0.0.1/24", "wire": "lan"}]}},
             "wires": {"lan": {}}}  # fmt: skip
    assert parse_lab(table).metrics == ""
    lab = parse_lab(table | {"lab": {"metrics": "127.0.0.1:9464"}})
    assert lab.metrics == "127.0.0.1:9464"
    assert 'metrics = "127.0.0.1:9464"' in dump_lab(lab)
    with pytest.raises(ConfigError, match=r"lab.metrics: 'x' is not HOST:PORT"):
        parse_lab(table | {"lab": {"metrics": "x"}})
