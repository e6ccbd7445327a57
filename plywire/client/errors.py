"""From a gRPC status to the exception that `socket` would raise."""

from __future__ import annotations

import errno
import os
import socket

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

_GAI = {name: value for name, value in vars(socket).items() if name.startswith("EAI_")}
_GAI_TEXT = {
    "EAI_NONAME": "Name or service not known",
    "EAI_AGAIN": "Temporary failure in name resolution",
    "EAI_FAMILY": "ai_family not supported",
    "EAI_SOCKTYPE": "ai_socktype not supported",
    "EAI_SERVICE": "Servname not supported for ai_socktype",
}


class ApiDown(ConnectionError):
    """The API of the host cannot be reached, or went away together with this program's sockets.

    errno is ENETDOWN. It says nothing about a peer: what a peer did is a ConnectionError of its
    own kind (`ConnectionResetError`, ...).
    """

    def __init__(self, text: str) -> None:
        super().__init__(errno.ENETDOWN, text)


def os_error(number: int, note: str = "") -> OSError:
    """The OSError for an errno, with the text and subclass that the kernel's errors have."""
    error = OSError(number, os.strerror(number))
    if note:
        error.add_note(note)
    return error


def gai_error(name: str, note: str = "") -> socket.gaierror:
    """A failed name resolution: name is `EAI_NONAME` and the like."""
    error = socket.gaierror(_GAI[name], _GAI_TEXT.get(name, name))
    if note:
        error.add_note(note)
    return error


def is_lost(error: grpc.RpcError) -> bool:
    """Whether it is unknown if the call reached the API, which is what a retry is for. An API that
    goes away while a call waits may also cancel it."""
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def from_rpc(error: grpc.RpcError, target: str) -> OSError:
    """The exception for a failed call.

    The errno's name is in the status's google.rpc.ErrorInfo; host, layer and cause become a note
    of the exception. Without an ErrorInfo it was the RPC itself that failed.
    """
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == "plywire":
            return _from_info(info)
    code = error.code()
    text = f"the API at {target}: {error.details() or code.name}"
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return ApiDown(text)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ApiDown(f"the API at {target} does not answer")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return os_error(errno.ENOBUFS, text)
    return os_error(errno.EIO, f"{text} ({code.name})")


def _from_info(info: error_details_pb2.ErrorInfo) -> OSError:
    where = " ".join(info.metadata[key] for key in ("host", "layer") if key in info.metadata)
    note = ": ".join(filter(None, (where, info.metadata.get("cause", ""))))
    if info.reason in _GAI:
        return gai_error(info.reason, note)
    number = getattr(errno, info.reason, None)
    if number is None:
        return os_error(errno.EIO, f"{info.reason}: {note}")
    return os_error(number, note)
