"""An API that does what a test's script says, spoken to over real gRPC."""

import threading
from collections import defaultdict, deque
from concurrent import futures

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from plywire.rpc import socket_pb2 as pb
from plywire.rpc import socket_pb2_grpc

LOST = "lost"
"""In a script: the call fails with UNAVAILABLE."""


class Api:
    """answers[method] is a queue of responses, errno names, LOST, or functions of the request.

    Without one left a call gets the method's default response. requests[method] is what came.
    """

    def __init__(self, target, host="h1"):
        self.target, self.host = target, host
        self.answers = defaultdict(deque)
        self.requests = defaultdict(list)
        self.sessions = 0
        self._end_sessions = threading.Event()
        self._server = None

    def start(self):
        self._end_sessions.clear()
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        socket_pb2_grpc.add_SocketServiceServicer_to_server(_servicer(self), self._server)
        assert self._server.add_insecure_port(self.target)
        self._server.start()

    def stop(self):
        self._end_sessions.set()
        # With grace: streams of sessions end by the API's word, and are not cut off now and then,
        # after which a client would look for its session for seconds.
        self._server.stop(1).wait(10)

    def end_sessions(self):
        self._end_sessions.set()

    def open_session(self, request, context):
        self.sessions += 1
        context.add_callback(self._end_sessions.set)
        yield pb.OpenSessionResponse(session=f"s{self.sessions}", host=self.host)
        self._end_sessions.wait(30)

    def handle(self, name, request, context):
        self.requests[name].append(request)
        answer = self.answers[name].popleft() if self.answers[name] else None
        if callable(answer):
            answer = answer(request)
        if answer is LOST:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the script says so")
        if isinstance(answer, str):
            context.abort_with_status(status(answer))
        if answer is None:
            answer = getattr(pb, f"{name}Response")()
        return answer


def status(reason, **metadata):
    """The gRPC status of an errno."""
    detail = any_pb2.Any()
    metadata = {"host": "h1", "layer": "tcp", "cause": "RST received"} | metadata
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="plywire", metadata=metadata))
    code = grpc.StatusCode.FAILED_PRECONDITION.value[0]
    return rpc_status.to_status(status_pb2.Status(code=code, message=reason, details=[detail]))


def _servicer(api):
    methods = pb.DESCRIPTOR.services_by_name["SocketService"].methods
    calls = {"OpenSession": lambda self, request, context: api.open_session(request, context)}
    for method in methods:
        if not method.server_streaming:
            calls[method.name] = lambda self, request, context, name=method.name: api.handle(
                name, request, context
            )
    return type("Servicer", (socket_pb2_grpc.SocketServiceServicer,), calls)()
