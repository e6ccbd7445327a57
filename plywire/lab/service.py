"""The control service of a lab: `proto/plywire/control/v1/control.proto` over gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, NoReturn, Self

import grpc

from plywire.lab.observation import Hub
from plywire.lab.readings import Reading, combine, questions
from plywire.lab.rundir import LabError
from plywire.lab.supervisor import Lab
from plywire.roles import LAYERS, Role
from plywire.rpc import control_pb2 as pb
from plywire.rpc import control_pb2_grpc
from plywire.runtime import config as places
from plywire.runtime.questions import Questions
from plywire.trace import Event

if TYPE_CHECKING:
    from plywire.lab.containers import Containers

LINES = 100
"""Log lines of each layer when nobody says how many."""
_LINES_QUEUED = 10_000
_ASK_LIMIT = 3.0
_ASK_LONGEST = 3600.0
_REPORTED = frozenset(pb.SwapReport.DESCRIPTOR.fields_by_name)


async def serve(
    lab: Lab | Containers, stopping: asyncio.Event, ready: Callable[[], None], listen: str = ""
) -> None:
    """Serve a lab that is up at `listen` until `stopping` is set.

    listen: `control.sock` in its run directory unless given. `ready()` is called when the service
    can be reached. With an address for metrics in the lab's configuration these are served, too.
    Raises LabError when one of the two addresses cannot be listened on.
    """
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)], maximum_concurrent_rpcs=256)
    servicer = LabServicer(lab, stopping)
    control_pb2_grpc.add_LabServiceServicer_to_server(servicer, server)
    address = listen or places.lab_target(lab.directory)
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise LabError(f"the control service cannot listen at {address}: {error}") from None
    scraped = None
    try:
        if lab.config.metrics:
            from plywire.lab import metrics  # its library takes long to import

            scraped = await metrics.start(lab.config.metrics, servicer.read)
        await server.start()
        ready()
        await stopping.wait()
    finally:
        if scraped is not None:
            scraped.close()
        await server.stop(0.2)
        servicer.close()


class Service:
    """The control service of a lab in this process, in a thread of its own.

    A context manager: `with Lab() as lab, Service(lab) as service: ... service.target`.
    """

    def __init__(self, lab: Lab | Containers, listen: str = "") -> None:
        self.target = listen or places.lab_target(lab.directory)
        self._listen = listen
        self._lab = lab
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="lab service", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise LabError(f"the control service cannot start: {self._error}") from self._error
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:  # told to whoever waits for the start
            self._error = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        await serve(self._lab, self._stopping, self._ready.set, self._listen)


class LabServicer(control_pb2_grpc.LabServiceServicer):
    """The RPCs of LabService. `stopping` is set when a client asks for the lab's end."""

    def __init__(self, lab: Lab | Containers, stopping: asyncio.Event) -> None:
        self._lab = lab
        self._stopping = stopping
        self._started = time.monotonic()
        self._questions = Questions()
        self._hub = Hub(self._traces)

    async def read(self, connections: bool) -> list[Reading]:
        """What all layers say now, with their connections if wanted."""
        status = await self.GetStatus(None, None)
        asked = questions(status, connections)
        answers = await asyncio.gather(
            *(self._describe(*question) for question in asked), return_exceptions=True
        )
        return combine(status, dict(zip(asked, answers, strict=True)))

    def close(self) -> None:
        """When no more RPCs come."""
        self._questions.close()

    async def GetStatus(self, request, context) -> pb.GetStatusResponse:  # noqa: N802
        """Who runs, where, since when."""
        lab = self._lab
        layers: dict[str, list[pb.Layer]] = {host: [] for host in lab.config.hosts}
        for layer in await asyncio.to_thread(lab.status):
            fields = layer._asdict()
            layers[fields.pop("host")].append(pb.Layer(**fields))
        hosts = [
            pb.Host(
                name=name,
                addresses=[
                    f"{IPv4Address(interface.address)}/{interface.prefix_length}"
                    for interface in host.interfaces
                ],
                api=lab.target(name),
                layers=layers[name],
            )
            for name, host in lab.config.hosts.items()
        ]
        return pb.GetStatusResponse(
            lab=lab.config.name,
            run_dir=str(lab.directory),
            pid=os.getpid(),
            uptime=time.monotonic() - self._started,
            hosts=hosts,
        )

    async def Describe(self, request, context) -> pb.DescribeResponse:  # noqa: N802
        """Ask a layer."""
        await self._check(context, request.host, request.layer, everything=False)
        name = f"{request.host}.{request.layer}"
        try:
            answer = await self._describe(request.host, request.layer, request.topic)
        except TimeoutError:
            state = self._lab.layer(request.host, request.layer).state
            await _refuse(
                context,
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{name} does not answer (it is {state}); see `plywire logs {name}`",
            )
        except ValueError as error:
            await _refuse(
                context,
                grpc.StatusCode.NOT_FOUND,
                f"{name} does not describe {request.topic!r} ({error})",
            )
        return pb.DescribeResponse(json=json.dumps(answer, default=_text))

    async def Ask(self, request, context) -> pb.AskResponse:  # noqa: N802
        """Let a layer do something and wait for what it says."""
        await self._check(context, request.host, request.layer, everything=False)
        name = f"{request.host}.{request.layer}"
        where = self._control(request.host, request.layer)
        try:
            arguments = json.loads(request.arguments or "[]")
        except ValueError as error:
            arguments = error
        if not isinstance(arguments, list):
            reason = f"arguments must be a JSON array: {arguments}"
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, reason)
        limit = min(request.timeout or _ASK_LIMIT, _ASK_LONGEST)
        refused = grpc.StatusCode.FAILED_PRECONDITION
        try:
            answer = await self._questions.ask(
                where, "ask", request.verb, *arguments, timeout=limit
            )
        except TimeoutError:
            state = self._lab.layer(request.host, request.layer).state
            await _refuse(context, refused, f"{name} does not answer (it is {state})")
        except ValueError as error:
            await _refuse(context, refused, str(error))
        return pb.AskResponse(json=json.dumps(answer, default=_text))

    async def Observe(self, request, context) -> AsyncIterator[pb.ObserveResponse]:  # noqa: N802
        """Everything that crosses a boundary, from `ready` on."""
        for host in request.hosts:
            await self._check(context, host)
        observer = self._hub.observe(request.hosts, request.boundaries)
        try:
            await observer.ready.wait()
            epoch = time.time_ns() - time.monotonic_ns()
            yield pb.ObserveResponse(ready=True, epoch=epoch)
            while True:
                dropped, events = await observer.next()
                if dropped:
                    yield pb.ObserveResponse(dropped=dropped)
                for event in events:
                    if isinstance(event, int):
                        yield pb.ObserveResponse(mark=event)
                    else:
                        yield to_proto(event)
        finally:
            self._hub.leave(observer)

    async def Mark(self, request, context) -> pb.MarkResponse:  # noqa: N802
        """Let observers know when they have all that was traced until now."""
        if not request.mark:
            await _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "a mark is not 0")
        self._hub.mark(request.mark)
        return pb.MarkResponse()

    async def ReadTrace(self, request, context) -> AsyncIterator[pb.ObserveResponse]:  # noqa: N802
        """Events that were seen by an observer lately."""
        for event in self._hub.find(lambda event: request.trace in (0, event.trace)):
            yield to_proto(event)

    async def ReadLogs(self, request, context) -> AsyncIterator[pb.LogLine]:  # noqa: N802
        """The last lines of each layer in the order of their times, and those to come."""
        await self._check(context, request.host, request.layer)
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[str, str, str]] = asyncio.Queue(_LINES_QUEUED)

        def wanted(host: str, role: str) -> bool:
            return request.host in ("", host) and request.layer in ("", role)

        def put(line: tuple[str, str, str]) -> None:
            if not queue.full():  # the files have what a reader this slow misses
                queue.put_nowait(line)

        def listen(host: str, role: str, line: str) -> None:
            if wanted(host, role):
                with contextlib.suppress(RuntimeError):  # the service has ended, the lab not yet
                    loop.call_soon_threadsafe(put, (host, role, line))

        listener = listen if request.follow else None
        try:
            lines, leave = await asyncio.to_thread(
                self._lab.read_logs, wanted, request.lines or LINES, listener
            )
        except LabError as error:
            await _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, str(error))
        try:
            for host, role, line in lines:
                yield pb.LogLine(host=host, layer=role, text=line)
            while request.follow:
                host, role, line = await queue.get()
                yield pb.LogLine(host=host, layer=role, text=line)
        finally:
            leave()

    async def Swap(self, request, context) -> AsyncIterator[pb.SwapResponse]:  # noqa: N802
        """Exchange a layer; what is said beforehand is sent before it happens."""
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[str | None] = asyncio.Queue()

        def exchange() -> object:
            try:
                return self._lab.swap(
                    request.host,
                    request.layer,
                    request.implementation,
                    request.settings,
                    fresh=request.fresh,
                    dry_run=request.dry_run,
                    say=lambda line: loop.call_soon_threadsafe(lines.put_nowait, line),
                )
            finally:
                loop.call_soon_threadsafe(lines.put_nowait, None)

        work = asyncio.create_task(asyncio.to_thread(exchange))
        while (line := await lines.get()) is not None:
            yield pb.SwapResponse(line=line)
        try:
            report = await work
        except LabError as error:
            await _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, str(error))
        if report is not None:
            fields = {key: value for key, value in report._asdict().items() if key in _REPORTED}
            yield pb.SwapResponse(report=pb.SwapReport(**fields))

    async def Shutdown(self, request, context) -> pb.ShutdownResponse:  # noqa: N802
        """End the lab once this is answered."""
        if reason := self._lab.endless:
            await _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, reason)
        asyncio.get_running_loop().call_soon(self._stopping.set)
        return pb.ShutdownResponse()

    def _control(self, host: str, layer: str) -> str:
        return places.control_endpoint(self._lab.place(host), host, layer)

    async def _describe(self, host: str, layer: Role, topic: str) -> object:
        """A layer's answer. Raises TimeoutError, ValueError."""
        where = self._control(host, layer)
        return await self._questions.ask(where, "describe", topic, timeout=_ASK_LIMIT)

    def _traces(self) -> dict[str, str]:
        return {
            f"{host}.{role}": places.trace_endpoint(self._lab.place(host), host, role)
            for host in self._lab.config.hosts
            for role in LAYERS
        }

    async def _check(self, context, host: str, layer: str = "", *, everything: bool = True) -> None:
        """Refuse a host or layer that the lab does not have; "" stands for all of them."""
        hosts = self._lab.config.hosts
        if host not in hosts and not (everything and not host):
            reason = f"no host {host!r} in this lab; there are {', '.join(hosts)}"
            await _refuse(context, grpc.StatusCode.NOT_FOUND, reason)
        if layer not in LAYERS and not (everything and not layer):
            reason = f"no layer {layer!r}; there are {', '.join(LAYERS)}"
            await _refuse(context, grpc.StatusCode.NOT_FOUND, reason)


def to_proto(event: Event) -> pb.ObserveResponse:
    """An event as the service sends it: the fields of mixed type as text."""
    values = event._asdict()
    for name in ("fields", "before", "after"):
        values[name] = {str(key): str(value) for key, value in values[name].items()}
    return pb.ObserveResponse(event=pb.Event(**values))


def _text(value: object) -> str:
    """What JSON has no word for: an address is dotted, other bytes are hex."""
    if isinstance(value, bytes):
        return str(IPv4Address(value)) if len(value) == 4 else value.hex(":")
    return str(value)


async def _refuse(context, code: grpc.StatusCode, reason: str) -> NoReturn:
    await context.abort(code, reason)
