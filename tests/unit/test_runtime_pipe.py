"""Pipes over real ZeroMQ: either side first, Hello, back pressure, bad input, locks."""

import os
import time
from collections import Counter

import pytest
import zmq

from plywire import envelope
from plywire.messages import Credit, Data, Hello, Kept, Segment
from plywire.runtime.lock import Held, Lock, holder
from plywire.runtime.pipe import HELD_MAX, HIGH_WATER, Inbox, Outlet, Pipe

DEADLINE = 5.0
SEGMENT = Segment(1, 6, b"\x0a\0\0\1", b"\x0a\0\0\2", 0, 0, 2, b"x" * 40)


@pytest.fixture
def context():
    context = zmq.Context()
    yield context
    context.destroy(0)


def make(context, tmp_path, role, neighbour, generation, lossless=False, kept=None):
    inbox, outlet = (
        f"ipc://{tmp_path}/{reader}.from-{writer}"
        for reader, writer in ((role, neighbour), (neighbour, role))
    )
    return Pipe(context, role, neighbour, inbox, outlet, generation, lossless, Counter(), kept=kept)


def collect(pipe, enough, *others):
    """Messages received by `pipe` until enough(messages), the pipes flushing what waits."""
    got = []
    end = time.monotonic() + DEADLINE
    while not enough(got):
        assert time.monotonic() < end, f"still waiting, with {got!r:.200}"
        now = time.monotonic_ns()
        for other in others:
            other.expire(now)
            other.flush()
            other.receive()
        pipe.expire(now)
        pipe.flush()
        pipe.inbox.socket.poll(10)
        got += pipe.receive()
    return got


def meet(a, b):
    hello = collect(a, bool, b)
    collect(b, lambda got: b.peer_generation is not None, a)
    return hello


def test_each_side_hears_of_the_other_whoever_starts_first(context, tmp_path):
    tcp = make(context, tmp_path, "tcp", "ip", 11)
    ip = make(context, tmp_path, "ip", "tcp", 22)
    (hello,) = meet(tcp, ip)
    assert (hello.role, hello.generation) == ("ip", 22)
    assert ip.peer_generation == 11


def test_a_core_hears_of_a_neighbour_when_the_neighbour_hears_it(context, tmp_path):
    """What it says then may not be lost: here the Paths of ip."""
    ip = make(context, tmp_path, "ip", "tcp", 22)
    tcp = Outlet(context, f"ipc://{tmp_path}/ip.from-tcp")
    assert tcp.socket.poll(DEADLINE * 1000, zmq.POLLOUT)
    tcp.send([Hello(0, "tcp", 11, 0), SEGMENT])
    assert collect(ip, bool) == [SEGMENT]  # and not the Hello: nobody is bound at tcp's inbox
    inbox = Inbox(context, f"ipc://{tmp_path}/tcp.from-ip", Counter())
    got, end = [], time.monotonic() + DEADLINE
    while len(got) < 2:
        assert time.monotonic() < end
        ip.flush()
        got += inbox.receive()
    assert {(item.generation, item.reply) for item in got} == {(22, 0), (22, 1)}
    assert ip.peer_generation is None
    tcp.send([Hello(0, "tcp", 11, 1)])
    (hello,) = collect(ip, bool)
    assert hello.generation == 11
    assert ip.deadline() is None
    inbox.close()


def test_a_hello_without_an_answer_is_said_again(context, tmp_path):
    ip = make(context, tmp_path, "ip", "tcp", 22)
    inbox = Inbox(context, f"ipc://{tmp_path}/tcp.from-ip", Counter())
    got, end = [], time.monotonic() + DEADLINE
    while len(got) < 3:
        assert time.monotonic() < end
        ip.flush()
        if ip.deadline() is not None:
            ip.expire(ip.deadline())
        got += inbox.receive()
    assert set(got) == {Hello(0, "ip", 22, 0)}
    inbox.close()


def test_batches_arrive_in_order(context, tmp_path):
    tcp = make(context, tmp_path, "tcp", "ip", 11)
    ip = make(context, tmp_path, "ip", "tcp", 22)
    meet(tcp, ip)
    sent = [SEGMENT._replace(trace=n) for n in range(500)]
    tcp.send(sent)
    assert collect(ip, lambda got: len(got) == 500) == sent


def test_a_replaced_neighbour_is_met_anew_and_the_same_one_is_not(context, tmp_path):
    tcp = make(context, tmp_path, "tcp", "ip", 11)
    ip = make(context, tmp_path, "ip", "tcp", 22)
    meet(tcp, ip)
    ip.outlet.send([Hello(0, "ip", 22, 1), SEGMENT])
    assert collect(tcp, bool) == [SEGMENT]
    ip.close()
    ip = make(context, tmp_path, "ip", "tcp", 33)
    (hello,) = meet(tcp, ip)
    assert hello.generation == 33


def test_packets_for_a_neighbour_that_is_away_are_dropped_and_counted(context, tmp_path):
    tcp = make(context, tmp_path, "tcp", "ip", 11)
    tcp.send([SEGMENT] * 3)
    assert tcp.counters["drop_ip_away_or_full"] == 3


def test_packets_beyond_the_bound_are_dropped_and_counted(context, tmp_path):
    tcp = make(context, tmp_path, "tcp", "ip", 11)
    ip = make(context, tmp_path, "ip", "tcp", 22)
    meet(tcp, ip)
    big = SEGMENT._replace(payload=b"x" * 60_000)
    for _ in range(4 * HIGH_WATER):
        tcp.send([big])
    dropped = tcp.counters["drop_ip_away_or_full"]
    assert 0 < dropped < 4 * HIGH_WATER
    assert len(collect(ip, lambda got: len(got) == 4 * HIGH_WATER - dropped)) >= HIGH_WATER // 2


def test_a_stream_waits_for_a_neighbour_that_is_away(context, tmp_path):
    app = make(context, tmp_path, "app", "tcp", 11, lossless=True)
    sent = [Data(0, 2, n, b"x") for n in range(100)]
    app.send(sent)
    tcp = make(context, tmp_path, "tcp", "app", 22, lossless=True)
    got = collect(tcp, lambda got: len(got) == 101, app)
    assert type(got[0]) is Hello
    assert got[1:] == sent


def test_what_waited_for_a_neighbour_that_was_replaced_is_forgotten(context, tmp_path):
    app = make(context, tmp_path, "app", "tcp", 11, lossless=True)
    tcp = make(context, tmp_path, "tcp", "app", 22, lossless=True)
    meet(app, tcp)
    tcp.close()
    end = time.monotonic() + DEADLINE
    while app.outlet.writable():
        assert time.monotonic() < end
        app.outlet.socket.poll(10, zmq.POLLIN)
    app.send([Credit(0, 2, 1, 2)])
    assert app.waiting == 1
    tcp = make(context, tmp_path, "tcp", "app", 33, lossless=True)
    meet(app, tcp)
    app.send([Credit(0, 4, 1, 2)])
    got = collect(tcp, lambda got: any(type(item) is Credit for item in got), app)
    assert [item.handle for item in got if type(item) is Credit] == [4]


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"\xff\x00garbage", "batch_not_msgpack"),
        (b"\x07", "batch_not_array"),
        (b"\x93\x01", "batch_not_msgpack"),
        (b"\x91\x63", "schema_version"),
        (envelope.dump_state([envelope.SCHEMA, [99, 0]]), "unknown_kind"),
        (envelope.dump_state([envelope.SCHEMA, [65, 0, 1]]), "bad_arity"),
        (envelope.dump_state([envelope.SCHEMA, [65, 0, 1, "x", 1, 1]]), "bad_type"),
        (envelope.dump_state([envelope.SCHEMA, [65, 0, 1, -1, 1, 1]]), "bad_size"),
    ],
)
def test_garbage_is_counted_and_the_next_batch_arrives(context, tmp_path, garbage, reason):
    counters = Counter()
    endpoint = f"ipc://{tmp_path}/inbox"
    inbox = Inbox(context, endpoint, counters)
    sender = context.socket(zmq.PUSH)
    sender.connect(endpoint)
    sender.send(garbage)
    sender.send(envelope.encode([SEGMENT]))
    got, end = [], time.monotonic() + DEADLINE
    while not got:
        assert time.monotonic() < end
        inbox.socket.poll(100)
        got = inbox.receive()
    assert got == [SEGMENT]
    assert counters == {f"drop_pipe_{reason}": 1}
    inbox.close()


def test_a_message_over_the_size_limit_never_reaches_the_layer(context, tmp_path):
    endpoint = f"ipc://{tmp_path}/inbox"
    inbox = Inbox(context, endpoint, Counter())
    sender = context.socket(zmq.PUSH)
    sender.connect(endpoint)
    sender.send(b"\0" * (envelope.MAX_BATCH + 1))
    other = context.socket(zmq.PUSH)
    other.connect(endpoint)
    other.send(envelope.encode([SEGMENT]))
    assert inbox.socket.poll(DEADLINE * 1000)
    assert inbox.receive() == [SEGMENT]
    inbox.close()


def test_an_inbox_that_somebody_holds_is_refused_with_the_pid(context, tmp_path):
    inbox = Inbox(context, f"ipc://{tmp_path}/inbox", Counter())
    with pytest.raises(Held, match=str(os.getpid())):
        Inbox(context, f"ipc://{tmp_path}/inbox", Counter())
    inbox.close()
    Inbox(context, f"ipc://{tmp_path}/inbox", Counter()).close()


def test_the_holder_of_a_lock_is_known_until_it_lets_go(tmp_path):
    path = tmp_path / "x.lock"
    assert holder(path) is None
    lock = Lock(path)
    assert holder(path) == os.getpid()
    lock.release()
    assert holder(path) is None


# --- a neighbour that is exchanged --------------------------------------------------------------


def fenced(asker, neighbour, token=99):
    """The asker has its answer, and the neighbour holds what it has to send."""
    assert asker.fence(token)
    collect(neighbour, lambda _: neighbour.held, asker)
    collect(asker, lambda _: asker.fenced == token, neighbour)


@pytest.mark.parametrize("lossless", [True, False])
def test_what_was_sent_before_the_fence_arrives_and_what_comes_later_waits(
    context, tmp_path, lossless
):
    tcp = make(context, tmp_path, "tcp", "ip", 11, lossless)
    ip = make(context, tmp_path, "ip", "tcp", 22, lossless)
    meet(tcp, ip)
    for number in range(100):
        tcp.send([SEGMENT._replace(ttl=number)])
    assert ip.fence(99)
    got = collect(ip, lambda got: ip.fenced == 99, tcp)
    assert [item.ttl for item in got] == list(range(100))
    for number in range(100):
        tcp.send([SEGMENT._replace(ttl=number)])
    assert tcp.waiting == 100
    assert not tcp.blocked  # there is nothing to wait for at the outlet
    tcp.close()
    ip.close()


@pytest.mark.parametrize("lossless", [True, False])
def test_a_successor_gets_what_waited_in_order_and_is_no_news_to_the_core(
    context, tmp_path, lossless
):
    elsewhere = zmq.Context()
    tcp = make(context, tmp_path, "tcp", "ip", 11, lossless)
    ip = make(elsewhere, tmp_path, "ip", "tcp", 22, lossless)
    meet(tcp, ip)
    collect(tcp, lambda _: tcp.peer_generation is not None, ip)
    fenced(ip, tcp)
    for number in range(100):
        tcp.send([SEGMENT._replace(ttl=number)])
    state = ip.to_state()
    ip.close()
    elsewhere.term()  # close() alone only asks for the end
    later = Pipe(context, "ip", "tcp", ip.inbox.endpoint, ip.outlet.endpoint, 22, lossless,
                 Counter(), state)  # fmt: skip
    got = collect(later, lambda got: len(got) == 100, tcp)
    assert [item.ttl for item in got] == list(range(100))
    later.queue([SEGMENT._replace(ttl=7)])
    news = collect(tcp, bool, later)
    assert news == [SEGMENT._replace(ttl=7)]  # and no Hello
    tcp.close()
    later.close()


def test_a_fence_that_is_lifted_lets_the_neighbour_go_on(context, tmp_path):
    tcp = make(context, tmp_path, "tcp", "ip", 11)
    ip = make(context, tmp_path, "ip", "tcp", 22)
    meet(tcp, ip)
    fenced(ip, tcp)
    tcp.send([SEGMENT])
    ip.lift(99)
    collect(tcp, lambda _: not tcp.held, ip)
    assert collect(ip, bool, tcp) == [SEGMENT]
    tcp.close()
    ip.close()


def test_a_fence_that_nobody_ends_is_over_after_its_limit(context, tmp_path):
    tcp = make(context, tmp_path, "tcp", "ip", 11)
    ip = make(context, tmp_path, "ip", "tcp", 22)
    meet(tcp, ip)
    fenced(ip, tcp)
    tcp.send([SEGMENT])
    due = tcp.deadline()
    tcp.expire(due - 1)
    assert tcp.held
    tcp.expire(due)
    assert not tcp.held
    assert tcp.counters["pipe_no_successor"] == 1
    assert collect(ip, bool) == [SEGMENT]
    tcp.close()
    ip.close()


def test_packets_beyond_the_bound_are_dropped_and_counted_while_a_neighbour_is_exchanged(
    context, tmp_path
):
    tcp = make(context, tmp_path, "tcp", "ip", 11)
    ip = make(context, tmp_path, "ip", "tcp", 22)
    meet(tcp, ip)
    fenced(ip, tcp)
    tcp.send([SEGMENT] * (HELD_MAX - 1))
    tcp.send([SEGMENT] * 3)
    tcp.send([SEGMENT] * 3)
    assert tcp.waiting == HELD_MAX
    assert tcp.counters["drop_ip_away_or_full"] == 5
    tcp.close()
    ip.close()


def test_a_neighbour_that_was_never_met_is_not_asked(context, tmp_path):
    tcp = make(context, tmp_path, "tcp", "ip", 11)
    assert not tcp.fence(99)
    tcp.close()


@pytest.mark.parametrize(("known", "news"), [(11, [Kept, Hello]), (12, [Hello])])
def test_a_neighbour_that_has_recovered_says_so_to_whom_its_predecessor_knew(
    context, tmp_path, known, news
):
    """Only if this is still the same process is nothing forgotten."""
    app = make(context, tmp_path, "app", "tcp", 11, lossless=True)
    tcp = make(context, tmp_path, "tcp", "app", 22, lossless=True)
    meet(app, tcp)
    tcp.close()
    successor = make(context, tmp_path, "tcp", "app", 33, lossless=True, kept=known)
    got = collect(app, bool, successor)
    assert [type(message) for message in got] == news
    assert got[-1].generation == 33
