"""A lab's metrics in Prometheus' text format. Layers are asked when somebody scrapes, else never.

docs/tools.md lists the names.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder, generate_latest

from plywire.config import address
from plywire.lab.control import LabClient
from plywire.lab.nstat import GAUGES
from plywire.lab.readings import Reading, take
from plywire.lab.rundir import LabError
from plywire.lab.views import metrics_url

Read = Callable[[bool], Awaitable[Sequence[Reading]]]
"""`read(connections)`: what all layers say now; with their connections if that is wanted."""

_HEAD_MAX = 8192
_HEAD_LIMIT = 10.0
"""Bytes and seconds that a request may take."""
_INFINITE = 1 << 30  # ssthresh before the first loss
_US = 1e6
"""Microseconds a second."""

_LAYER = ["host", "layer"]
_PIPE = [*_LAYER, "neighbour"]
_PATH = ["host", "local", "peer"]

_HOST_GAUGES = (
    ("plywire_tcp_established", "Connections in ESTABLISHED or CLOSE-WAIT.", "tcp_curr_estab"),
    ("plywire_tcp_memory_bytes", "What all connections hold in their queues.", "tcp_memory"),
    ("plywire_tcp_memory_bound_bytes", "Above it memory is scarce.", "tcp_memory_bound"),
)
"""Of a host, with their names among the counters."""
_CONNECTION_GAUGES = (
    ("plywire_tcp_rtt_seconds", "Smoothed round-trip time (RFC 6298).", "srtt_us", _US),
    ("plywire_tcp_rttvar_seconds", "Its variation.", "rttvar_us", _US),
    ("plywire_tcp_rto_seconds", "Retransmission timeout.", "rto_us", _US),
    ("plywire_tcp_cwnd_bytes", "Congestion window.", "cwnd", 1),
    ("plywire_tcp_ssthresh_bytes", "Slow start threshold, once there was a loss.", "ssthresh", 1),
    ("plywire_tcp_send_window_bytes", "What the peer has room for.", "snd_wnd", 1),
    ("plywire_tcp_receive_window_bytes", "What was offered to the peer.", "rcv_wnd", 1),
    ("plywire_tcp_send_queue_bytes", "Not acknowledged by the peer.", "send_q", 1),
    (
        "plywire_tcp_receive_queue_bytes",
        "Not read by the program, by what TCP was told.",
        "recv_q",
        1,
    ),
)
_CONNECTION_COUNTERS = (
    ("plywire_tcp_retransmits", "Segments that were sent again.", "retransmits"),
    ("plywire_tcp_bytes_acked", "Bytes that the peer acknowledged.", "bytes_acked"),
    ("plywire_tcp_bytes_received", "Bytes in order from the peer.", "bytes_received"),
)


def families(readings: Iterable[Reading]) -> list[Metric]:
    """All metrics of these readings; those of connections, where connections were asked for."""
    up = GaugeMetricFamily("plywire_up", "1: the layer runs and answers.", labels=_LAYER)
    info = GaugeMetricFamily(
        "plywire_layer_info", "1, with what runs the layer.", labels=[*_LAYER, "implementation"]
    )
    uptime = GaugeMetricFamily(
        "plywire_layer_uptime_seconds", "Since the layer's process was started.", labels=_LAYER
    )
    restarts = CounterMetricFamily(
        "plywire_layer_restarts", "How often the layer was started again.", labels=_LAYER
    )
    cpu = CounterMetricFamily(
        "plywire_layer_cpu_seconds", "Processor time of the layer's process.", labels=_LAYER
    )
    counter = CounterMetricFamily(
        "plywire_counter", "Every counter of a layer, by its name.", labels=[*_LAYER, "name"]
    )
    connected = GaugeMetricFamily(
        "plywire_neighbour_connected", "1: the neighbour is there.", labels=_PIPE
    )
    queue = GaugeMetricFamily(
        "plywire_queue_depth", "Messages that wait for the neighbour.", labels=_PIPE
    )
    received = CounterMetricFamily(
        "plywire_messages_received", "Messages from the neighbour.", labels=_PIPE
    )
    sent = CounterMetricFamily("plywire_messages_sent", "Messages to the neighbour.", labels=_PIPE)
    of_hosts = {
        key: GaugeMetricFamily(name, words, labels=["host"]) for name, words, key in _HOST_GAUGES
    }
    all_readings = list(readings)
    for reading in all_readings:
        layer = [reading.host, reading.layer]
        runtime = reading.runtime
        up.add_metric(layer, float(runtime is not None))
        info.add_metric([*layer, reading.implementation], 1.0)
        restarts.add_metric(layer, reading.restarts)
        uptime.add_metric(layer, reading.uptime)
        if runtime is None:
            continue
        cpu.add_metric(layer, runtime["cpu_ns"] / 1e9)
        for name, value in sorted(runtime["counters"].items()):
            if name not in GAUGES:
                counter.add_metric([*layer, name], value)
        for key, gauge in of_hosts.items():
            if key in runtime["counters"]:
                gauge.add_metric([reading.host], runtime["counters"][key])
        for neighbour, pipe in runtime["traffic"].items():
            labels = [*layer, neighbour]
            connected.add_metric(labels, pipe["connected"])
            queue.add_metric(labels, pipe["waiting"])
            received.add_metric(labels, pipe["received"])
            sent.add_metric(labels, pipe["sent"])
    return [up, info, uptime, restarts, cpu, counter, connected, queue, received, sent,
            *of_hosts.values(), *_of_connections(all_readings)]  # fmt: skip


def text(client: LabClient, connections: bool = False) -> str:
    """The metrics of a lab as Prometheus reads them. Raises LabError."""
    readings = take(client, client.status(), connections)
    return generate_latest(_Registry(families(readings))).decode()


async def start(listen: str, read: Read) -> asyncio.Server:
    """Answer GET /metrics at HOST:PORT from now on, until the server is closed.

    Raises LabError when the address is none or cannot be listened at.
    """
    try:
        host, port = address(listen)
        return await asyncio.start_server(
            lambda reader, writer: _answer(reader, writer, read), host or None, port,
            limit=_HEAD_MAX,
        )  # fmt: skip
    except ValueError as error:
        raise LabError(f"metrics: {error}") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise LabError(
            f"metrics cannot be served at {listen}: {reason}; end what listens there, or name"
            " another address"
        ) from None


def run(client: LabClient, listen: str, say: Callable[[str], object]) -> None:
    """Serve the metrics of a lab until Ctrl-C. Raises LabError."""

    async def read(connections: bool) -> Sequence[Reading]:
        return await asyncio.to_thread(lambda: take(client, client.status(), connections))

    async def serve() -> None:
        async with await start(listen, read) as server:
            say(f"metrics at {metrics_url(listen)}")
            await server.serve_forever()

    asyncio.run(serve())


class _Registry:
    """What prometheus_client's encoders want: something that can be collected from."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Sequence[Metric]:
        return self._metrics


def _of_connections(readings: Sequence[Reading]) -> list[Metric]:
    """rtt, cwnd and the like. A connection that knows no value yet has none."""
    rows = [
        (reading.host, row)
        for reading in readings
        for row in reading.connections
        if "local" in row and "peer" in row  # a tcp of somebody else's may say what it likes
    ]
    if not rows:
        return []
    found: list[Metric] = []
    for name, words, key, unit in _CONNECTION_GAUGES:
        gauge = GaugeMetricFamily(name, words, labels=_PATH)
        for host, row in rows:
            value = row.get(key)  # a simpler tcp has fewer
            unknown = value is None or (key == "srtt_us" and not value)
            if not unknown and not (key == "ssthresh" and value >= _INFINITE):
                gauge.add_metric([host, row["local"], row["peer"]], value / unit)
        found.append(gauge)
    for name, words, key in _CONNECTION_COUNTERS:
        counter = CounterMetricFamily(name, words, labels=_PATH)
        for host, row in rows:
            if key in row:
                counter.add_metric([host, row["local"], row["peer"]], row[key])
        found.append(counter)
    return found


# --- HTTP, as much of it as a scrape needs --------------------------------------------------------


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, read: Read) -> None:
    """One request, one answer, and the connection ends."""
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _HEAD_LIMIT)
        method, target, accept = _request(head)
        status, kind, body = await _resource(method, target, accept, read)
        words = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(["Allow: GET, HEAD"] if status == HTTPStatus.METHOD_NOT_ALLOWED else []),
        ]
        writer.write("\r\n".join([*words, "", ""]).encode())
        if method != "HEAD":
            writer.write(body)
        await asyncio.wait_for(writer.drain(), _HEAD_LIMIT)
    except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # who asked has gone, or is too slow, or speaks no HTTP: there is nobody to tell
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _request(head: bytes) -> tuple[str, str, str]:
    """Method, target and Accept header of a request; what is missing is empty."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, *_ = [*first.split(" "), "", ""]
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    return method, target, headers.get("accept", "")


async def _resource(
    method: str, target: str, accept: str, read: Read
) -> tuple[HTTPStatus, str, bytes]:
    plain = "text/plain; charset=utf-8"
    if method not in ("GET", "HEAD"):
        return HTTPStatus.METHOD_NOT_ALLOWED, plain, b"GET or HEAD only\n"
    try:
        place = urlsplit(target)
    except ValueError:
        return HTTPStatus.BAD_REQUEST, plain, b"this is no target\n"
    if place.path == "/":
        return HTTPStatus.OK, plain, b"plywire: see /metrics, /metrics?connections=1\n"
    if place.path != "/metrics":
        return HTTPStatus.NOT_FOUND, plain, b"see /metrics\n"
    connections = parse_qs(place.query).get("connections", ["0"])[-1] not in ("", "0")
    try:
        readings = await read(connections)
    except LabError as error:
        return HTTPStatus.SERVICE_UNAVAILABLE, plain, f"{error}\n".encode()
    try:
        encode, kind = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no number
        encode, kind = choose_encoder("")
    return HTTPStatus.OK, kind, encode(_Registry(families(readings)))
