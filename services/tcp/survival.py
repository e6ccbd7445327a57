"""What of TCP outlives its process, and how the next one goes on from it (docs/decisions/0007).

Each connection has a region (plywire.region), and there is one more, `stack`, with what is
not a connection's: listeners, bound ports, keys, and which app it was. Before a batch of outputs
leaves the core, `commit` writes what they promise. A new process reads all of it (`recover`), says
to app again what it may not have heard, and sends to the peers what they may not have got.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from plywire import seq
from plywire.errors import DecodeError
from plywire.messages import MAX_CHUNK, Closed, Credit, Data, End, Opened
from plywire.region import Region, Store
from plywire.regions import Regions
from services.tcp import cookies, listener
from services.tcp.autotune import send_limit
from services.tcp.congestion import ALGORITHMS, initial_window
from services.tcp.sender import push
from services.tcp.states import (
    ABORT,
    CLOSED,
    FIN_WAIT_2,
    LISTEN,
    STATES,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
)
from services.tcp.tcb import _FIELDS, KEEPALIVE, LEFT_OVER, RTO, Key, Tcb

if TYPE_CHECKING:
    from services.tcp.stack import Stack

MAX_CORPSES = 1024
"""Connections that are over and whose end app has not confirmed; of more, the oldest is let go."""

_NUMBERS = (
    "id", "handle", "listener", "local_port", "remote_port", "opened", "accepted", "released",
    "reuse", "iss", "snd_una", "snd_nxt", "snd_wnd", "snd_wl1", "snd_wl2", "max_snd_wnd",
    "snd_scale", "snd_mss", "peer_mss", "snd_buf_seq", "send_buffer", "fin_offset", "fin_sent",
    "told_limit", "irs", "rcv_nxt", "rcv_wnd", "rcv_up", "rcv_scale", "rcv_offset", "rcv_limit",
    "rcv_acked", "rcv_needed", "rcv_mss", "rcv_ended", "ts_on", "ts_offset", "ts_recent",
    "sack_ok", "ecn_asked", "ecn_ok", "ecn_ect", "ecn_seen", "ece_due", "path_mtu",
    "dont_fragment", "nodelay", "cork",
    "maxseg", "keepalive", "keep_idle", "keep_interval", "keep_count", "syn_count", "user_timeout",
    "linger2", "thin_linear", "syn_retransmits", "snd_locked", "rcv_locked", "rcv_ssthresh",
    "rcvq_space", "rcv_rtt", "bytes_acked", "bytes_received", "segs_in",
    "segs_out", "retransmits", "delivered_ce", "link_mtu", "tos", "uto_adopted",
)  # fmt: skip
_RTT = ("srtt", "rttvar", "base")
"""What a connection is. The rest is about what is on its way now, and begins anew: recovery, the
congestion window, timers, what came out of order (RFC 2018 8 lets a receiver forget that)."""

_GET = attrgetter(*_NUMBERS)
_GET_RTT = attrgetter(*_RTT)
_CONTROL = struct.Struct(f"<4s4s{len(_NUMBERS)}q3qBB16sQ40s200s")
_STATE = {name: number for number, name in enumerate(STATES)}
_ID = struct.Struct("<q")  # behind the two addresses


class Kept:
    """A connection's region, beside its block.

    arrived: bytes that went to app since the last save. end: (handle, error, cause) of the Closed
    that app was told and has not confirmed. region: None when there was no room for one.
    """

    __slots__ = ("alive", "arrived", "end", "region", "tcb")

    def __init__(self, tcb: Tcb, region: Region | None = None) -> None:
        self.tcb = tcb
        self.region = region
        self.alive = True
        self.arrived: list[bytes] = []
        self.end: tuple[int, str, str] | None = None

    @property
    def holds_bytes(self) -> bool:
        """A program may still want what came."""
        tcb = self.tcb
        return self.end is not None or (tcb.handle != 0 and not tcb.released)


class Survival:
    """Keeps one Stack in a store, and makes it again from there. say: what whoever runs the layer
    should know goes there, a line each."""

    def __init__(self, stack: Stack, store: Store, say: Callable[[str], object]) -> None:
        self.stack = stack
        self.say = say
        self.regions = Regions(store, _CONTROL.size, _number, stack.counters, say)
        self.incarnation = 0
        self.tables = True  # listeners, bound ports, or the app, have changed
        self._ended: dict[int, Kept] = {}  # with an `end`, by its handle
        self._resuming: list[Tcb] = []  # recovered, and nothing was sent yet
        self._damaged: list[Tcb] = []  # their peers are to be told
        self._untold = False  # app was not told yet
        self._unasked: set[int] = set()  # handles that a recovered app has not spoken of yet
        self.repeated = False  # app may say what it has said before

    # --- while it lives ---------------------------------------------------------------------------

    def begin(self, tcb: Tcb) -> None:
        """A connection is there: it gets a region with the next `commit`."""
        tcb.kept = kept = Kept(tcb)
        try:
            kept.region = self.regions.take(tcb.snd_buf.start, tcb.rcv_offset)
        except OSError as error:
            self._no_room(kept, error)

    def closed(self, tcb: Tcb, error: str, cause: str) -> None:
        """App is told that a connection is over. If that was not its wish, it says when it has
        heard: until then, this and what was not read is kept."""
        kept = tcb.kept
        if kept is None or kept.region is None or tcb.released:
            return
        kept.end = (tcb.handle, error, cause)
        self._ended[tcb.handle] = kept
        self.stack.touched[tcb.id] = tcb
        if len(self._ended) > MAX_CORPSES:
            self.confirmed(next(iter(self._ended)))

    def confirmed(self, handle: int) -> None:
        """App has heard of a connection's end, or wished for it."""
        kept = self._ended.pop(handle, None)
        if kept is not None:
            kept.end = None
            self.stack.touched[kept.tcb.id] = kept.tcb

    def commit(self) -> None:
        """Write what has changed. Nothing may leave the core before this."""
        stack = self.stack
        touched, stack.touched = stack.touched, {}
        for tcb in touched.values():
            kept = tcb.kept
            if kept is None or kept.region is None:
                continue
            if kept.alive and stack.by_id.get(tcb.id) is not tcb:
                kept.alive = False
            if kept.alive or kept.end is not None:
                self._save(kept)
            else:
                self._let_go(kept)
        if self.tables:
            self._save_tables()

    def _save(self, kept: Kept) -> None:
        tcb, region = kept.tcb, kept.region
        buffer = tcb.snd_buf
        if kept.holds_bytes:
            receiving = (min(tcb.rcv_needed, tcb.rcv_offset), tcb.rcv_offset)
        else:
            receiving = (tcb.rcv_offset, tcb.rcv_offset)
            kept.arrived.clear()
        sending = (buffer.start, buffer.end)
        try:
            now = (_control(kept), sending, buffer.read, receiving, kept.arrived)
            kept.region = self.regions.save(region, tcb.id, *now)
        except (OSError, struct.error) as error:  # the latter: a number that no TCP needs
            self._no_room(kept, error)
        kept.arrived.clear()

    def _let_go(self, kept: Kept) -> None:
        region, kept.region = kept.region, None
        self.regions.let_go(region)

    def _no_room(self, kept: Kept, error: Exception) -> None:
        """The connection goes on, and would not survive this process: better than to fail it."""
        self.stack.counters["region_no_room"] += 1
        self.say(f"connection {kept.tcb.id} would not survive this process: {error}")
        if kept.end is not None:
            self._ended.pop(kept.end[0], None)
            kept.end = None
        if kept.region is not None:
            self._let_go(kept)

    def _save_tables(self) -> None:
        stack = self.stack
        saved = self.regions.save_table(
            {
                "incarnation": self.incarnation,
                "app_generation": stack.app_generation,
                "isn_key": stack.isn.key,
                "ports": stack.ports.to_state(),
                "listeners": [item.to_state() for item in stack.listeners.values()],
                "reservations": [item.to_state() for item in stack.reservations.values()],
            }
        )
        self.tables = not saved  # the next commit tries again

    # --- after a death ----------------------------------------------------------------------------

    def recover(self, now: int) -> bool:
        """Make the stack again from what is in the store; whether there was anything of use."""
        saved = self.regions.load_table()
        if saved is None:
            self.clear()
            return False
        stack = self.stack
        self.incarnation = saved["incarnation"] + 1
        # Names of what the predecessor had are not used again: somebody may still speak of them.
        stack.next_id = stack.next_handle = (self.incarnation << 32) | 1
        stack.isn.key = saved["isn_key"]
        stack.ports.restore(saved["ports"])
        stack.app_generation = saved["app_generation"]
        stack.cookies_until = now + 2 * cookies.PERIOD if stack.cfg.syn_cookies else 0
        listener.enter_again(stack, saved["reservations"], saved["listeners"])
        for name, region, memory in self.regions.all():
            if self._recover(name, region, memory, now) is None:
                self.regions.discard(region, memory)
        self._untold = self.repeated = True
        self.tables = True
        return stack.app_generation is not None

    def _recover(self, name: str, region: Region, memory: memoryview, now: int) -> Kept | None:
        """Make a connection again; None when there is none, or none that can be."""
        stack = self.stack
        try:
            kept = self._read(region, memory, now, stack.connections)
            if kept is None:
                return None
        except DecodeError as error:
            self.regions.give_up(f"connection {name}", error)
            return None
        tcb = kept.tcb
        try:
            sent = region.unacknowledged()
            region.received()
        except DecodeError as error:
            self.regions.give_up(f"connection {name}", error)
            if kept.alive and kept.end is None and tcb.state != TIME_WAIT:
                stack.enter(tcb)
                self._damaged.append(tcb)
                kept.region = None  # its peer and its program will be told, and that is all
            return None
        if kept.end is not None:
            self._ended[kept.end[0]] = kept
        if not kept.alive:
            return kept
        tcb.snd_buf.start = tcb.snd_buf.end = region.snd_start
        if sent:
            tcb.snd_buf.append(sent)
        stack.enter(tcb)
        stack.memory.account(tcb)
        self._resuming.append(tcb)
        stack.counters["region_recovered"] += 1
        holder = stack.listeners.get(tcb.listener)
        if holder is not None and not tcb.accepted and tcb.handle:
            (holder.embryonic if tcb.state == SYN_RECEIVED else holder.queue).add(tcb.id)
        if tcb.state == TIME_WAIT:
            stack.arm(tcb, LEFT_OVER, now + stack.cfg.time_wait)
        elif tcb.state == FIN_WAIT_2 and tcb.released:
            stack.arm(tcb, LEFT_OVER, now + (tcb.linger2 or stack.cfg.fin_wait_2))
        if tcb.keepalive:
            stack.arm(tcb, KEEPALIVE, now + tcb.keep_idle)
        return kept

    def _read(
        self, region: Region, memory: memoryview, now: int, taken: Mapping[Key, Tcb]
    ) -> Kept | None:
        """None when nobody uses it. Raises DecodeError for what cannot be. taken: pairs of sockets
        that others have."""
        control = region.load(memory)
        if not any(control):
            return None
        values = _CONTROL.unpack(control)
        tcb = Tcb(self.stack.cfg)
        tcb.local_address, tcb.remote_address, *values = values
        for name, value in zip(_NUMBERS, values, strict=False):
            setattr(tcb, name, bool(value) if isinstance(_FIELDS[name], bool) else value)
        state, alive, algorithm = values[len(_NUMBERS) + len(_RTT) : -3]
        tcb.rtt.srtt, tcb.rtt.rttvar, tcb.rtt.base = values[len(_NUMBERS) : -6]
        algorithm = _text(algorithm)
        if state >= len(STATES) or algorithm not in ALGORITHMS:
            raise DecodeError("region_damaged", f"state {state}, congestion {algorithm!r:.20}")
        tcb.state = STATES[state]
        _check(tcb, region, bool(alive), self.stack.next_id, taken)
        tcb.cc = ALGORITHMS[algorithm](initial_window(self.stack.cfg.initial_window, tcb.snd_mss))
        _begin_anew(tcb, region, now)
        tcb.kept = kept = Kept(tcb, region)
        kept.alive = bool(alive)
        kept.end = _end(values)
        return kept

    def clear(self) -> None:
        """Forget all that a predecessor left."""
        self.regions.clear()

    def resume(self, now: int) -> None:
        """Ip is there: send what the predecessor may not have sent. What was in flight counts as
        lost, and an acknowledgement costs little."""
        stack = self.stack
        damaged, self._damaged = self._damaged, []
        for tcb in damaged:
            if stack.by_id.get(tcb.id) is tcb:
                stack.end(tcb, ABORT, "ECONNRESET", "its region was damaged", now,
                          reset=tcb.state != SYN_SENT)  # fmt: skip
        resuming, self._resuming = self._resuming, []
        for tcb in resuming:
            if stack.by_id.get(tcb.id) is not tcb or tcb.state == TIME_WAIT:
                continue
            if tcb.snd_una != tcb.snd_nxt:
                stack.arm(tcb, RTO, now)
            elif tcb.state not in (SYN_SENT, SYN_RECEIVED):
                stack.send_ack(tcb)
                push(stack, tcb, now)

    def tell_again(self, now: int) -> None:
        """App is there, and is the one that the predecessor knew: say again what it may not have
        heard. Offsets, and states, let it pass over what it has."""
        if not self._untold:
            return
        self._untold = False
        stack = self.stack
        for tcb in list(stack.by_id.values()):
            whole = tcb.kept is not None and tcb not in self._damaged
            if tcb.handle and not tcb.released and whole:
                self._say_stream(tcb.kept, tcb.handle)
                if tcb.opened:
                    tcb.told_acked = tcb.snd_buf.end
                    tcb.told_limit = send_limit(stack, tcb)
                    stack.tell(Credit(tcb.trace, tcb.handle, tcb.told_acked, tcb.told_limit))
        for handle, error, cause in [kept.end for kept in self._ended.values()]:
            self._say_stream(self._ended[handle], handle)
            stack.tell(Closed(0, handle, error, cause))

    def _say_stream(self, kept: Kept, handle: int) -> None:
        tcb, region, tell = kept.tcb, kept.region, self.stack.tell
        if not tcb.opened:
            return
        tell(Opened(tcb.trace, handle, tcb.listener, tcb.local_address, tcb.local_port,
                    tcb.remote_address, tcb.remote_port, tcb.told_limit))  # fmt: skip
        data = b"" if region is None else region.received()
        for at in range(0, len(data), MAX_CHUNK):
            tell(Data(tcb.trace, handle, region.rcv_start + at, data[at : at + MAX_CHUNK]))
        if tcb.rcv_ended:
            tcb.told_end = True
            tell(End(tcb.trace, handle, tcb.rcv_offset))

    def forget_app(self) -> None:
        """Another app is there: nobody waits for anything that the old one had."""
        for handle in list(self._ended):
            self.confirmed(handle)
        self._untold = False
        self._unasked.clear()
        self.tables = True

    # --- after the death of app -------------------------------------------------------------------

    def app_recovered(self, now: int) -> None:
        """Another app is there, and it has the sockets of the one that died."""
        stack = self.stack
        self.tables = self.repeated = True
        for tcb in list(stack.by_id.values()):
            if tcb.handle and tcb.rcv_needed != tcb.rcv_offset and tcb.kept.region is None:
                stack.end(tcb, ABORT, "ECONNRESET", "app died, and what came was not kept", now,
                          reset=True)  # fmt: skip
        accepted = {tcb.handle for tcb in stack.by_id.values() if tcb.accepted or not tcb.listener}
        self._unasked = {handle for handle in stack.by_handle if handle in accepted}
        self._unasked |= {*stack.listeners, *stack.reservations, *stack.waiting}

    def gather(self) -> None:
        """All that is for app is told, and what came is in the regions."""
        self.stack.flush_all()
        self.commit()
        self._untold = True

    def asked(self, handle: int) -> set[int]:
        """App speaks of a socket that it has; with 0, it has spoken of all. Returns those that it
        could not recover: nobody holds them any more."""
        if handle:
            self._unasked.discard(handle)
            return set()
        lost, self._unasked = self._unasked, set()
        for each in lost:
            self.say(f"app has not recovered socket {each}, which ends")
        return lost

    def knows(self, handle: int) -> bool:
        """A Connect for this handle was heard before."""
        return handle in self._ended or (self.repeated and handle in self.stack.by_handle)

    # --- after an exchange ------------------------------------------------------------------------

    def take_over(self, now: int) -> None:
        """The stack was restored from the snapshot of a predecessor that has left: its regions go
        on as this one's."""
        stack = self.stack
        saved = self.regions.load_table()
        self.incarnation = saved["incarnation"] if saved else stack.next_id >> 32
        for name, region, memory in self.regions.all():
            if not self._adopt(name, region, memory, now):
                self.regions.discard(region, memory)
        for tcb in stack.by_id.values():
            if tcb.kept is None and tcb.rcv_needed == tcb.rcv_offset:
                self.begin(tcb)
                stack.touched[tcb.id] = tcb
        self.tables = True
        self.commit()

    def _adopt(self, name: str, region: Region, memory: memoryview, now: int) -> bool:
        """Whether a region is one of a connection, or of its end, that is this stack's now."""
        try:
            control = region.load(memory)
            tcb = self.stack.by_id.get(_number(control))
            kept = Kept(tcb, region) if tcb is not None else self._read(region, memory, now, {})
        except DecodeError as error:
            self.regions.give_up(f"what is kept of connection {name}", error)
            return False
        if kept is None:
            return False
        if tcb is None:
            kept.alive = False
        else:
            kept.end = _end(_CONTROL.unpack(control))
            if kept.holds_bytes and region.rcv_end != tcb.rcv_offset:
                return False
            tcb.kept = kept
        if kept.end is not None:
            self._ended[kept.end[0]] = kept
        return tcb is not None or kept.end is not None


def _number(control: bytes) -> int:
    """Of the connection that a control block is of."""
    return _ID.unpack_from(control, 8)[0]


def _control(kept: Kept) -> bytes:
    tcb = kept.tcb
    handle, error, cause = kept.end or (0, "", "")
    return _CONTROL.pack(
        tcb.local_address, tcb.remote_address, *_GET(tcb), *_GET_RTT(tcb.rtt), _STATE[tcb.state],
        kept.alive, tcb.cc.name.encode(), handle, error.encode(), cause.encode()[:200],
    )  # fmt: skip


def _end(values: Sequence) -> tuple[int, str, str] | None:
    """What app was told of a connection's end and has not confirmed, by its control block."""
    handle, error, cause = values[-3:]
    return (handle, _text(error), _text(cause)) if handle else None


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode("utf-8", "replace")


def _check(tcb: Tcb, region: Region, alive: bool, next_id: int, taken: Mapping[Key, Tcb]) -> None:
    """Numbers that cannot be. The checksum was right: another program wrote this."""
    unacked = region.snd_end - region.snd_start
    wrong = [
        name
        for name, good in (
            ("ports", 0 < tcb.local_port < 65536 and 0 < tcb.remote_port < 65536),
            ("id", 0 < tcb.id < next_id and region.name in ("", str(tcb.id))),
            ("pair of sockets", not alive or tcb.key not in taken),
            ("state", (tcb.state not in (CLOSED, LISTEN)) or not alive),
            ("SND.NXT", 0 <= tcb.flight <= unacked + 2),
            ("SND.UNA", tcb.snd_una in (tcb.snd_buf_seq, tcb.iss)
             or tcb.snd_una == seq.add(tcb.snd_buf_seq, unacked + 1)),
            ("RCV.NXT", 0 <= tcb.rcv_needed <= tcb.rcv_acked <= tcb.rcv_offset == region.rcv_end),
            ("MSS", 0 < tcb.snd_mss < 65536 and 0 < tcb.rcv_mss < 65536),
            ("window", 0 <= tcb.rcv_wnd < 1 << 31 and 0 <= tcb.snd_wnd < 1 << 31),
            ("scale", 0 <= tcb.snd_scale <= 14 and 0 <= tcb.rcv_scale <= 14),
        )
        if not good
    ]  # fmt: skip
    if wrong:
        raise DecodeError("region_damaged", f"impossible {', '.join(wrong)}")


def _begin_anew(tcb: Tcb, region: Region, now: int) -> None:
    """All that is about what is on its way."""
    tcb.snd_cursor = tcb.snd_small = tcb.snd_nxt
    tcb.prev_una = tcb.recover = seq.add(tcb.snd_una, -1)
    tcb.ack_sent = tcb.rcv_nxt
    tcb.ts_recent_at = tcb.una_time = tcb.last_send = now
    tcb.last_receive = tcb.last_data = now
    tcb.rtt.timed_seq = None
    tcb.rcvq_from = tcb.rcv_acked
    tcb.rcvq_time = tcb.rcv_rtt_at = now
    tcb.rcv_rtt_end = tcb.rcv_offset + tcb.rcv_wnd
    tcb.told_acked = region.snd_end
    tcb.told_end = tcb.rcv_ended
    if not tcb.sack_ok or tcb.syn_unacked:
        return
    # The scoreboard, in segments that were sent before: no measurement (Karn), no F-RTO.
    board = tcb.board
    at = region.snd_start + seq.sub(tcb.snd_una, tcb.snd_buf_seq)
    end = region.snd_start + seq.sub(tcb.snd_nxt, tcb.snd_buf_seq)
    board.una = board.nxt = board.mark = at
    while at < end:
        size = min(tcb.snd_mss, end - at)
        if at < region.snd_end < at + size:
            size = region.snd_end - at  # FIN is sent again by itself, if it must
        board.sent(at, at + size, now)
        board.segs[-1].ever = True
        at += size
