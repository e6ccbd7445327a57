"""What every implementation of the role `app` owes: to tcp below it, and to programs above.

Nothing here knows how a layer works inside. Programs are the operations of the socket API, as
methods that return Calls; TCP is played by hand.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from implementations import IMPLEMENTATIONS

from plywire import messages as m
from plywire.config import SECOND, AppConfig, host
from plywire.layer import Factory
from plywire.messages import Message
from plywire.registry import load
from plywire.roles import TCP
from plywire.trace import Tracer

H1, H2 = b"\x0a\0\0\x01", b"\x0a\0\0\x02"
T0 = 1000 * SECOND
LIMIT = 100_000

FACTORIES = [pytest.param(load(spec), id=name) for name, spec in IMPLEMENTATIONS["app"].items()]


class Subject:
    """An instance with its one boundary and the time."""

    def __init__(self, factory: Factory, seed: int = 7) -> None:
        self.config = host("h1", "10.0.0.1/24", names={"h2": H2}, app=AppConfig(max_descriptors=8))
        self.factory = factory
        self.layer: Any = factory(self.config, random.Random(seed), Tracer())
        self.now = T0

    def put(self, message: Message) -> list[Message]:
        self.layer.receive(message, TCP, self.now)
        return self.out()

    def out(self) -> list[Message]:
        outputs = self.layer.outputs()
        assert {output.to for output in outputs} <= {TCP}
        return [output.message for output in outputs]

    def do(self, name: str, *args: Any, **fields: Any) -> tuple[Any, list[Message]]:
        call = getattr(self.layer, name)(*args, now=self.now, **fields)
        return call, self.out()

    def hello(self, generation: int = 1) -> list[Message]:
        return self.put(m.Hello(0, "tcp", generation, 0))

    def connected(self) -> tuple[int, int]:
        """(descriptor, handle) of a connection."""
        fd = self.do("create_socket")[0].result()
        call, (connect,) = self.do("connect", fd, ("10.0.0.2", 80))
        self.put(m.Opened(connect.trace, connect.handle, 0, H1, 5000, H2, 80, LIMIT))
        assert not call.result().in_progress
        return fd, connect.handle

    def listening(self) -> tuple[int, int]:
        fd = self.do("create_socket")[0].result()
        call, (listen,) = self.do("listen", fd, 5)
        self.put(m.Bound(1, listen.handle, bytes(4), 80, "", ""))
        assert call.result() == ("0.0.0.0", 80)
        return fd, listen.handle


@pytest.fixture(params=FACTORIES)
def subject(request: pytest.FixtureRequest) -> Subject:
    made = Subject(request.param)
    made.hello()
    return made


def test_handles_are_even_and_not_used_again(subject):
    seen = set()
    for _ in range(20):
        fd, handle = subject.connected()
        assert handle % 2 == 0
        assert handle not in seen
        seen.add(handle)
        _, told = subject.do("close_socket", fd)
        assert [type(each) for each in told] == [m.Close]


def test_calls_bear_trace_ids_and_their_effects_inherit_them(subject):
    fd = subject.do("create_socket")[0].result()
    _, (connect,) = subject.do("connect", fd, ("10.0.0.2", 80))
    assert connect.trace != 0
    subject.put(m.Opened(1, connect.handle, 0, H1, 5000, H2, 80, LIMIT))
    _, (data,) = subject.do("send", fd, b"x")
    assert data.trace not in (0, connect.trace)


def test_data_goes_down_within_credit_only_and_in_order(subject):
    fd, handle = subject.connected()
    payload = bytes(range(256)) * 1000
    call, told = subject.do("send", fd, payload)
    limit, got = LIMIT, b""
    while not call.done:
        for each in told:
            assert each.offset == len(got)
            assert len(each.payload) <= m.MAX_CHUNK
            got += each.payload
        assert len(got) == limit, "all of the credit is used, and nothing beyond it"
        limit += 50_000
        told = subject.put(m.Credit(1, handle, len(got), limit))
    assert got + b"".join(each.payload for each in told) == payload


def test_credit_for_what_comes_up_grows_with_reading_and_never_shrinks(subject):
    fd, handle = subject.connected()
    offset, limit = 0, subject.config.app.receive_buffer
    for _ in range(100):
        subject.put(m.Data(1, handle, offset, bytes(20_000)))
        offset += 20_000
        call, told = subject.do("recv", fd, 20_000)
        assert len(call.result().data) == 20_000
        for each in told:
            assert isinstance(each, m.Credit)
            assert each.acked <= offset
            assert each.limit >= limit
            limit = each.limit
    assert limit > offset


def test_repeated_data_is_delivered_once(subject):
    fd, handle = subject.connected()
    for offset, payload in ((0, b"abc"), (0, b"abc"), (1, b"bcd"), (4, b"e")):
        subject.put(m.Data(1, handle, offset, payload))
    subject.put(m.End(1, handle, 5))
    result = subject.do("recv", fd, 100)[0].result()
    assert (result.data, result.end_of_stream) == (b"abcde", True)


def test_an_accepted_connection_is_said_to_be_accepted(subject):
    fd, listener = subject.listening()
    subject.put(m.Opened(3, 1, listener, H1, 80, H2, 999, LIMIT))
    call, told = subject.do("accept", fd)
    assert call.result().remote == ("10.0.0.2", 999)
    assert [(type(each), each.handle) for each in told] == [(m.Accepted, 1)]


def test_close_says_where_the_stream_ends_and_aborts_when_data_is_unread(subject):
    fd, handle = subject.connected()
    subject.do("send", fd, b"12345")
    _, (close,) = subject.do("close_socket", fd)
    assert close[1:] == (handle, 5, 0)
    fd, handle = subject.connected()
    subject.put(m.Data(1, handle, 0, b"unread"))
    _, (close,) = subject.do("close_socket", fd)
    assert close.abort == 1


def test_after_close_the_handle_is_silent(subject):
    fd, handle = subject.connected()
    subject.do("close_socket", fd)
    assert subject.put(m.Data(1, handle, 0, b"late")) == []
    assert subject.put(m.Credit(1, handle, 0, LIMIT)) == []
    assert subject.put(m.Closed(1, handle, "", "")) == []


def test_a_new_generation_of_tcp_ends_connections_and_hears_of_listeners(subject):
    fd, _ = subject.connected()
    _, listener = subject.listening()
    told = subject.hello(2)
    assert [type(each) for each in told] == [m.Bind, m.Listen]
    assert {each.handle for each in told} == {listener}
    call, _ = subject.do("recv", fd, 1)
    assert call.error.name == "ECONNRESET"


def test_calls_made_before_tcp_is_there_reach_it_later():
    for param in FACTORIES:
        subject = Subject(param.values[0])
        fd = subject.do("create_socket")[0].result()
        call, told = subject.do("connect", fd, ("10.0.0.2", 80))
        assert told == []
        assert not call.done
        assert [type(each) for each in subject.hello()] == [m.Connect]


def test_timeouts_are_kept_by_expire_and_deadline(subject):
    fd, _ = subject.connected()
    call, _ = subject.do("recv", fd, 1, timeout=2)
    assert subject.layer.deadline() == T0 + 2 * SECOND
    subject.now = subject.layer.deadline()
    subject.layer.expire(subject.now)
    assert call.result().would_block
    assert subject.layer.deadline() is None


def test_descriptors_are_bounded(subject):
    for _ in range(8):
        subject.do("create_socket")[0].result()
    assert subject.do("create_socket")[0].error.name == "EMFILE"


def test_a_successor_has_the_same_sockets(subject):
    fd, handle = subject.connected()
    subject.put(m.Data(1, handle, 0, b"abc"))
    subject.do("send", fd, b"xyz")
    successor = Subject(subject.factory, seed=8)
    successor.layer.restore(subject.layer.snapshot(), T0)
    successor.out()
    assert successor.do("recv", fd, 10)[0].result().data == b"abc"
    _, (data,) = successor.do("send", fd, b"!")
    assert (data.handle, data.offset) == (handle, 3)


_u64 = st.integers(0, 2**20)
_handle = st.integers(0, 9)
_words = st.sampled_from(["", "ECONNRESET", "EADDRINUSE"])
_from_tcp = st.one_of(
    st.builds(m.Hello, _u64, st.just("tcp"), st.integers(1, 2), st.integers(0, 1)),
    st.builds(m.Bound, _u64, _handle, st.just(H1), st.integers(0, 99), _words, st.just("")),
    st.builds(m.Opened, _u64, _handle, _handle, st.just(H1), st.just(1), st.just(H2), st.just(2),
              _u64),
    st.builds(m.Closed, _u64, _handle, _words, st.just("")),
    st.builds(m.Info, _u64, _handle, st.just({"state": "X", "n": 1})),
    st.builds(m.Data, _u64, _handle, st.integers(0, 30), st.binary(max_size=20)),
    st.builds(m.Credit, _u64, _handle, st.integers(0, 30), _u64),
    st.builds(m.End, _u64, _handle, st.integers(0, 30)),
    st.builds(m.Accepted, _u64, _handle),
)  # fmt: skip
_fd = st.integers(3, 7)
_now_or_soon = st.sampled_from([0, 0.001, None])
_operation = st.one_of(
    st.tuples(st.just("create_socket")),
    st.tuples(st.just("bind"), _fd, st.just(("", 0))),
    st.tuples(st.just("listen"), _fd, st.integers(0, 3)),
    st.tuples(st.just("connect"), _fd, st.just(("10.0.0.2", 80)), _now_or_soon),
    st.tuples(st.just("accept"), _fd, _now_or_soon),
    st.tuples(st.just("send"), _fd, st.binary(max_size=20), _now_or_soon),
    st.tuples(st.just("recv"), _fd, st.integers(0, 20), _now_or_soon),
    st.tuples(st.just("poll"), st.lists(st.tuples(_fd, st.integers(0, 63)), max_size=4),
              _now_or_soon),
    st.tuples(st.just("shutdown"), _fd, st.sampled_from(["read", "write", "both"])),
    st.tuples(st.just("close_socket"), _fd),
    st.tuples(st.just("set_option"), _fd, st.just("SO_LINGER"), st.integers(-1, 1)),
    st.tuples(st.just("list_sockets")),
)  # fmt: skip
_WITH_TIMEOUT = {"connect", "accept", "send", "recv", "poll"}


@pytest.mark.parametrize("factory", FACTORIES)
@given(steps=st.lists(st.one_of(_from_tcp, _operation, st.just("time")), max_size=40))
def test_nothing_that_tcp_or_programs_do_breaks_it(factory, steps):
    def play(subject: Subject) -> list:
        told: list = []
        for step in steps:
            if step == "time":
                subject.now += SECOND // 2
                subject.layer.expire(subject.now)
                told += subject.out()
            elif isinstance(step, m.Message):
                told += subject.put(step)
            else:
                name, *args = step
                fields = {"timeout": args.pop()} if name in _WITH_TIMEOUT else {}
                call, out = subject.do(name, *args, **fields)
                assert call.done or fields.get("timeout") != 0
                told += out
        return told

    first = Subject(factory)
    assert play(first) == play(Subject(factory)), "equal inputs give equal outputs"
    successor = Subject(factory)
    successor.layer.restore(first.layer.snapshot(), first.now)
    assert len(successor.layer.describe("sockets", first.now)) == len(
        first.layer.describe("sockets", first.now)
    )
