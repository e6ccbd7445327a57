"""arp, route, counters, status and doctor against the words of ip(8), nstat(8) and our own."""

import json
import shutil
import subprocess

import pytest
from golden import check

from plywire.lab import nstat, views
from plywire.lab.doctor import Finding, finding_lines
from plywire.lab.readings import Reading, layer_rows
from plywire.roles import APP, IP, LAYERS, LINK, TCP
from plywire.rpc import control_pb2 as pb

NEIGHBOURS = [
    {"address": "10.0.0.2", "dev": "eth0", "lladdr": "02:00:0a:00:00:02", "state": "REACHABLE"},
    {"address": "10.0.0.3", "dev": "eth0", "lladdr": "02:00:0a:00:00:03", "state": "STALE"},
    {"address": "10.0.0.9", "dev": "eth0", "lladdr": "", "state": "INCOMPLETE"},
    {"address": "10.0.0.10", "dev": "eth1", "lladdr": "", "state": "FAILED"},
]
ROUTES = [
    {"to": "10.0.0.1/32", "type": "local", "via": "", "dev": "lo", "src": "10.0.0.1", "mtu": 65535},
    {"to": "192.168.7.0/24", "type": "connected", "via": "", "dev": "eth1", "src": "192.168.7.1",
     "mtu": 1500},
    {"to": "10.0.0.0/24", "type": "connected", "via": "", "dev": "eth0", "src": "10.0.0.1",
     "mtu": 1500},
    {"to": "10.9.0.0/16", "type": "gateway", "via": "10.0.0.3", "dev": "eth0", "src": "10.0.0.1",
     "mtu": 1500},
    {"to": "127.0.0.0/8", "type": "local", "via": "", "dev": "lo", "src": "127.0.0.1",
     "mtu": 65535},
    {"to": "default", "type": "gateway", "via": "10.0.0.254", "dev": "eth0", "src": "10.0.0.1",
     "mtu": 1500},
]  # fmt: skip
COUNTS = {
    ("h1", APP): {"sockets_created": 3, "bytes_sent": 100_000, "drop_unknown_handle": 1},
    ("h1", TCP): {"tcp_in_segs": 71, "tcp_retrans_segs": 4, "tcp_timeouts": 2, "tcp_curr_estab": 1,
                  "listen_overflows": 0, "tcp_mtu_lowered": 1, "drop_tcp_bad_checksum": 6,
                  "tcp_in_errs": 6},
    ("h1", IP): {"ip_in_receives": 80, "ip_in_delivers": 78, "drop_not_for_us": 2},
    ("h1", LINK): {"rx_packets": 82, "tx_packets": 90, "arp_requests_sent": 1,
                   "drop_wire_station_away_or_full": 3},
    ("h2", TCP): {"tcp_in_segs": 12},
}  # fmt: skip


def test_neighbours():
    lines = [(host, views.neighbour_line(row)) for host in ("h1", "router") for row in NEIGHBOURS]
    check("ip-neigh.txt", views.by_host(lines[:4], with_host=False))
    check("ip-neigh-hosts.txt", views.by_host(lines, with_host=True))
    assert views.neighbour_json(NEIGHBOURS[0]) == {
        "dst": "10.0.0.2", "dev": "eth0", "lladdr": "02:00:0a:00:00:02", "state": ["REACHABLE"],
    }  # fmt: skip
    assert "lladdr" not in views.neighbour_json(NEIGHBOURS[2])


def test_routes():
    for name, local in (("ip-route", False), ("ip-route-local", True)):
        rows = views.routes_in_order(ROUTES, local)
        check(f"{name}.txt", [views.route_line(row) for row in rows])
    assert views.route_json(ROUTES[5]) == {
        "dst": "default", "gateway": "10.0.0.254", "dev": "eth0", "protocol": "static", "flags": [],
    }  # fmt: skip


def test_the_way_to_an_address():
    way = {"dev": "eth0", "via": "10.0.0.254", "src": "10.0.0.1"}
    assert views.way_line("9.9.9.9", way) == "9.9.9.9 via 10.0.0.254 dev eth0 src 10.0.0.1"


def test_counters():
    check("nstat.txt", nstat.lines(nstat.rows(COUNTS)))
    check("nstat-z.txt", nstat.lines(nstat.rows(COUNTS, zeros=True)))
    later = {key: {name: value * 2 for name, value in row.items()} for key, row in COUNTS.items()}
    check("nstat-i.txt", nstat.lines(nstat.rows(later, before=COUNTS, seconds=2.0)))
    assert json.loads(nstat.as_json(nstat.rows(COUNTS)))["h2"] == {"TcpInSegs": 12}


def test_counters_by_pattern():
    names = [row.name for row in nstat.rows(COUNTS, patterns=["*Drop*", "tcp_in_segs"])]
    assert names == ["IpDropNotForUs", "TcpInSegs", "TcpDropBadChecksum",
                     "LinkDropWireStationAwayOrFull", "AppDropUnknownHandle",
                     "TcpInSegs"]  # fmt: skip


def test_a_layer_that_was_started_again_counts_from_zero():
    (row,) = nstat.rows({("h", TCP): {"tcp_in_segs": 5}},
                        before={("h", TCP): {"tcp_in_segs": 90}}, seconds=1.0)  # fmt: skip
    assert row.value == 5


def test_names_and_order_are_those_of_nstat_itself():
    """What is called as in nstat, a real nstat knows, and in this order."""
    assert shutil.which("nstat"), "nstat (iproute2) is needed"
    done = subprocess.run(["nstat", "-asz"], capture_output=True, text=True, check=True)
    theirs = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert len(theirs) > 100
    for layer in (IP, TCP):
        ours = [name for name in nstat.KNOWN[layer].values() if name != "IcmpOutSuppressed"]
        assert set(ours) <= set(theirs)
        assert ours == sorted(ours, key=theirs.index)
    assert set(nstat.KNOWN) == set(LAYERS)


def reading(layer, received, cpu, pid=7, state="up", connected=1, **more):
    traffic = {"tcp": {"connected": connected, "received": received, "sent": 1, "waiting": 2}}
    runtime = {"pid": pid, "cpu_ns": cpu, "traffic": traffic,
               "counters": {"drop_not_for_us": 3, "drop_ttl_exceeded": 1}}  # fmt: skip
    values = {"implementation": "services.ip:create", "pid": pid, "uptime": 4000.0, "state": state,
              "restarts": 0, "runtime": runtime, "connections": []}  # fmt: skip
    return Reading(host="h1", layer=layer, **(values | more))


def test_status():
    before = [reading("ip", 1000, 5_000_000_000), reading("link", 90_000, 0)]
    now = [
        reading("app", 0, 0, state="down", pid=0, runtime=None),
        reading("tcp", 10, 0, runtime=None),
        reading("ip", 8000, 5_400_000_000),
        reading("link", 400, 40_000_000_000, pid=8, restarts=2, connected=0),
    ]
    rows = layer_rows(now, before, 0.5)
    answer = pb.GetStatusResponse(lab="default", run_dir="/run/plywire", pid=5, uptime=4001.0)
    check("status.txt", views.status_lines(answer, rows))
    assert rows[2].rate == 14_000
    assert rows[2].cpu == pytest.approx(0.8)
    assert rows[3].rate == 0.1  # another process: since its start


def test_rates_since_the_start():
    (row,) = layer_rows([reading("ip", 8000, 400_000_000_000)])
    assert (row.rate, row.cpu) == (2.0, 0.1)


def test_findings():
    check(
        "doctor.txt",
        finding_lines(
            [
                Finding("ok", "python", "3.11.7"),
                Finding("warn", "TAP", "there is no /dev/net/tun", "modprobe tun"),
                Finding("fail", "run directory", "/run cannot be written to",
                        "set PLYWIRE_RUN_DIR to a directory of yours"),
            ]
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:9464", "http://127.0.0.1:9464/metrics"),
        (":9464", "http://127.0.0.1:9464/metrics"),
        ("0.0.0.0:1", "http://127.0.0.1:1/metrics"),
        ("[::1]:9464", "http://[::1]:9464/metrics"),
    ],
)
def test_where_the_metrics_are(listen, url):
    assert views.metrics_url(listen) == url
