"""What the app may ask and is told: binding, listening, the backlog, credit, options, errors."""

from __future__ import annotations

import pytest

from plywire.envelope import decode, encode
from plywire.messages import (
    Accepted,
    Bind,
    Bound,
    Close,
    Closed,
    Connect,
    Credit,
    Data,
    End,
    Frame,
    Hello,
    Info,
    Listen,
    Opened,
    Option,
    Paths,
    Query,
    Segment,
)
from plywire.roles import APP, IP
from plywire.seq import add
from plywire.wire import tcp as wire

from .harness import ACK, ANY, FIN, LOCAL, REMOTE, RST, SECOND, SYN, Peer, Raw, paths_of

LOOPBACK = bytes((127, 0, 0, 1))


def bind(raw: Raw, handle: int, port: int, address: bytes = ANY, reuse: int = 0) -> str:
    """The error of a Bind."""
    raw.app(Bind(0, handle, address, port, reuse))
    (bound,) = raw.told(Bound)
    return bound.error


def listen(raw: Raw, handle: int, backlog: int = 5) -> str:
    raw.app(Listen(0, handle, backlog, {}))
    (bound,) = raw.told(Bound)
    return bound.error


# --- bind and listen ------------------------------------------------------------------------------


def test_a_port_is_bound_once() -> None:
    raw = Raw()
    assert bind(raw, 2, 80) == ""
    assert bind(raw, 4, 80) == "EADDRINUSE"
    assert bind(raw, 4, 81) == ""
    assert bind(raw, 2, 82) == "EINVAL"


def test_addresses_that_do_not_meet_share_a_port() -> None:
    raw = Raw()
    assert bind(raw, 2, 80, LOCAL) == ""
    assert bind(raw, 4, 80, LOOPBACK) == ""
    assert bind(raw, 6, 80, ANY) == "EADDRINUSE"


def test_reuse_shares_a_port_until_one_listens() -> None:
    raw = Raw()
    assert bind(raw, 2, 80, reuse=1) == ""
    assert bind(raw, 4, 80, reuse=1) == ""
    assert bind(raw, 6, 80, reuse=0) == "EADDRINUSE"
    assert listen(raw, 2) == ""
    assert listen(raw, 4) == "EADDRINUSE"
    assert bind(raw, 6, 80, reuse=1) == "EADDRINUSE"


def test_foreign_address() -> None:
    raw = Raw()
    assert bind(raw, 2, 80, REMOTE) == "EADDRNOTAVAIL"


def test_closing_gives_the_port_back() -> None:
    raw = Raw()
    bind(raw, 2, 80)
    raw.close(0, 2)
    assert bind(raw, 4, 80) == ""
    listen(raw, 4)
    raw.close(0, 4)
    assert bind(raw, 6, 80) == ""


@pytest.mark.parametrize("reuse", [0, 1])
def test_time_wait_keeps_the_port_unless_both_asked_for_reuse(reuse: int) -> None:
    raw = Raw()
    bind(raw, 2, 80, reuse=reuse)
    listen(raw, 2)
    peer = Peer(raw, passive=True)
    raw.close(0, peer.handle)
    peer.rcv = add(peer.rcv, 1)
    peer.data(b"", FIN | ACK)
    raw.close(0, 2)
    raw.told()
    assert raw.states() == ["TIME-WAIT"]
    assert bind(raw, 4, 80) == "EADDRINUSE"
    assert bind(raw, 4, 80, reuse=1) == ("" if reuse else "EADDRINUSE")
    raw.advance(60 * SECOND)
    assert bind(raw, 6, 80, reuse=1) == ""


def test_listen_without_bind_takes_any_port() -> None:
    raw = Raw()
    raw.app(Listen(0, 2, 5, {}))
    (bound,) = raw.told(Bound)
    assert 32_768 <= bound.port <= 60_999


def test_listen_again_changes_the_backlog() -> None:
    raw = Raw()
    raw.listen(backlog=1)
    raw.app(Listen(0, 2, 3, {}))
    assert raw.told(Bound)[0].error == ""
    assert raw.info()["backlog"] == 3


def test_the_listener_of_an_address_goes_first() -> None:
    raw = Raw()
    bind(raw, 2, 80, LOCAL)
    listen(raw, 2)
    bind(raw, 4, 80, LOOPBACK)
    listen(raw, 4)
    peer = Peer(raw, passive=True)
    assert peer.tcb.listener == 2


# --- incoming connections -------------------------------------------------------------------------


def come_in(raw: Raw, port: int, ack: bool = True) -> None:
    raw.segment(SYN, 100, src_port=port, dst_port=80)
    if ack:
        raw.segment(ACK, 101, 1001, src_port=port, dst_port=80)


def test_accepted_connections_leave_the_backlog() -> None:
    raw = Raw()
    raw.listen(backlog=1)
    for port in (5001, 5002):
        come_in(raw, port)
    handles = [item.handle for item in raw.told(Opened)]
    assert len(handles) == 2
    raw.take()
    come_in(raw, 5003, ack=False)
    assert raw.take() == []
    assert raw.counters["listen_overflows"] > 0
    raw.accept(handles[0])
    come_in(raw, 5003)
    assert raw.take()[0].flags == SYN | ACK
    assert len(raw.told(Opened)) == 1


def test_last_ack_finds_the_queue_full() -> None:
    """As Linux: the ACK is forgotten, and the SYN,ACK comes again until there is room."""
    raw = Raw()
    raw.listen(backlog=0)
    come_in(raw, 5001, ack=False)
    come_in(raw, 5002)
    (opened,) = raw.told(Opened)
    raw.segment(ACK, 101, 1001, src_port=5001, dst_port=80)
    assert raw.told(Opened) == []
    assert sorted(raw.states()) == ["ESTABLISHED", "SYN-RECEIVED"]
    raw.accept(opened.handle)
    raw.take()
    raw.advance(1 * SECOND)
    assert raw.only().flags == SYN | ACK
    raw.segment(ACK, 101, 1001, src_port=5001, dst_port=80)
    assert len(raw.told(Opened)) == 1


def test_syn_queue_is_bounded() -> None:
    raw = Raw(syn_cookies=False)
    raw.listen(backlog=1)
    for port in range(1, 400):
        come_in(raw, port, ack=False)
    assert len(raw.states()) == 256
    assert raw.counters["tcp_req_q_full_drop"] == 399 - 256


def test_connections_are_bounded() -> None:
    raw = Raw(max_connections=3)
    raw.listen(backlog=10)
    for port in range(1, 6):
        come_in(raw, port)
    assert len(raw.states()) == 3
    raw.told()
    raw.connect(8, 81)
    assert raw.told(Closed)[0].error == "ENOBUFS"


def test_closing_the_listener_resets_what_nobody_accepted() -> None:
    raw = Raw()
    raw.listen(backlog=5)
    for port in (5001, 5002):
        come_in(raw, port)
    come_in(raw, 5003, ack=False)
    first, second = (item.handle for item in raw.told(Opened))
    raw.accept(first)
    raw.take()
    raw.close(0, 2)
    assert [item.flags & RST for item in raw.take()] == [RST, RST]
    closed = raw.told(Closed)
    assert {item.handle for item in closed} == {second, 2}
    assert raw.states() == ["ESTABLISHED"]
    come_in(raw, 5009, ack=False)
    assert raw.only().flags & RST


def test_options_are_inherited() -> None:
    raw = Raw()
    raw.listen(2, 80, TCP_NODELAY=1, TCP_MAXSEG=500)
    raw.option("SO_KEEPALIVE", 1)
    peer = Peer(raw, passive=True)
    assert (peer.tcb.nodelay, peer.tcb.snd_mss, peer.tcb.keepalive) == (True, 500, True)


def test_bad_options_on_a_syn_leave_nothing_behind() -> None:
    raw = Raw()
    raw.listen()
    header = wire.TcpHeader(9, 80, 1, 0, SYN, 100, 0, b"\2\1\0\0")
    payload = wire.encode(header, b"", REMOTE, LOCAL)
    raw.layer.receive(Segment(0, 6, REMOTE, LOCAL, 0, 64, 0, payload), IP, raw.now)
    assert (raw.states(), raw.counters["drop_tcp_bad_option_length"]) == ([], 1)


# --- connect --------------------------------------------------------------------------------------


def test_connect_without_a_route() -> None:
    raw = Raw(hello=False)
    raw.layer.receive(Paths(0, ((LOCAL, 32, LOCAL, 65_535),)), IP, raw.now)
    raw.connect()
    (closed,) = raw.told(Closed)
    assert (closed.handle, closed.error) == (2, "ENETUNREACH")


@pytest.mark.parametrize("address", ["255.255.255.255", "10.0.0.255", "224.0.0.1"])
def test_connect_to_a_group(address: str) -> None:
    raw = Raw()
    raw.app(Connect(0, 2, bytes(map(int, address.split("."))), 80, 1000, {}))
    assert raw.told(Closed)[0].error == "ENETUNREACH"


def test_connect_before_ip_has_spoken_waits_for_it() -> None:
    raw = Raw(hello=False)
    raw.connect()
    assert (raw.take(), raw.told()) == ([], [])
    raw.layer.receive(paths_of(raw.config), IP, raw.now)
    raw.collect()
    assert raw.only().flags == SYN
    assert raw.layer.stack.waiting == {}


def test_connect_does_not_wait_for_ever() -> None:
    raw = Raw(hello=False)
    raw.connect()
    raw.advance(1 * SECOND)
    assert raw.told(Closed)[0].error == "ENETUNREACH"
    assert raw.layer.deadline() is None


def test_close_while_waiting() -> None:
    raw = Raw(hello=False)
    raw.connect()
    raw.close(0)
    assert raw.told(Closed)[0].error == ""
    raw.advance(2 * SECOND)
    assert raw.told() == []


def test_connect_from_a_bound_port() -> None:
    raw = Raw()
    bind(raw, 2, 5555)
    raw.connect()
    assert int.from_bytes(raw.only().message.payload[:2], "big") == 5555
    bind(raw, 4, 5556)
    assert bind(raw, 6, 5555) == "EADDRINUSE"


def test_connect_twice_from_one_pair() -> None:
    raw = Raw()
    bind(raw, 2, 5555, reuse=1)
    bind(raw, 4, 5555, reuse=1)
    raw.connect(2)
    raw.connect(4)
    (closed,) = raw.told(Closed)
    assert (closed.handle, closed.error) == (4, "EADDRNOTAVAIL")


def loop(raw: Raw) -> None:
    """Bring what the host sends to itself back to it."""
    while segments := raw.take():
        for item in segments:
            raw.layer.receive(item.message, IP, raw.now)
            raw.collect()


@pytest.mark.parametrize("address", [LOCAL, LOOPBACK, ANY])
def test_connect_to_this_host(address: bytes) -> None:
    raw = Raw()
    raw.listen(2, 80)
    raw.app(Connect(0, 4, address, 80, 1 << 20, {}))
    loop(raw)
    ours, theirs = sorted(raw.told(Opened), key=lambda item: item.listener)
    assert ours.handle == 4
    assert ours.remote_address == (LOOPBACK if address == ANY else address)
    raw.write(b"x" * 200_000, 0, 4)
    loop(raw)
    got = b"".join(item.payload for item in raw.told(Data) if item.handle == theirs.handle)
    assert len(got) == 200_000


def test_connect_to_oneself() -> None:
    """Simultaneous open with itself: one socket, both ends."""
    raw = Raw(port_low=40_000, port_high=40_000)
    raw.app(Connect(0, 4, LOCAL, 40_000, 1 << 20, {}))
    loop(raw)
    assert raw.states() == ["ESTABLISHED"]
    assert len(raw.told(Opened)) == 1
    raw.write(b"echo", 0, 4)
    loop(raw)
    assert raw.told(Data)[0].payload == b"echo"
    raw.close(4, 4)
    loop(raw)
    raw.advance(60 * SECOND)
    assert raw.states() == []


def test_a_fresh_socket_has_no_control_block() -> None:
    raw = Raw()
    assert raw.info(2) == {}
    bind(raw, 2, 80)
    assert raw.info(2) == {}
    raw.listen(4, 81)
    assert raw.info(4)["state"] == "LISTEN"
    raw.connect(6)
    assert raw.info(6)["state"] == "SYN-SENT"


def test_info_fits_the_message() -> None:
    peer = Peer()
    peer.write(b"x" * 5000)
    peer.raw.app(Query(0, 2))
    (info,) = peer.raw.told(Info)
    messages, errors = decode(encode([info]))
    assert (messages, errors) == ([info], [])
    assert info.fields["state"] == "ESTABLISHED"
    assert info.fields["send_queue"] == 5000


# --- the stream -----------------------------------------------------------------------------------


def test_credit_that_only_grows_is_saved_up() -> None:
    peer = Peer(send_buffer=100_000, scale=7, window=60_000)
    peer.write(b"x" * 20_000)
    peer.raw.told()
    for _ in range(10):
        peer.ack(1460)
    assert peer.raw.told(Credit) == []
    peer.write(b"x" * 30_000, 20_000)
    for _ in range(20):
        peer.ack(1460)
    credits = peer.raw.told(Credit)
    assert 1 <= len(credits) <= 3
    assert credits[-1].limit > 125_000


def test_sndbuf() -> None:
    peer = Peer(options={"SO_SNDBUF": 5000})
    assert peer.tcb.told_limit == 5000


def test_messages_of_one_event_are_gathered() -> None:
    raw = Raw()
    peer = Peer(raw)
    for _ in range(5):
        header = wire.TcpHeader(80, peer.local_port, peer.snd, peer.rcv, ACK, 60_000)
        payload = wire.encode(header, b"x" * 100, REMOTE, LOCAL)
        raw.layer.receive(Segment(1, 6, REMOTE, LOCAL, 0, 64, 0, payload), IP, raw.now)
        peer.snd = add(peer.snd, 100)
    raw.collect()
    (data,) = raw.told(Data)
    assert (data.offset, len(data.payload)) == (0, 500)


def test_credit_beyond_the_stream_is_refused() -> None:
    peer = Peer()
    peer.raw.credit(10, 1 << 21)
    assert peer.raw.counters["drop_credit_beyond_stream"] == 1


def test_end_inside_the_stream_is_refused() -> None:
    peer = Peer()
    peer.write(b"abc")
    peer.raw.end(2)
    assert (peer.state, peer.raw.counters["drop_end_inside_stream"]) == ("ESTABLISHED", 1)


def test_nothing_is_delivered_after_close() -> None:
    peer = Peer()
    peer.raw.close(0)
    peer.raw.told()
    peer.send(FIN | ACK)
    assert peer.raw.told(Data | End) == []


# --- robustness -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        Data(0, 99, 0, b"x"),
        Credit(0, 99, 0, 0),
        End(0, 99, 0),
        Close(0, 99, 0, 0),
        Close(0, 99, 0, 1),
        Accepted(0, 99),
        Option(0, 99, "TCP_NODELAY", 1),
        Option(0, 99, "NO_SUCH", 1),
    ],
)
def test_unknown_handles_harm_nothing(message) -> None:
    raw = Raw()
    raw.app(message)
    assert (raw.take(), raw.told()) == ([], [])


@pytest.mark.parametrize("source", [APP, IP])
def test_messages_from_the_wrong_side(source: str) -> None:
    raw = Raw()
    wrong = Segment(0, 6, REMOTE, LOCAL, 0, 64, 0, b"") if source == APP else Query(0, 2)
    raw.layer.receive(wrong, source, raw.now)
    raw.layer.receive(Frame(0, 1, 0, b""), source, raw.now)
    assert raw.counters["drop_unexpected_message"] == 2


def test_a_new_app_generation_aborts_everything() -> None:
    raw = Raw()
    raw.layer.receive(Hello(0, "app", 1, 0), APP, raw.now)
    raw.listen(2, 80)
    bind(raw, 8, 9999)
    Peer(raw, passive=True)
    raw.connect(4, 81)
    raw.take()
    raw.told()
    raw.layer.receive(Hello(0, "app", 1, 0), APP, raw.now)
    raw.collect()
    assert len(raw.states()) == 2
    raw.layer.receive(Hello(0, "app", 2, 0), APP, raw.now)
    raw.collect()
    assert raw.only().flags & RST
    assert (raw.states(), raw.told()) == ([], [])
    assert bind(raw, 2, 80) == ""
    assert bind(raw, 4, 9999) == ""


def test_a_new_ip_generation_loses_nothing() -> None:
    peer = Peer()
    for generation in (1, 2):
        peer.raw.layer.receive(Hello(0, "ip", generation, 0), IP, peer.raw.now)
    assert peer.state == "ESTABLISHED"


def test_describe() -> None:
    peer = Peer()
    peer.write(b"x" * 10)
    layer, now = peer.raw.layer, peer.raw.now
    (row,) = layer.describe("connections", now)
    assert (row["state"], row["send_q"], row["peer"]) == ("ESTABLISHED", 10, "10.0.0.2:80")
    assert "rto" in row["timers_ms"]
    peer.raw.listen(4, 81)
    assert layer.describe("listeners", now)[0]["local_port"] == 81
    counters = layer.describe("counters", now)
    assert (counters["tcp_curr_estab"], counters["tcp_memory"]) == (1, 10)
    assert counters["tcp_memory_bound"] == peer.raw.config.tcp.memory
    with pytest.raises(KeyError):
        layer.describe("weather", now)


def test_trace_ids_follow_their_cause() -> None:
    peer = Peer(establish=False)
    assert peer.syn.message.trace == 7  # Connect's
    peer.send(SYN | ACK)
    assert peer.only().message.trace == 5  # the segment's
    assert peer.raw.told(Opened)[0].trace == 5
    peer.snd = add(peer.snd, 1)
    peer.write(b"x")
    assert peer.only().message.trace == 9  # Data's
    peer.advance(1 * SECOND)
    assert peer.take()[0].message.trace == 9  # the timer's, kept with the connection
