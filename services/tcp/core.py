"""The TCP layer: the Layer contract, demultiplexing, and the app's messages."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from plywire.app_calls import PATHS
from plywire.envelope import dump_state, load_state
from plywire.errors import DecodeError
from plywire.layer import Output
from plywire.messages import (
    FLAG_BROADCAST,
    KINDS,
    Connect,
    Hello,
    Kept,
    Message,
    PacketError,
    Paths,
    Segment,
)
from plywire.roles import APP, IP, Role
from plywire.wire.ipv4 import PROTOCOL_TCP
from plywire.wire.tcp import decode
from services.tcp import icmp_errors, listener, timeouts
from services.tcp.app_calls import AppCalls
from services.tcp.info import tcp_info
from services.tcp.segment_arrives import segment_arrives
from services.tcp.stack import Stack
from services.tcp.states import SYN_RECEIVED, TIME_WAIT
from services.tcp.survival import Survival
from services.tcp.tcb import TCB_FIELDS, Tcb

if TYPE_CHECKING:
    from plywire.config import HostConfig
    from plywire.region import Store
    from plywire.trace import Tracer


class TcpLayer:
    """One host's TCP."""

    role = "tcp"
    state_format = "tcp/2"

    def __init__(self, host: HostConfig, rng: random.Random, tracer: Tracer) -> None:
        self.stack = Stack(host, rng, tracer)
        self.counters: Counter[str] = self.stack.counters
        self._app = AppCalls(self.stack, rng.getrandbits(16))
        self._handlers: dict[type, tuple[Role, Callable]] = {
            Segment: (IP, self._segment),
            Paths: (IP, self._paths),
            PacketError: (IP, self._packet_error),
            Kept: (APP, self._kept),
            **{kind: (APP, handler) for kind, handler in self._app.handlers.items()},
        }
        self._app_recovered = False

    # --- the Layer contract -----------------------------------------------------------------------

    def receive(self, message: Message, source: Role, now: int) -> None:
        """Take one message; what cannot be used is counted and dropped."""
        stack = self.stack
        stack.trace = message.trace
        stack.now = now
        role, handler = self._handlers.get(type(message), (None, None))
        if role != source:
            if isinstance(message, Hello):
                self._hello(message, now)
            else:
                stack.drop("unexpected_message", now)
            return
        try:
            handler(message, now)
        except DecodeError as error:
            stack.counters["tcp_in_errs"] += 1
            stack.drop(error.reason, now, getattr(message, "payload", b""))

    def expire(self, now: int) -> None:
        """Run the timers that are due."""
        stack = self.stack
        stack.now = now
        for owner, kind in stack.timers.expire(now):
            if kind == PATHS:
                self._app.connect_now(stack.waiting.pop(owner), now)
                continue
            tcb = stack.by_id[owner]
            stack.trace = tcb.trace
            timeouts.timeout(stack, tcb, kind, now)

    def deadline(self) -> int | None:
        """When the next timer is due."""
        return self.stack.timers.deadline()

    def outputs(self) -> list[Output]:
        """What is to be sent. What the app is told of a connection is gathered until here."""
        stack = self.stack
        if stack.dirty:
            stack.flush_all()
        if stack.survival is not None:
            stack.survival.commit()
        else:
            stack.touched.clear()
        out, stack.out = stack.out, []
        return out

    def snapshot(self) -> bytes:
        """Connections, listeners, ports, timers, counters, and what was not taken by `outputs`."""
        stack = self.stack
        stack.flush_all()
        return dump_state(
            {
                "fields": list(TCB_FIELDS),
                "connections": [tcb.to_state() for tcb in stack.by_id.values()],
                "listeners": [item.to_state() for item in stack.listeners.values()],
                "reservations": [item.to_state() for item in stack.reservations.values()],
                "waiting": [list(item) for item in stack.waiting.values()],
                "timers": [[*key, when] for key, when in stack.timers.items()],
                "paths": stack.paths.to_state(),
                "ports": stack.ports.to_state(),
                "isn_key": stack.isn.key,
                "next": [stack.next_id, stack.next_handle, self._app.bind_seed],
                "app_generation": stack.app_generation,
                "cookies_until": stack.cookies_until,
                "scarce": [stack.memory.scarce, stack.memory.used_up],
                "counters": dict(stack.counters),
                "out": [[to, message.KIND, list(message)] for to, message in stack.out],
            }
        )

    def restore(self, state: bytes, now: int) -> None:
        """Take over from a snapshot; times in it are of the same clock. Raises DecodeError, before
        anything is changed, when its control blocks have other fields than this TCP's: two sources
        may bear one name for their format."""
        stack = self.stack
        saved = load_state(state)
        _check_fields(saved.get("fields", ()))
        stack.paths.restore(saved["paths"])
        stack.ports.restore(saved["ports"])
        stack.isn.key = saved["isn_key"]
        stack.next_id, stack.next_handle, self._app.bind_seed = saved["next"]
        stack.app_generation = saved["app_generation"]
        stack.cookies_until = saved["cookies_until"]
        stack.counters.update(saved["counters"])
        stack.memory.scarce, stack.memory.used_up = saved["scarce"]
        listener.enter_again(stack, saved["reservations"], saved["listeners"])
        for row in saved["connections"]:
            tcb = Tcb.from_state(row, stack.cfg)
            stack.enter(tcb)
            stack.memory.held += tcb.held
            holder = stack.listeners.get(tcb.listener)
            if holder is not None and not tcb.accepted and tcb.handle:
                waits = holder.embryonic if tcb.state == SYN_RECEIVED else holder.queue
                waits.add(tcb.id)
        stack.waiting = {row[1]: Connect(*row) for row in saved["waiting"]}
        for owner, kind, when in saved["timers"]:
            stack.timers.set((owner, kind), when)
        stack.out = [Output(to, _message(kind, fields)) for to, kind, fields in saved["out"]]

    def keep_in(
        self, store: Store, now: int, say: Callable[[str], object], restored: bool = False
    ) -> dict[Role, int]:
        """`plywire.layer.Survivor`: from now on, everything is in `store` before it is promised."""
        survival = Survival(self.stack, store, say)
        if not self.stack.cfg.survive:
            survival.clear()
            return {}
        self.stack.survival = survival
        if restored:
            survival.take_over(now)
        known = not restored and survival.recover(now)
        survival.regions.prepare()
        return {APP: self.stack.app_generation} if known else {}

    def describe(self, topic: str, now: int) -> object:
        """`connections` (as `ss -tin`), `listeners`, `counters`, `memory`."""
        stack = self.stack
        if topic == "connections":
            timers: dict[int, dict[str, int]] = {}
            for (owner, kind), when in stack.timers.items():
                timers.setdefault(owner, {})[kind] = (when - now) // 1_000_000
            return [_describe(tcb, timers.get(tcb.id, {}), now) for tcb in stack.by_id.values()]
        if topic == "listeners":
            return [{"handle": item.handle, **item.control()} for item in stack.listeners.values()]
        if topic == "counters":
            established = sum(tcb.state in ("ESTABLISHED", "CLOSE-WAIT")
                              for tcb in stack.by_id.values())  # fmt: skip
            memory = stack.memory
            return {**stack.counters, "tcp_curr_estab": established, "tcp_memory": memory.held,
                    "tcp_memory_bound": memory.bound}  # fmt: skip
        if topic == "memory":
            return stack.memory.state()
        raise KeyError(topic)

    # --- from ip ----------------------------------------------------------------------------------

    def _segment(self, message: Segment, now: int) -> None:
        stack = self.stack
        if message.protocol != PROTOCOL_TCP:
            stack.drop("not_tcp", now)
            return
        stack.counters["tcp_in_segs"] += 1
        stack.codepoint = message.tos & 3
        src, dst = message.src, message.dst
        header, data = decode(message.payload, src, dst)
        tcb = stack.connections.get((dst, header.dst_port, src, header.src_port))
        if tcb is not None and not message.flags & FLAG_BROADCAST:
            if tcb.state != TIME_WAIT or not listener.reopens(stack, tcb, header, data, now):
                segment_arrives(stack, tcb, header, data, now)
        elif message.flags & FLAG_BROADCAST or stack.paths.is_group(dst):
            stack.drop("broadcast", now)  # MUST-57
        elif src[0] == 0 or stack.paths.is_group(src):
            stack.drop("bad_source", now)  # MUST-63
        else:
            listener.segment_for_nobody(stack, header, data, src, dst, now)

    def _packet_error(self, message: PacketError, now: int) -> None:
        if message.protocol == PROTOCOL_TCP:
            icmp_errors.packet_error(self.stack, message, now)

    def _paths(self, message: Paths, now: int) -> None:
        self.stack.paths.replace(message.rows)
        self._app.paths_came(now)
        if self.stack.survival is not None:
            self.stack.survival.resume(now)

    def _hello(self, message: Hello, now: int) -> None:
        """An app that was started anew has forgotten its sockets: nobody holds them any more.
        Unless it has recovered them, or this layer has."""
        stack = self.stack
        if message.role != APP:
            return
        recovered, self._app_recovered = self._app_recovered, False
        if message.generation == stack.app_generation:
            if stack.survival is not None:
                stack.survival.tell_again(now)
            return
        known, stack.app_generation = stack.app_generation, message.generation
        if recovered and stack.survival is not None:
            stack.survival.app_recovered(now)
            return
        if known is not None:
            stack.abort_all(now)
        if stack.survival is not None:
            stack.survival.forget_app()

    def _kept(self, message: Kept, now: int) -> None:
        """The app that says Hello next has what the one before it had."""
        self._app_recovered = True


def _describe(tcb: Tcb, timers: dict[str, int], now: int) -> dict[str, object]:
    control = tcb.control()
    return {
        "handle": tcb.handle,
        "listener": tcb.listener,
        "local": f"{control['local_address']}:{tcb.local_port}",
        "peer": f"{control['remote_address']}:{tcb.remote_port}",
        "recv_q": tcb.receive_queue,
        "send_q": tcb.send_queue,
        "timers_ms": timers,
        **control,
        "tcp_info": tcp_info(tcb, now),
    }


def _check_fields(theirs: Sequence[str]) -> None:
    if list(theirs) == list(TCB_FIELDS):
        return
    lacks = [name for name in TCB_FIELDS if name not in theirs]
    more = [name for name in theirs if name not in TCB_FIELDS]
    words = [f"{what} {', '.join(names)}" for what, names in
             (("it has no", lacks), ("this one has no", more)) if names]  # fmt: skip
    detail = "; ".join(words) or "in another order"
    raise DecodeError("bad_snapshot", f"control blocks of another tcp: {detail}")


def _message(kind: int, fields: list) -> Message:
    return KINDS[kind](*fields)
