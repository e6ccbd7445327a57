"""The client of a lab's control service, for the command line and for programs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

import grpc

from plywire.lab.rundir import LabError, NoLab, labs_up, supervisor_of
from plywire.rpc import control_pb2 as pb
from plywire.rpc import control_pb2_grpc
from plywire.runtime import config as places
from plywire.trace import Event

_ANSWER_LIMIT = 5.0
_END_LIMIT = 15.0
_SWAP_LIMIT = 60.0
_CONNECT_LIMIT = 3.0


class LabClient:
    """A connection to the control service of the lab in a run directory, or at a gRPC target.

    A context manager. Methods raise LabError, with a text for people. directory: None for a lab
    that was found by its target; address: the target.
    """

    def __init__(self, directory: Path | str | None = None, *, target: str = "") -> None:
        self.directory = None if directory is None else Path(directory)
        self.address = target or places.lab_target(directory)
        self.channel = grpc.insecure_channel(self.address, options=(("grpc.enable_http_proxy", 0),))
        self.stub = control_pb2_grpc.LabServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def status(self) -> pb.GetStatusResponse:
        """Everything that runs."""
        with _refusals():
            answer = self.stub.GetStatus(pb.GetStatusRequest(), timeout=_ANSWER_LIMIT)
        if self.directory is None:  # its addresses may be others from here
            for item in answer.hosts:
                item.api = places.api_override(item.name) or item.api
        return answer

    def target(self, host: str | None = None) -> str:
        """The gRPC target of a host's socket API; without a host, that of the lab's first."""
        hosts = self.status().hosts
        for item in hosts:
            if host in (None, item.name):
                return item.api
        names = ", ".join(item.name for item in hosts)
        raise LabError(f"no host {host!r} in this lab; there are {names}")

    def describe(self, host: str, layer: str, topic: str) -> object:
        """A layer's view for people: lists and dicts."""
        request = pb.DescribeRequest(host=host, layer=layer, topic=topic)
        with _refusals():
            return json.loads(self.stub.Describe(request, timeout=_ANSWER_LIMIT).json)

    def ask(
        self, host: str, layer: str, verb: str, *arguments: object, timeout: float = _ANSWER_LIMIT
    ) -> object:
        """Let a layer do something, `timeout` seconds at most. LabError when it refuses."""
        request = pb.AskRequest(
            host=host, layer=layer, verb=verb, arguments=json.dumps(arguments), timeout=timeout
        )
        with _refusals():
            return json.loads(self.stub.Ask(request, timeout=timeout + _ANSWER_LIMIT).json)

    def describe_many(self, questions: Iterable[tuple[str, str, str]]) -> list[object | LabError]:
        """The answers to (host, layer, topic), asked all at once; a refusal stands in its place."""
        asked = [
            self.stub.Describe.future(
                pb.DescribeRequest(host=host, layer=layer, topic=topic), timeout=_ANSWER_LIMIT
            )
            for host, layer, topic in questions
        ]
        return [_outcome(call) for call in asked]

    def ask_later(
        self,
        then: Callable[[object | LabError], None],
        host: str,
        layer: str,
        verb: str,
        *arguments: object,
        timeout: float,
    ) -> Callable[[], object]:
        """Like `ask`, without waiting: then(answer) or then(LabError) is called in another thread.

        Returns a function that calls it off: `then` is told so, too.
        """
        request = pb.AskRequest(
            host=host, layer=layer, verb=verb, arguments=json.dumps(arguments), timeout=timeout
        )
        call = self.stub.Ask.future(request, timeout=timeout + _ANSWER_LIMIT)
        call.add_done_callback(lambda call: then(_outcome(call)))
        return call.cancel

    def logs(
        self, host: str = "", layer: str = "", lines: int = 0, follow: bool = False
    ) -> Iterator[pb.LogLine]:
        """Log lines; with follow without end."""
        request = pb.ReadLogsRequest(host=host, layer=layer, lines=lines, follow=follow)
        with _refusals():
            yield from self.stub.ReadLogs(request)

    def trace(self, trace: int = 0) -> Iterator[Event]:
        """The events that the lab kept of one trace id (0: all), in the order of time."""
        with _refusals():
            for response in self.stub.ReadTrace(pb.ReadTraceRequest(trace=trace)):
                yield from_proto(response.event)

    def swap(
        self,
        host: str,
        layer: str,
        implementation: str = "",
        settings: Mapping[str, str] | None = None,
        fresh: bool = False,
        dry_run: bool = False,
    ) -> Iterator[pb.SwapResponse]:
        """Exchange a layer: lines that say what will happen, then the report. LabError when the old
        one goes on."""
        request = pb.SwapRequest(
            host=host,
            layer=layer,
            implementation=implementation,
            settings=settings or {},
            fresh=fresh,
            dry_run=dry_run,
        )
        with _refusals():
            yield from self.stub.Swap(request, timeout=_SWAP_LIMIT)

    def shutdown(self) -> int:
        """End the lab and wait until it is gone. Returns the pid that it had."""
        if self.directory is None:
            raise LabError(
                f"the lab at {self.address} is ended by what started it: docker compose down"
            )
        pid = self.status().pid
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return pid
        try:
            with _refusals():
                self.stub.Shutdown(pb.ShutdownRequest(), timeout=_ANSWER_LIMIT)
            if not select.select([pidfd], [], [], _END_LIMIT)[0]:
                raise LabError(f"the lab does not end (pid {pid}): kill -9 {pid}")
        finally:
            os.close(pidfd)
        return pid


def find_lab(lab: str) -> LabClient:
    """The control service of a lab by its name, or of the one at PLYWIRE_TARGET.

    Raises NoLab when it is not up.
    """
    target = places.remote_target()
    if target is not None:
        return _at(target)
    directory = places.run_dir(lab)
    pid = supervisor_of(directory)
    if pid is None:
        others = labs_up(lab)
        hint = f"up are: {', '.join(others)} (plywire --lab NAME)" if others else "`plywire up`"
        raise NoLab(f"no lab {lab!r} is up in {directory}: {hint}")
    if not (directory / "control.sock").exists():
        raise LabError(
            f"the lab in {directory} (pid {pid}) has no control service: it is starting,"
            f" or part of a program; try again, or end process {pid}"
        )
    return LabClient(directory)


def _at(target: str) -> LabClient:
    """The lab at a gRPC target. One that nobody listens at is found out here, and at once."""
    if not target.startswith("unix:"):
        name, _, port = target.rpartition(":")
        try:
            socket.create_connection((name.strip("[]"), int(port)), _CONNECT_LIMIT).close()
        except OSError as error:
            reason = error.strerror or "no answer"
            raise NoLab(f"no lab answers at {target} ({reason}): docker compose up") from None
    return LabClient(target=target)


def from_proto(message: pb.Event) -> Event:
    """An event as it was traced; numbers among its fields are numbers again."""
    return Event(
        message.host,
        message.layer,
        message.time,
        message.trace,
        message.what,
        message.boundary,
        message.direction,
        message.subject,
        _numbers(message.fields),
        message.packet,
        _numbers(message.before),
        _numbers(message.after),
    )


def _numbers(fields: Mapping[str, str]) -> dict[str, int | str]:
    return {
        key: int(value) if value.removeprefix("-").isdecimal() else value
        for key, value in fields.items()
    }


def _outcome(call: grpc.Future) -> object | LabError:
    """What a call for JSON came to, waited for."""
    try:
        with _refusals():
            return json.loads(call.result().json)
    except grpc.FutureCancelledError:
        return LabError("called off")
    except LabError as error:
        return error


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """What gRPC raises, as a LabError for people."""
    try:
        yield
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            raise LabError("the lab has ended, or its supervisor does not answer") from None
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            raise LabError("the lab's supervisor does not answer in time") from None
        raise LabError(error.details()) from None
