"""A host: four layers, their pipes, and the socket operations of its gRPC service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from plywire.calls import Call
from plywire.errors import ConfigError, SocketError
from plywire.lab.simulator.memory import Memory
from plywire.lab.simulator.node import Killed, Node
from plywire.lab.simulator.settings import configure
from plywire.layer import Layer
from plywire.messages import Frame
from plywire.registry import implementation, load
from plywire.roles import APP, LAYERS, PIPES, Role, neighbours

if TYPE_CHECKING:
    from plywire.lab.simulator.world import World

Address = tuple[str, int]


class Host:
    """Made by `World.host(name, address, ...)`.

    address: `10.0.0.1/24`, for a host with one interface, on the wire `wire` and with `mtu`. A
    host with several gives `interfaces` instead: mappings with the keys of a lab file (`address`,
    `wire`, `mtu`, `name`, `mac`).
    routes: pairs (`10.9.0.0/16`, gateway). forwarding: as a router does; by default when there
    are several interfaces. implementations: `module:factory` by role. profile: of TCP.
    tcp, ip, link, app: fields of `TcpConfig` and so on that differ, times in nanoseconds.
    """

    def __init__(
        self, world: World, name: str, address: str | None = None, **settings: Any
    ) -> None:
        self.world = world
        self.name = name
        self._settings: dict[str, Any] = {"address": address} | settings
        self.config, self._wires = configure(world, name, **self._settings)
        self._incarnations = 0
        self.memory: dict[Role, Memory] = {}
        """What layers keep beyond their own death."""
        self.told: list[str] = []
        """What they had to say of it."""
        self._pending: dict[Call, None] = {}  # a dict, because its order is repeatable
        self._requests = 0
        for interface in self.config.interfaces:
            self._wires[interface.ifindex].join(self, interface.ifindex, interface.name)
        own = self.config.interfaces[0].address
        world.names |= {name.lower(): own, f"{name.lower()}.lab": own}
        world.hosts[name] = self
        self.nodes: dict[Role, Node] = {role: Node(self, role) for role in LAYERS}
        self._start()

    # --- the operations of the socket API ---------------------------------------------------------
    # Each returns a Call. One that has to wait is pending until the world has moved on far enough.
    # timeout is in seconds of virtual time: None for ever, 0 not at all. Where the gRPC service
    # says "would block" or "in progress" as a result, here the call fails with EAGAIN or
    # EINPROGRESS, as a kernel's would. One that is pending when app dies, and recovers, is made
    # again with the same request id and offset, as the client library does.

    def open_session(self) -> Call:
        """The id of a new session: sockets made with it are closed when it is."""
        return self._call("open_session")

    def close_session(self, session: str) -> Call:
        """What happens when the program that opened it has died."""
        return self._call("close_session", session)

    def create_socket(self, *, session: str = "", request_id: str = "") -> Call:
        """A descriptor."""
        request_id = request_id or self._request_id()
        return self._call("create_socket", session=session, request_id=request_id)

    def bind(self, descriptor: int, address: Address) -> Call:
        """The local (host, port)."""
        return self._call("bind", descriptor, address, request_id=self._request_id())

    def listen(self, descriptor: int, backlog: int = 128) -> Call:
        """The local (host, port)."""
        return self._call("listen", descriptor, backlog)

    def connect(
        self,
        descriptor: int,
        address: Address,
        *,
        timeout: float | None = None,
        request_id: str = "",
    ) -> Call:
        """A ConnectResult; EINPROGRESS when the timeout is over first."""
        return self._call(
            "connect", descriptor, address, timeout=timeout,
            request_id=request_id or self._request_id(),
            blocked=lambda result: "EINPROGRESS" if result.in_progress else "",
        )  # fmt: skip

    def accept(
        self,
        descriptor: int,
        *,
        timeout: float | None = None,
        request_id: str = "",
        session: str = "",
    ) -> Call:
        """An AcceptResult: descriptor, local, remote; EAGAIN when the timeout is over first."""
        return self._call(
            "accept", descriptor, timeout=timeout, session=session,
            request_id=request_id or self._request_id(),
            blocked=lambda result: "EAGAIN" if result.would_block else "",
        )  # fmt: skip

    def send(
        self,
        descriptor: int,
        data: bytes,
        *,
        offset: int | None = None,
        timeout: float | None = None,
        more: bool = False,
    ) -> Call:
        """A SendResult, its offset the end of what was taken; EAGAIN when that was nothing."""
        start = offset
        if start is None and timeout is not None:
            start = self._send_offset(descriptor)
        return self._call(
            "send", descriptor, data, offset=offset, timeout=timeout, more=more,
            blocked=lambda result: (
                "EAGAIN" if result.would_block and result.offset <= start else ""
            ),
        )  # fmt: skip

    def recv(
        self,
        descriptor: int,
        max_bytes: int,
        *,
        offset: int | None = None,
        timeout: float | None = None,
        peek: bool = False,
    ) -> Call:
        """A RecvResult: offset, data, end_of_stream, more; EAGAIN when there was nothing."""
        return self._call(
            "recv", descriptor, max_bytes, offset=offset, timeout=timeout, peek=peek,
            blocked=lambda result: "EAGAIN" if result.would_block else "",
        )  # fmt: skip

    def shutdown(self, descriptor: int, how: str = "both") -> Call:
        """how: `read`, `write` or `both`."""
        return self._call("shutdown", descriptor, how)

    def close_socket(self, descriptor: int) -> Call:
        """The descriptor is gone; the connection finishes by itself."""
        return self._call("close_socket", descriptor)

    def set_option(self, descriptor: int, name: str, value: int) -> Call:
        """name: as Linux has it (`TCP_NODELAY`)."""
        return self._call("set_option", descriptor, name, value)

    def get_option(self, descriptor: int, name: str) -> Call:
        """The option's value."""
        return self._call("get_option", descriptor, name)

    def get_socket(self, descriptor: int) -> Call:
        """A SocketInfo: the socket's control information."""
        return self._call("get_socket", descriptor)

    def list_sockets(self) -> Call:
        """A SocketInfo of each socket."""
        return self._call("list_sockets")

    def resolve(self, name: str) -> Call:
        """The addresses of a name, as text."""
        return self._call("resolve", name)

    def poll(self, items: Sequence[tuple[int, int]], *, timeout: float | None = None) -> Call:
        """(descriptor, events) of the sockets that are ready; an empty list after the timeout."""
        return self._call("poll", list(items), timeout=timeout)

    def cancel(self, call: Call) -> None:
        """Give up a pending call: it is not answered any more, and takes nothing with it."""
        if isinstance(call, _Operation) and call in self._pending and not call.inner.done:
            del self._pending[call]
            self.nodes[APP].layer.cancel(call.inner)
            self.nodes[APP].flush()
            self.world.settle()

    # --- the layers -------------------------------------------------------------------------------

    def layer(self, role: Role) -> Layer:
        """The core that runs a role now."""
        return self.nodes[role].layer

    def describe(self, role: Role, topic: str) -> Any:
        """A layer's view of itself, as `Layer.describe`."""
        return self.nodes[role].layer.describe(topic, self.world.now)

    def counter(self, role: Role, name: str) -> int:
        """One of a layer's counters."""
        return self.nodes[role].layer.counters[name]

    def replace(
        self, role: Role, implementation: str | None = None, settings: Mapping[str, Any] = {}
    ) -> None:
        """Swap a layer: snapshot, a new object, restore.

        implementation: another `module:factory`; settings: fields of the layer's configuration
        that change. Nobody forgets anything, so the generation stays; only pending calls end, with
        EINTR, when it is app.
        """
        node = self.nodes[role]
        if settings:
            changed = self._settings | {role: {**(self._settings.get(role) or {}), **settings}}
            self.config, _ = configure(self.world, self.name, **changed)
            self._settings = changed
        if implementation is not None:
            self._implement(role, implementation)
        state = node.layer.snapshot()
        layer = self._make(role)
        layer.restore(state, self.world.now)
        self._keep(role, layer, restored=True)
        node.take_over(layer)
        if role == APP:
            self._interrupt("EINTR", "app was replaced during the call")
        self._greet_neighbours(role)
        self.world.settle()

    def crash(self, role: Role) -> None:
        """Kill a layer and start it afresh: what was on its way to it is lost, and what it knew, if
        it has not kept it in this host's memory."""
        node = self.nodes[role]
        try:
            layer = self._make(role)
            kept = self._keep(role, layer)
        except Killed:  # once more, before it was up
            self.crash(role)
            return
        node.start(layer, self._generation(role), kept)
        if node.layer is not layer:  # once more, at its first steps
            return
        self._greet_neighbours(role)
        if role == APP and kept:
            for operation in list(self._pending):
                if node.layer is layer:
                    operation.again()
        elif role == APP:
            self._interrupt("ECONNABORTED", "app crashed during the call")
        self.world.settle()

    def reset(self, **settings: Any) -> None:
        """A fresh host in its place: nothing in it, all layers new.

        settings: as for `World.host`, those that change; interfaces cannot.
        """
        fixed = {"address", "interfaces", "wire", "mtu"} & settings.keys()
        if fixed:
            raise ConfigError(f"host {self.name}", f"{', '.join(sorted(fixed))} cannot be reset")
        settings = self._settings | settings
        self.config, _ = configure(self.world, self.name, **settings)
        self._settings = settings
        self._start()
        self._interrupt("ECONNABORTED", "the host was reset during the call")
        self.world.settle()

    def transmit(self, message: Frame) -> None:
        """The link sends a frame."""
        wire = self._wires.get(message.ifindex)
        if wire is None:
            raise AssertionError(f"{self.name} link sends on an interface {message.ifindex}")
        wire.transmit(self, message)

    # --- inside -----------------------------------------------------------------------------------

    def _start(self) -> None:
        for role, node in self.nodes.items():
            self.memory[role] = Memory()
            layer = self._make(role)
            node.start(layer, self._generation(role), self._keep(role, layer))
        for upper, lower in PIPES:
            self.nodes[upper].greet(self.nodes[lower])
        self.world.settle()

    def _greet_neighbours(self, role: Role) -> None:
        for other in neighbours(role):
            self.nodes[role].greet(self.nodes[other])

    def _make(self, role: Role) -> Layer:
        self._incarnations += 1
        rng = self.world.random("host", self.name, role, self._incarnations)
        factory = load(implementation(self.config, role))
        return factory(self.config, rng, self.nodes[role].tracer)

    def _keep(self, role: Role, layer: Layer, restored: bool = False) -> Mapping[Role, int]:
        if not hasattr(layer, "keep_in"):
            self.memory[role] = Memory()
            return {}
        return layer.keep_in(self.memory[role], self.world.now, self.told.append, restored)

    def _generation(self, role: Role) -> int:
        rng = self.world.random("generation", self.name, role, self._incarnations)
        return rng.getrandbits(64) | 1

    def _implement(self, role: Role, spec: str) -> None:
        load(spec)
        implementations = {**self.config.implementations, role: spec}
        self.config = replace(self.config, implementations=implementations)
        self._settings = self._settings | {"implementations": implementations}

    def _call(
        self,
        name: str,
        *args: Any,
        blocked: Callable[[Any], str] | None = None,
        **keywords: Any,
    ) -> Call:
        node = self.nodes[APP]

        def begin() -> Call:
            try:
                answer = getattr(node.layer, name)(*args, now=self.world.now, **keywords)
            except SocketError as error:
                answer = Call().fail(error)
            return answer if isinstance(answer, Call) else Call().resolve(answer)

        operation = _Operation(node, blocked, begin)
        self._pending[operation] = None
        operation.then(self._forget)
        operation.again()
        self.world.settle()
        return operation

    def _request_id(self) -> str:
        self._requests += 1
        return f"{self.name}-{self._requests}"

    def _forget(self, operation: Call) -> None:
        self._pending.pop(operation, None)

    def _send_offset(self, descriptor: int) -> int:
        """How far a socket's stream was accepted; asked of app in a way that no trace shows."""
        for row in self.describe(APP, "sockets"):
            if row["descriptor"] == descriptor:
                return row.get("send_offset", 0)
        return 0

    def _interrupt(self, name: str, cause: str) -> None:
        for operation in list(self._pending):
            operation.fail(SocketError(name, cause, APP))


class _Operation(Call):
    """A program's call, answered when app answers `inner`, with would-block as an errno.

    A program gets its answer when app has done with the event that caused it, as over gRPC: what
    it then calls never runs inside of app.
    """

    __slots__ = ("_begin", "_blocked", "_node", "inner")

    def __init__(
        self, node: Node, blocked: Callable[[Any], str] | None, begin: Callable[[], Call]
    ) -> None:
        super().__init__()
        self._node = node
        self._blocked = blocked
        self._begin = begin
        self.inner: Call

    def again(self) -> None:
        """Call app: for the first time, or the one that stands where one died."""
        self.inner = inner = self._begin()
        self._node.flush()
        if inner.done:
            self._answer(inner)
        else:
            world = self._node.world
            inner.then(lambda _: world.at(world.now, lambda: self._answer(inner)))

    def _answer(self, inner: Call) -> None:
        if self.done or inner is not self.inner:  # interrupted in the meantime, or called again
            return
        if inner.error is not None:
            self.fail(inner.error)
            return
        name = self._blocked(inner.value) if self._blocked is not None else ""
        if name:
            self.fail(SocketError(name, "the timeout is over", APP))
        else:
            self.resolve(inner.value)
