"""Sockets in LISTEN: their backlog, and what a SYN does to them (RFC 9293 3.10.7.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq
from plywire.paths import ANY, Path
from plywire.ports import Reservation
from plywire.wire.tcp import ACK, RST, SYN, TcpHeader, parse_options
from services.tcp import cookies, options, user_calls
from services.tcp.segment_arrives import passive_open, segment_arrives
from services.tcp.stack import sequence_length
from services.tcp.states import CLOSE, CLOSED, LISTEN, RCV_SYN
from services.tcp.tcb import Key, Tcb

if TYPE_CHECKING:
    from services.tcp.stack import Stack

_SYN_QUEUE = 256  # at least so many handshakes may be under way
_INCARNATION_GAP = 0x1_0001  # as Linux: beyond any window that the old incarnation can have had


class Listener:
    """A socket in LISTEN. It has no control block: its connections have.

    embryonic: ids of connections in SYN-RECEIVED; queue: those that wait for accept().
    """

    __slots__ = ("backlog", "embryonic", "handle", "options", "queue", "reservation", "shown",
                 "state")  # fmt: skip

    def __init__(self, handle: int, reservation: Reservation) -> None:
        self.handle = handle
        self.reservation = reservation
        self.state = CLOSED
        self.shown: dict[str, int | str] = {}
        self.backlog = 0
        self.options: dict[str, int | str] = {}
        self.embryonic: set[int] = set()
        self.queue: set[int] = set()

    @property
    def full(self) -> bool:
        """No connection more may wait: one above the backlog, as in Linux."""
        return len(self.queue) > self.backlog

    def completed(self, tcb_id: int) -> None:
        """A handshake is over; the connection waits for accept()."""
        self.embryonic.discard(tcb_id)
        self.queue.add(tcb_id)

    def forget(self, tcb_id: int) -> None:
        """A connection was accepted or is gone."""
        self.embryonic.discard(tcb_id)
        self.queue.discard(tcb_id)

    def control(self) -> dict[str, int | str]:
        """What Info says of a listener."""
        return {
            "state": self.state,
            "local_address": ".".join(map(str, self.reservation.address)),
            "local_port": self.reservation.port,
            "backlog": self.backlog,
            "receive_queue": len(self.queue),
            "embryonic": len(self.embryonic),
        }

    def to_state(self) -> list:
        """Everything; the sets are made again from the connections."""
        return [self.handle, self.reservation.to_state(), self.backlog, self.options]


def find(stack: Stack, address: bytes, port: int) -> Listener | None:
    """The listener for a destination; one with an address of its own goes before one without."""
    return stack.listening.get((address, port)) or stack.listening.get((ANY, port))


def enter(stack: Stack, listener: Listener) -> None:
    """Make a listener findable."""
    reservation = listener.reservation
    stack.listeners[listener.handle] = listener
    stack.listening[reservation.address, reservation.port] = listener


def enter_again(stack: Stack, reservations: list, listeners: list) -> None:
    """Bound ports and listeners as their `to_state` described them, back in the tables."""
    for row in reservations:
        reservation = Reservation(*row)
        stack.ports.adopt(reservation)
        stack.reservations[reservation.handle] = reservation
    for handle, row, backlog, settings in listeners:
        listener = Listener(handle, Reservation(*row))
        listener.state, listener.backlog, listener.options = LISTEN, backlog, settings
        stack.ports.adopt(listener.reservation)
        enter(stack, listener)


def segment_for_nobody(
    stack: Stack, header: TcpHeader, data: bytes, src: bytes, dst: bytes, now: int
) -> None:
    """A segment that no connection wants: it may open one (LISTEN), else it is reset (CLOSED)."""
    flags = header.flags
    if flags & RST:
        stack.drop("rst_for_nobody", now)
        return
    listener = find(stack, dst, header.dst_port)
    key = (dst, header.dst_port, src, header.src_port)
    if (
        flags & (ACK | SYN) == ACK
        and listener is not None
        and stack.cookies_until > now
        and _cookie_comes_back(stack, listener, header, data, key, now)
    ):
        return
    if listener is None or flags & ACK:
        stack.send_reset(header, sequence_length(header, data), src, dst)
    elif flags & SYN:
        _syn(stack, listener, header, data, key, None, now)
    else:
        stack.drop("no_flags_in_listen", now)


def _syn(
    stack: Stack,
    listener: Listener,
    header: TcpHeader,
    data: bytes,
    key: tuple[bytes, int, bytes, int],
    iss: int | None,
    now: int,
) -> None:
    if listener.full:
        stack.counters["listen_overflows"] += 1
        stack.drop("accept_queue_full", now)
        return
    if len(listener.embryonic) >= max(listener.backlog, _SYN_QUEUE):
        if stack.cfg.syn_cookies:
            theirs = parse_options(header.options)
            path = stack.paths.lookup(key[2], now) or Path(key[0], 576, 576)
            cookies.answer(stack, key, header, theirs, path, now)
            return
        stack.counters["tcp_req_q_full_drop"] += 1
        stack.drop("syn_queue_full", now)
        return
    if not stack.has_room(now):
        stack.drop("too_many_connections", now)
        return
    theirs = parse_options(header.options)  # may raise: before there is anything to undo
    tcb = _incoming(stack, listener, key, now)
    if iss is not None:
        _number(tcb, iss)
    listener.embryonic.add(tcb.id)
    passive_open(stack, tcb, header, theirs, data, now)


def _incoming(stack: Stack, listener: Listener, key: Key, now: int) -> Tcb:
    """A block for a connection that comes in, with all but the peer's side of it."""
    path = stack.paths.lookup(key[2], now) or Path(key[0], 576, 576)  # no way back: ip will say so
    tcb = stack.new_tcb(stack.odd_handle(), key, listener.reservation.reuse, LISTEN)
    tcb.listener = listener.handle
    for name, value in listener.options.items():
        options.set_option(tcb, name, value)
    user_calls.prepare(stack, tcb, path, stack.cfg.receive_buffer, now)
    return tcb


def _number(tcb: Tcb, iss: int) -> None:
    tcb.iss = tcb.snd_una = iss
    tcb.snd_nxt = tcb.snd_cursor = tcb.snd_buf_seq = tcb.rtt.timed_seq = seq.add(iss, 1)


def _cookie_comes_back(
    stack: Stack, listener: Listener, header: TcpHeader, data: bytes, key: Key, now: int
) -> bool:
    """An ACK that answers a SYN cookie makes the connection that was not kept. Whether it did."""
    stamps = parse_options(header.options)
    theirs = cookies.check(stack, key, header, stamps, now)
    if theirs is None:
        return False
    if listener.full or not stack.has_room(now):
        stack.counters["listen_overflows"] += 1
        stack.drop("accept_queue_full", now)  # the peer has data or asks again
        return True
    tcb = _incoming(stack, listener, key, now)
    _number(tcb, seq.add(header.ack, -1))
    tcb.rtt.timed_seq = None  # when the SYN,ACK went out is forgotten
    tcb.irs = seq.add(header.seq, -1)
    tcb.rcv_nxt = tcb.ack_sent = header.seq
    options.negotiate(stack.cfg, tcb, theirs, now)
    tcb.ecn_ok = tcb.ecn_ect = tcb.ts_on and cookies.agreed_on_ecn(theirs)
    tcb.snd_wl1, tcb.snd_wl2 = tcb.irs, tcb.iss
    listener.embryonic.add(tcb.id)
    stack.counters["tcp_passive_opens"] += 1
    stack.change(tcb, RCV_SYN, now)
    segment_arrives(stack, tcb, header, data, now)
    return True


def reopens(stack: Stack, tcb: Tcb, header: TcpHeader, data: bytes, now: int) -> bool:
    """For a connection in TIME-WAIT. RFC 9293 3.6.1, MAY-2: a SYN beyond what it received opens a
    new one, with a sequence number beyond what the old one sent. RFC 6191 section 2: so does one
    with a later timestamp, whatever its sequence number; one with an earlier one does not.

    The hazard that remains is an old duplicate SYN with such a number: the peer answers our
    SYN,ACK with RST, and the rest of the TIME-WAIT is lost.
    """
    if header.flags & (SYN | ACK | RST) != SYN or not _is_later(tcb, header):
        return False
    listener = find(stack, tcb.local_address, tcb.local_port)
    if listener is None:
        return False
    key = tcb.key
    iss = stack.isn.choose(*key, now)
    lowest = seq.add(tcb.snd_nxt, _INCARNATION_GAP)
    stack.say_closed(tcb, "", "")
    stack.change(tcb, RCV_SYN, now)
    stack.remove(tcb)
    stack.counters["tcp_time_wait_reopened"] += 1
    _syn(stack, listener, header, data, key, seq.largest(iss, lowest), now)
    return True


def _is_later(tcb: Tcb, header: TcpHeader) -> bool:
    """Can the SYN not be an old duplicate? By RFC 6191's timestamps, if both incarnations have
    them and the clock has moved; else by its sequence number."""
    stamps = parse_options(header.options).timestamps
    if stamps is not None and tcb.ts_on and stamps[0] != tcb.ts_recent:
        return seq.gt(stamps[0], tcb.ts_recent)
    return seq.gt(header.seq, tcb.rcv_nxt)


def close_listener(stack: Stack, listener: Listener, now: int) -> None:
    """CLOSE in LISTEN (3.10.4); what nobody has accepted is reset."""
    del stack.listeners[listener.handle]
    del stack.listening[listener.reservation.address, listener.reservation.port]
    stack.ports.release(listener.reservation)
    stack.change(listener, CLOSE, now)
    for tcb_id in sorted(listener.embryonic | listener.queue):
        user_calls.abort(stack, stack.by_id[tcb_id], now)


def accepted(stack: Stack, tcb: Tcb) -> None:
    """A program has taken the connection."""
    tcb.accepted = True
    listener = stack.listeners.get(tcb.listener)
    if listener is not None:
        listener.forget(tcb.id)
