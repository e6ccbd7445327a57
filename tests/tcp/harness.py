"""Two ways to drive a TCP layer: a scripted peer with hand-made segments, and a pair of layers
joined by an imperfect wire in virtual time."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import replace
from typing import NamedTuple

from plywire.config import HostConfig, host
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
    Info,
    Listen,
    Message,
    Opened,
    Option,
    PacketError,
    Paths,
    Query,
    Segment,
)
from plywire.roles import APP, IP
from plywire.seq import add
from plywire.trace import Event, Tracer
from plywire.wire import tcp as wire
from plywire.wire.tcp import ACK, FIN, PSH, RST, SYN, URG, Options, TcpHeader
from services.tcp import create
from services.tcp.core import TcpLayer
from services.tcp.tcb import Tcb

__all__ = ["ACK", "FIN", "PSH", "RST", "SYN", "URG", "Got", "Pair", "Peer", "Raw"]

MS = 1_000_000
SECOND = 1_000_000_000
LOCAL = bytes((10, 0, 0, 1))
REMOTE = bytes((10, 0, 0, 2))
ANY = bytes(4)
BUFFER = 1 << 20


def paths_of(config: HostConfig, mtu: int = 1500) -> Paths:
    """What the ip layer of such a host says first."""
    address = config.interfaces[0].address
    return Paths(0, (
        (address, 32, address, 65_535),
        (bytes((127, 0, 0, 0)), 8, bytes((127, 0, 0, 1)), 65_535),
        (config.interfaces[0].network, config.interfaces[0].prefix_length, address, mtu),
        (ANY, 0, address, mtu),
    ))  # fmt: skip


class Got(NamedTuple):
    """A segment that the layer sent."""

    flags: int
    seq: int
    ack: int
    window: int
    data: bytes
    options: Options
    message: Segment


class Raw:
    """One layer between a scripted peer below and a scripted app above.

    Sequence numbers are those of the wire. `iss` forces the layer's initial sequence number.
    Buffers are fixed at BUFFER, so that a script need not heed credit, unless tune_buffers is set.
    """

    def __init__(self, iss: int = 1000, mtu: int = 1500, hello: bool = True, **tcp: object) -> None:
        config = host("h1", "10.0.0.1/24")
        if not tcp.get("tune_buffers"):
            tcp = {"send_buffer": BUFFER, "receive_buffer": BUFFER, "tune_buffers": False} | tcp
        self.config = replace(config, tcp=replace(config.tcp, **tcp))
        self.now = 10 * SECOND
        self.events: list[Event] = []
        self.layer: TcpLayer = create(
            self.config, random.Random(1), Tracer("h1", "tcp", self.events.append)
        )
        self.force(iss)
        self.segments: list[Got] = []
        self.messages: list[Message] = []
        self.trace = 0
        if hello:
            self.layer.receive(paths_of(self.config, mtu), IP, self.now)

    def force(self, iss: int) -> None:
        """Make the next connections begin at `iss`."""
        self.layer.stack.isn = _Fixed(self.layer.stack.isn.key, iss)

    @property
    def counters(self):
        return self.layer.counters

    # --- time -------------------------------------------------------------------------------------

    def collect(self) -> None:
        for output in self.layer.outputs():
            if output.to == IP:
                assert isinstance(output.message, Segment)
                item = output.message
                header, data = wire.decode(item.payload, item.src, item.dst)
                self.segments.append(Got(header.flags, header.seq, header.ack, header.window, data,
                                         wire.parse_options(header.options), item))  # fmt: skip
            else:
                self.messages.append(output.message)

    def advance(self, delta: int) -> None:
        """Let time pass, timers and all."""
        end = self.now + delta
        while (due := self.layer.deadline()) is not None and due <= end:
            self.now = max(due, self.now)
            self.layer.expire(self.now)
            self.collect()
        self.now = end

    def take(self) -> list[Got]:
        """The segments sent since the last take."""
        found, self.segments = self.segments, []
        return found

    def only(self) -> Got:
        """The one segment sent since the last take."""
        found = self.take()
        assert len(found) == 1, [(item.flags, item.seq, item.ack, len(item.data)) for item in found]
        return found[0]

    def told(self, kind: type = object) -> list:
        """What the app was told since it last looked, of one kind; the others are dropped."""
        found, self.messages = self.messages, []
        return [item for item in found if isinstance(item, kind)]

    # --- the app ----------------------------------------------------------------------------------

    def app(self, message: Message) -> None:
        self.layer.receive(message, APP, self.now)
        self.collect()

    def connect(self, handle: int = 2, port: int = 80, limit: int = BUFFER, **options: int) -> None:
        self.app(Connect(7, handle, REMOTE, port, limit, options))

    def listen(self, handle: int = 2, port: int = 80, backlog: int = 8, **options: int) -> None:
        self.app(Bind(0, handle, ANY, port, options.get("SO_REUSEADDR", 0)))
        self.app(Listen(0, handle, backlog, options))
        bound = self.told(Bound)
        assert [item.error for item in bound] == ["", ""], bound

    def write(self, data: bytes, offset: int, handle: int = 2) -> None:
        self.app(Data(9, handle, offset, data))

    def end(self, offset: int = 0, handle: int = 2) -> None:
        self.app(End(9, handle, offset))

    def close(self, offset: int = 0, handle: int = 2, abort: int = 0) -> None:
        self.app(Close(9, handle, offset, abort))

    def credit(self, acked: int, limit: int, handle: int = 2) -> None:
        self.app(Credit(0, handle, acked, limit))

    def option(self, name: str, value: int, handle: int = 2) -> None:
        self.app(Option(0, handle, name, value))

    def accept(self, handle: int) -> None:
        self.app(Accepted(0, handle))

    def info(self, handle: int = 2) -> dict:
        self.app(Query(0, handle))
        found = [item for item in self.messages if isinstance(item, Info)]
        self.messages = [item for item in self.messages if not isinstance(item, Info)]
        return found[-1].fields

    # --- the peer ---------------------------------------------------------------------------------

    def segment(
        self,
        flags: int,
        seq: int,
        ack: int = 0,
        data: bytes = b"",
        *,
        src_port: int = 80,
        dst_port: int = 0,
        window: int = 65_535,
        options: Options | None = None,
        urgent: int = 0,
        src: bytes = REMOTE,
        dst: bytes = LOCAL,
        trace: int = 5,
        message_flags: int = 0,
        tos: int = 0,
    ) -> None:
        """A segment arrives."""
        header = TcpHeader(src_port, dst_port, seq, ack, flags, window, urgent,
                           wire.build_options(options) if options else b"")  # fmt: skip
        payload = wire.encode(header, data, src, dst)
        self.layer.receive(
            Segment(trace, 6, src, dst, tos, 64, message_flags, payload), IP, self.now
        )
        self.collect()

    def error(self, message: PacketError) -> None:
        self.layer.receive(message, IP, self.now)
        self.collect()

    def states(self) -> list[str]:
        return [tcb.state for tcb in self.layer.stack.by_id.values()]

    def tcb(self) -> Tcb:
        """The only connection."""
        (found,) = self.layer.stack.by_id.values()
        return found


class Peer:
    """A connection of a `Raw`, with the peer's side of the numbers kept by hand.

    `snd` is the peer's next sequence number, `rcv` the next that it expects of the layer; data is
    given by the peer's stream offset.
    """

    def __init__(
        self,
        raw: Raw | None = None,
        *,
        passive: bool = False,
        iss: int = 5000,
        window: int = 65_535,
        mss: int | None = 1460,
        scale: int | None = None,
        limit: int = BUFFER,
        options: dict[str, int] | None = None,
        establish: bool = True,
        port: int = 80,
        timestamps: int | None = None,
        sack: bool = False,
        rtt: int = 0,
        ecn_flags: int = 0,
        syn_tos: int = 0,
        **tcp: object,
    ) -> None:
        self.raw = raw or Raw(**tcp)
        self.tsval = timestamps  # the peer's clock, or None when it has no timestamps
        self.tsecr = 0
        self.iss, self.window, self.passive = iss, window, passive
        self.snd = iss
        self.scale = scale
        self.syn_options = Options(mss=mss, window_scale=scale, sack_permitted=sack)
        self.handle = 2
        if passive:
            if not self.raw.layer.stack.listeners:
                self.raw.listen(2, port, **(options or {}))
            self.local_port, self.remote_port = port, 40_000
            self.send(SYN | ecn_flags, options=self.syn_options, tos=syn_tos)
            self.snd = add(iss, 1)
            self.synack = self.raw.only()
            self._echo(self.synack)
            self.local_iss = self.synack.seq
            self.rcv = add(self.local_iss, 1)
            if establish:
                self.send(ACK)
                (opened,) = self.raw.told(Opened)
                self.handle = opened.handle
                self.raw.accept(self.handle)
            else:
                self.handle = self.raw.tcb().handle
        else:
            self.raw.connect(2, port, limit, **(options or {}))
            self.syn = self.raw.only()
            self._echo(self.syn)
            header, _ = wire.decode_unchecked(self.syn.message.payload)
            self.local_port, self.remote_port = header.src_port, port
            self.local_iss = self.syn.seq
            self.rcv = add(self.local_iss, 1)
            if establish:
                self.advance(rtt)
                self.send(SYN | ACK, options=self.syn_options)
                self.snd = add(iss, 1)
                ack = self.raw.only()
                assert (ack.flags, ack.seq, ack.ack) == (ACK, self.rcv, self.snd)
                assert self.raw.told(Opened)
                if scale:
                    self.send(ACK)  # the window of a SYN is not scaled: say what it is

    def send(
        self,
        flags: int = ACK,
        data: bytes = b"",
        *,
        seq: int | None = None,
        ack: int | None = None,
        window: int | None = None,
        options: Options | None = None,
        urgent: int = 0,
        tos: int = 0,
    ) -> None:
        """A segment of this connection; seq and ack default to what is next."""
        if ack is None:
            ack = self.rcv if flags & ACK else 0
        if self.tsval is not None and (options is None or options.timestamps is None):
            options = (options or Options())._replace(timestamps=(self.tsval, self.tsecr))
        self.raw.segment(flags, self.snd if seq is None else seq, ack, data,
                         src_port=self.remote_port, dst_port=self.local_port,
                         window=self.window if window is None else window, options=options,
                         urgent=urgent, tos=tos)  # fmt: skip

    def data(self, data: bytes, flags: int = ACK, **extra: object) -> None:
        """In-order data, and move on."""
        self.send(flags, data, **extra)
        self.snd = add(self.snd, len(data) + (1 if flags & FIN else 0))

    def ack(self, count: int, flags: int = ACK, **extra: object) -> None:
        """Acknowledge `count` more sequence numbers."""
        self.rcv = add(self.rcv, count)
        self.send(flags, **extra)

    def write(self, data: bytes, offset: int = 0) -> None:
        self.raw.write(data, offset, self.handle)

    def sack(self, *blocks: tuple[int, int], flags: int = ACK, **extra: object) -> None:
        """Acknowledge nothing more, but report blocks, given as counts from `rcv` on."""
        edges = tuple((add(self.rcv, left), add(self.rcv, right)) for left, right in blocks)
        self.send(flags, options=Options(sack=edges), **extra)

    def _echo(self, got: Got) -> None:
        if got.options.timestamps is not None:
            self.tsecr = got.options.timestamps[0]

    def take(self) -> list[Got]:
        found = self.raw.take()
        for item in found:
            self._echo(item)
        return found

    def only(self) -> Got:
        got = self.raw.only()
        self._echo(got)
        return got

    def advance(self, delta: int) -> None:
        if self.tsval is not None:
            self.tsval += delta // MS
        self.raw.advance(delta)

    @property
    def tcb(self) -> Tcb:
        return self.raw.tcb()

    @property
    def state(self) -> str:
        states = self.raw.states()
        return states[0] if states else "CLOSED"


class _Fixed:
    def __init__(self, key: bytes, iss: int) -> None:
        self.key, self.iss = key, iss

    def choose(self, *_: object) -> int:
        return self.iss


class Side:
    """One side of a `Pair`: a layer, and an app that sends one stream and reads the other.

    read_rate: None reads at once; otherwise call `read` by hand.
    """

    def __init__(self, pair: Pair, name: str, address: str, iss: int | None, tcp: dict) -> None:
        config = host(name, address)
        self.config = replace(config, tcp=replace(config.tcp, **tcp))
        self.pair, self.name = pair, name
        self.address = self.config.interfaces[0].address
        self.rng = random.Random(f"{pair.seed}{name}")
        self.iss = iss
        self.layer = self._new()
        self.layer.receive(paths_of(self.config, pair.mtu), IP, pair.now)
        self.handle = 0
        self.sending = b""
        self.sent = 0  # handed to tcp
        self.limit = 0
        self.received = bytearray()
        self.read_to = 0
        self.buffer = self.config.tcp.receive_buffer
        self.auto_read = True
        self.close_when_sent = False
        self.closed_down = False
        self.peer_ended = False
        self.closed: Closed | None = None

    def _new(self) -> TcpLayer:
        layer = create(self.config, self.rng, Tracer())
        if self.iss is not None:
            layer.stack.isn = _Fixed(layer.stack.isn.key, self.iss)
        if self.pair.watches:
            self.pair.watches[self.name].attach(layer)
        return layer

    def swap(self) -> None:
        """Put a new layer in the old one's place."""
        state = self.layer.snapshot()
        layer = self._new()
        layer.restore(state, self.pair.now)
        assert layer.snapshot() == state
        self.layer = layer

    def app(self, message: Message) -> None:
        self.layer.receive(message, APP, self.pair.now)
        self.pair.collect(self)

    def heard(self, message: Message) -> None:
        if isinstance(message, Opened):
            if message.listener:
                self.handle = message.handle
                self.app(Accepted(0, self.handle))
            self.limit = message.limit
            self.pump()
        elif isinstance(message, Data):
            assert message.handle == self.handle
            assert message.offset == len(self.received), "a gap or a repeat"
            self.received += message.payload
            if self.auto_read:
                self.read(len(self.received))
        elif isinstance(message, Credit):
            assert message.limit >= self.limit
            self.limit = message.limit
            self.pump()
        elif isinstance(message, End):
            assert message.offset == len(self.received)
            self.peer_ended = True
        elif isinstance(message, Closed):
            assert self.closed is None
            self.closed = message

    def read(self, upto: int) -> None:
        """The program has read up to this offset."""
        self.read_to = min(upto, len(self.received))
        self.app(Credit(0, self.handle, self.read_to, self.read_to + self.buffer))

    def send(self, data: bytes, close: bool = True) -> None:
        self.sending += data
        self.close_when_sent = close
        self.pump()

    def pump(self) -> None:
        if not self.limit or self.closed:
            return
        while self.sent < min(len(self.sending), self.limit):
            chunk = self.sending[self.sent : min(self.sent + 65_536, self.limit)]
            offset = self.sent
            self.sent += len(chunk)
            self.app(Data(1, self.handle, offset, chunk))
        if self.close_when_sent and not self.closed_down and self.sent == len(self.sending):
            self.closed_down = True
            self.app(End(1, self.handle, self.sent))


class Pair:
    """Two layers and the wire between them, in virtual time; everything derives from the seed."""

    def __init__(
        self,
        seed: int = 1,
        *,
        delay: int = 5 * MS,
        jitter: int = 0,
        loss: float = 0.0,
        duplicate: float = 0.0,
        corrupt: float = 0.0,
        mtu: int = 1500,
        iss: tuple[int | None, int | None] = (None, None),
        watches: dict | None = None,
        **tcp: object,
    ) -> None:
        self.seed = seed
        self.watches = watches  # by "a" and "b": invariants.Watch
        self.rng = random.Random(seed)
        self.now = SECOND
        self.delay, self.jitter, self.mtu = delay, jitter, mtu
        self.loss = self.loss_back = loss  # from a to b, and from b to a
        self.duplicate, self.corrupt = duplicate, corrupt
        self.queue: list = []
        self.order = itertools.count()
        self.lost = 0
        self.marks = 0.0  # the chance that an ECT packet gets CE
        self.marked = 0
        self.a = Side(self, "a", "10.0.0.1/24", iss[0], tcp)
        self.b = Side(self, "b", "10.0.0.2/24", iss[1], tcp)
        self.ends = (self.a, self.b)

    def open(self, limit: int | None = None) -> None:
        """b listens on port 80, a connects."""
        self.b.app(Bind(0, 2, ANY, 80, 0))
        self.b.app(Listen(0, 2, 8, {}))
        self.a.handle = 4
        self.a.app(Connect(1, 4, self.b.address, 80, limit or self.a.buffer, {}))

    def collect(self, end: Side) -> None:
        outputs = end.layer.outputs()
        for output in outputs:  # first what is sent: hearing something may send more
            if output.to == IP:
                self._transmit(end, output.message)
        for output in outputs:
            if output.to == APP:
                end.heard(output.message)

    def _transmit(self, end: Side, segment: Segment) -> None:
        other = self.b if end is self.a else self.a
        copies = 1 + (self.rng.random() < self.duplicate)
        for _ in range(copies):
            if self.rng.random() < (self.loss if end is self.a else self.loss_back):
                self.lost += 1
                continue
            if self.marks and segment.tos & 3 in (1, 2) and self.rng.random() < self.marks:
                self.marked += 1
                segment = segment._replace(tos=segment.tos | 3)
            payload = segment.payload
            if self.rng.random() < self.corrupt:
                at = self.rng.randrange(len(payload))
                flipped = payload[at] ^ (1 << self.rng.randrange(8))
                payload = payload[:at] + bytes((flipped,)) + payload[at + 1 :]
            when = self.now + self.delay + (self.rng.randrange(self.jitter) if self.jitter else 0)
            self.push(when, other, segment._replace(payload=payload))

    def push(self, when: int, end: Side, message: Message) -> None:
        """Have a side's TCP receive something from ip at a time."""
        heapq.heappush(self.queue, (when, next(self.order), end, message))

    def next_time(self) -> int | None:
        """When something happens next, or None."""
        deadlines = [end.layer.deadline() for end in self.ends]
        times = [when for when in deadlines if when is not None]
        if self.queue:
            times.append(self.queue[0][0])
        return min(times, default=None)

    def step(self) -> bool:
        """Run the next event; False when there is none."""
        when = self.next_time()
        if when is None:
            return False
        self.now = max(self.now, when)
        if self.queue and self.queue[0][0] <= self.now:
            _, _, end, segment = heapq.heappop(self.queue)
            end.layer.receive(segment, IP, self.now)
            self.collect(end)
        else:
            for end in self.ends:
                due = end.layer.deadline()
                if due is not None and due <= self.now:
                    end.layer.expire(self.now)
                    self.collect(end)
        return True

    def run(self, until=None, limit: int = 3600 * SECOND) -> None:
        """Step until a condition holds, or nothing is left to happen."""
        stop = self.now + limit
        while not (until and until()):
            if not self.step():
                assert until is None or until(), "nothing more can happen"
                return
            assert self.now < stop, "the time is up"

    def transfer(self, forth: bytes, back: bytes) -> None:
        """Send both streams at once, close both sides, and check what arrived."""
        self.open()
        self.a.send(forth)
        self.b.send(back)
        self.run(lambda: self.a.closed is not None and self.b.closed is not None)
        assert bytes(self.b.received) == forth
        assert bytes(self.a.received) == back
        assert (self.a.closed.error, self.b.closed.error) == ("", "")
