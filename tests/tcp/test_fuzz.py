"""A peer and a program that do anything at all: no exception, and the books balance."""

from __future__ import annotations

import random
import struct
from itertools import pairwise

import pytest

from plywire.messages import (
    Accepted,
    Bind,
    Close,
    Connect,
    Credit,
    Data,
    End,
    Listen,
    Option,
    PacketError,
    Query,
    Segment,
)
from plywire.seq import add, sub
from plywire.wire import tcp as wire
from services.tcp import states

from .harness import ANY, LOCAL, MS, REMOTE, SECOND, Raw
from .invariants import check_stack

OPTIONS = ("TCP_NODELAY", "TCP_CORK", "SO_KEEPALIVE", "TCP_KEEPIDLE", "TCP_MAXSEG", "TCP_QUICKACK",
           "TCP_USER_TIMEOUT", "TCP_LINGER2")  # fmt: skip


class Anything:
    """Random events on one layer, half of them plausible."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.raw = Raw(
            iss=self.rng.choice((1000, (1 << 32) - 5, (1 << 31) - 3)),
            port_low=40_000,
            port_high=40_003,
            receive_buffer=self.rng.choice((0, 3000, 1 << 20)),
            send_buffer=self.rng.choice((3000, 1 << 20)),
        )
        self.offsets: dict[int, int] = {}
        self.raw.listen(2, 80, backlog=self.rng.randrange(4))

    def number(self, base: int, spread: int) -> int:
        rng = self.rng
        return add(base, rng.choice((0, 0, 0, 1, -1, rng.randint(-spread, spread))))

    def segment(self) -> None:
        rng = self.rng
        flags = rng.choice((16, 16, 16, 16, 24, 17, 17, 2, 18, 4, 20, 0, 1, rng.randrange(256)))
        blocks = list(self.raw.layer.stack.by_id.values())
        data = bytes(rng.choice((0, 0, 1, 10, 1460)))
        if blocks and rng.random() < 0.9:
            tcb = rng.choice(blocks)
            ports = tcb.remote_port, tcb.local_port
            seq = self.number(tcb.rcv_nxt, 3000)
            ack = self.number(rng.choice((tcb.snd_nxt, tcb.snd_nxt, tcb.snd_una)), 3000)
        else:
            ports = rng.choice((80, 81, 5000)), rng.choice((80, 80, 40_000, 40_001))
            seq, ack = rng.randrange(1 << 32), rng.randrange(1 << 32)
            flags = rng.choice((2, 2, flags))
        options = rng.choice((b"", b"", b"\2\4\2\0", b"\3\3\7\0", rng.randbytes(8)))
        window = rng.choice((0, 1, 500, 60_000, 65_535))
        header = wire.TcpHeader(*ports, seq, ack, flags, window, rng.randrange(99), options)
        payload = wire.encode(header, data, REMOTE, LOCAL)
        self.raw.layer.receive(Segment(1, 6, REMOTE, LOCAL, 0, 64, 0, payload), "ip", self.raw.now)

    def icmp(self) -> None:
        rng = self.rng
        blocks = list(self.raw.layer.stack.by_id.values())
        if blocks:
            tcb = rng.choice(blocks)
            quote = struct.pack("!HHI", tcb.local_port, tcb.remote_port,
                                self.number(tcb.snd_una, 100))  # fmt: skip
            kind, code = rng.choice(((3, rng.randrange(16)), (3, 4), (11, 0), (12, 0), (4, 0)))
            self.raw.layer.receive(
                PacketError(1, 6, rng.randrange(2), REMOTE, kind, code, rng.choice((0, 68, 900)),
                            LOCAL, REMOTE, quote), "ip", self.raw.now)  # fmt: skip

    def app(self) -> None:
        rng = self.rng
        known = list(self.raw.layer.stack.by_handle) or [4]
        handle = rng.choice((*known, *known, 2 * rng.randrange(1, 12)))
        offset = self.offsets.get(handle, 0)
        kind = rng.randrange(12)
        if kind < 3:
            data = bytes(rng.choice((1, 100, 5000)))
            tcb = self.raw.layer.stack.by_handle.get(handle)
            if tcb is not None:
                offset = tcb.snd_buf.end
            self.raw.app(Data(1, handle, offset, data))
        elif kind < 5:
            port = rng.choice((80, 81, 40_000))
            address = rng.choice((REMOTE, REMOTE, LOCAL))
            self.raw.app(Connect(1, 2 * rng.randrange(2, 12), address, port,
                                 rng.choice((0, 2000, 1 << 20)), {}))  # fmt: skip
        elif kind < 7:
            tcb = self.raw.layer.stack.by_handle.get(handle)
            read = rng.randint(tcb.rcv_acked, tcb.rcv_offset) if tcb else 5
            self.raw.app(Credit(1, handle, read, read + rng.choice((2000, 1 << 20))))
        elif kind == 7:
            tcb = self.raw.layer.stack.by_handle.get(handle)
            end = tcb.snd_buf.end if tcb else 0
            message = rng.choice((End(1, handle, end), Close(1, handle, end, rng.randrange(2))))
            if handle != 2:
                self.raw.app(message)
        elif kind == 8:
            self.raw.app(Accepted(1, handle))
        elif kind == 9:
            self.raw.app(Option(1, handle, rng.choice(OPTIONS), rng.choice((0, 1, 1000))))
        elif kind == 10:
            self.raw.app(Query(1, handle))
        else:
            self.raw.app(Bind(1, 2 * rng.randrange(2, 12), ANY, rng.choice((0, 80, 40_001)), 1))
            self.raw.app(Listen(1, 2, rng.randrange(4), {}))

    def check(self) -> None:
        """What holds between any two events."""
        stack = self.raw.layer.stack
        check_stack(stack)
        assert {owner for (owner, _), _ in stack.timers.items()} <= set(stack.by_id)
        for tcb in stack.by_id.values():
            assert tcb.state in states.STATES
            assert tcb.state not in ("CLOSED", "LISTEN")
            assert stack.connections[tcb.key] is tcb
            assert 0 <= sub(tcb.snd_nxt, tcb.snd_una) <= len(tcb.snd_buf) + 1
            assert sub(tcb.snd_cursor, tcb.snd_una) >= 0 or tcb.syn_unacked
            assert sub(tcb.snd_cursor, tcb.snd_nxt) <= 0
            assert tcb.rcv_wnd >= 0
            assert tcb.rcv_offset + tcb.rcv_wnd <= max(tcb.rcv_limit, tcb.rcv_offset)
            assert not tcb.ack_now
            edges = [(island.start, island.end) for island in tcb.islands]
            assert all(a[1] < b[0] for a, b in pairwise(edges))
            held = sum(end - start for start, end in edges)
            assert held <= max(tcb.rcv_limit - tcb.rcv_offset, 0)
            waits = len(tcb.snd_buf) or (tcb.fin_offset >= 0 and not tcb.fin_acked)
            kinds = [kind for kind in ("rto", "persist", "cork") if stack.armed(tcb, kind)]
            if tcb.syn_unacked or (waits and tcb.fin_offset in (-1, tcb.snd_buf.end)):
                assert kinds, (tcb.state, tcb.control())  # else it would wait for ever

    def run(self, steps: int) -> None:
        for _ in range(steps):
            rng = self.rng
            choice = rng.random()
            if choice < 0.6:
                self.segment()
            elif choice < 0.63:
                self.icmp()
            elif choice < 0.9:
                self.app()
            else:
                self.raw.advance(rng.choice((1, 40 * MS, 300 * MS, SECOND, 70 * SECOND)))
            self.raw.collect()
            self.check()
        self.raw.layer.snapshot()


@pytest.mark.parametrize("seed", range(60))
def test_anything(seed: int) -> None:
    Anything(seed).run(300)
