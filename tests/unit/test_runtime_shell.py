"""The shell round a small layer: both ways of running it, timers, watching, questions."""

import asyncio
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import zmq

from plywire import envelope
from plywire.calls import Call
from plywire.errors import SocketError
from plywire.layer import Output
from plywire.messages import Hello, Query
from plywire.roles import APP
from plywire.runtime.observer import Control, Publisher, ask
from plywire.runtime.pipe import Pipe
from plywire.runtime.shell import Shell
from plywire.trace import Event, Tracer

DEADLINE = 5.0
TIMER_HANDLE = 999


class EchoLayer:
    """Sends every Query back; a Query for TIMER_HANDLE comes back 20 ms later, by a timer."""

    def __init__(self):
        self.counters = Counter()
        self._out = []
        self._due = None

    def receive(self, message, source, now):
        self.counters["in"] += 1
        if type(message) is Hello:
            return
        if message.handle == TIMER_HANDLE:
            self._due = (now + 20_000_000, message)
        else:
            self._out.append(Output(source, message))

    def expire(self, now):
        if self._due and self._due[0] <= now:
            self._out.append(Output(APP, self._due[1]))
            self._due = None

    def deadline(self):
        return self._due[0] if self._due else None

    def outputs(self):
        out, self._out = self._out, []
        return out


class Bench:
    """A shell as `tcp` and this test as its neighbour `app`."""

    def __init__(self, folder):
        self.folder = folder
        self.context = zmq.Context()
        self.waiting: list[Call] = []
        tracer = Tracer("h1", "tcp")
        self.shell = Shell(
            EchoLayer(),
            {APP: self.pipe("tcp", "app", 1)},
            tracer,
            publisher=Publisher(self.context, f"ipc://{folder}/trace"),
            control=Control(
                self.context,
                f"ipc://{folder}/control",
                {
                    "double": lambda now, n: 2 * n,
                    "later": self.later,
                    "finish": self.finish,
                    "refuse": lambda now: Call().fail(SocketError("EINVAL", "no")),
                    "neighbours": lambda now: self.shell.neighbours(),
                },
            ),
        )
        self.app = self.pipe("app", "tcp", 2)

    def later(self, now):
        self.waiting.append(Call())
        return self.waiting[-1]

    def finish(self, now):
        for call in self.waiting:
            call.resolve("done")
        return len(self.waiting)

    def pipe(self, role, neighbour, generation):
        inbox, outlet = (
            f"ipc://{self.folder}/{reader}.from-{writer}"
            for reader, writer in ((role, neighbour), (neighbour, role))
        )
        return Pipe(self.context, role, neighbour, inbox, outlet, generation, True, Counter())

    def exchange(self, *messages):
        """Send messages, and return as many that came back, Hellos left out."""
        self.app.send(messages)
        got, end = [], time.monotonic() + DEADLINE
        while len(got) < len(messages):
            assert time.monotonic() < end, got
            self.app.flush()
            self.app.inbox.socket.poll(10)
            got += [item for item in self.app.receive() if type(item) is not Hello]
        return got

    def subscribe(self):
        socket = self.context.socket(zmq.SUB)
        socket.connect(f"ipc://{self.folder}/trace")
        socket.subscribe(b"")
        assert socket.poll(DEADLINE * 1000)
        assert envelope.load_state(socket.recv()) == [0, []]
        return socket


def blocking(bench, stop_read):
    bench.shell.run([stop_read])


def in_asyncio(bench, stop_read):
    async def main():
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        loop.add_reader(stop_read, stop.set)
        bench.shell.attach(loop)
        await stop.wait()
        bench.shell.detach()

    asyncio.run(main())


@pytest.fixture(params=[blocking, in_asyncio])
def bench(request, tmp_path):
    bench = Bench(tmp_path)
    stop_read, stop_write = os.pipe()
    thread = threading.Thread(target=request.param, args=(bench, stop_read))
    thread.start()
    yield bench
    os.write(stop_write, b"x")
    thread.join(DEADLINE)
    assert not thread.is_alive()
    bench.app.close()
    bench.shell.close()
    bench.context.destroy(0)
    os.close(stop_read)
    os.close(stop_write)


def test_messages_go_in_and_outputs_out_in_order(bench):
    messages = [Query(n, n) for n in range(300)]
    assert bench.exchange(*messages) == messages


def test_timers_run(bench):
    start = time.monotonic()
    assert bench.exchange(Query(1, TIMER_HANDLE)) == [Query(1, TIMER_HANDLE)]
    assert time.monotonic() - start >= 0.02


def test_neighbours_are_known(bench):
    end = time.monotonic() + DEADLINE
    while ask(f"ipc://{bench.folder}/control", "neighbours") != {APP: True}:
        assert time.monotonic() < end
        bench.app.expire(time.monotonic_ns())
        bench.app.flush()
        bench.app.receive()


def test_nothing_is_traced_until_somebody_subscribes(bench):
    bench.exchange(Query(1, 1))
    assert not bench.shell.tracer.enabled
    socket = bench.subscribe()
    bench.exchange(Query(7, 42))
    events = []
    while len(events) < 2:
        assert socket.poll(DEADLINE * 1000)
        lost, rows = envelope.load_state(socket.recv())
        assert lost == 0
        events += [Event(*row) for row in rows]
    assert [(event.what, event.direction) for event in events] == [("in", "down"), ("out", "up")]
    assert {event.trace for event in events} == {7}
    assert events[0].fields == {"handle": 42, "topic": ""}
    assert events[0].boundary == "app/tcp"
    assert events[0].time <= events[1].time
    socket.close(0)
    end = time.monotonic() + DEADLINE
    while bench.shell.tracer.enabled:
        assert time.monotonic() < end


def test_questions_are_answered(bench):
    assert ask(f"ipc://{bench.folder}/control", "double", 21) == 42


def test_a_question_may_be_answered_later(bench):
    """The first question waits for the second one, which may only end it once it was heard."""
    endpoint = f"ipc://{bench.folder}/control"
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(ask, endpoint, "later")
        end = time.monotonic() + DEADLINE
        while not ask(endpoint, "finish"):
            assert time.monotonic() < end
        assert later.result(DEADLINE) == "done"


@pytest.mark.parametrize("request_", [["refuse"], ["unknown"], ["double"], ["double", 1, 2]])
def test_a_refused_question_says_why(bench, request_):
    with pytest.raises(ValueError, match=r"EINVAL|KeyError|TypeError"):
        ask(f"ipc://{bench.folder}/control", *request_)


def test_nobody_answers():
    with pytest.raises(TimeoutError):
        ask("ipc:///tmp/plywire-nobody-is-here", "ping", timeout=0.05)
