"""Fetching a URL over a host's sockets."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit

from plywire.client import Stack
from plywire.errors import ConfigError
from plywire.lab.rundir import LabError

_PIECE = 1 << 18


class Response(NamedTuple):
    """The first line of what a server answered."""

    status: int
    reason: str


def fetch(target: str, url: str, timeout: float, output: BinaryIO) -> Response:
    """GET an http URL through the host whose socket API is at `target`; the body goes to output.

    timeout: seconds for each step. Raises ConfigError for a URL that cannot be fetched, LabError
    when the fetch fails.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or 80
    except ValueError as error:
        raise ConfigError(url, str(error)) from None
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(url, "only http:// URLs can be fetched, as in http://h2.lab/")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with Stack(target) as stack:
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=timeout)
        connection._create_connection = stack.create_connection
        try:
            with _failing_as(f"{parts.hostname}:{port}"):
                connection.request("GET", path, headers={"User-Agent": "plywire"})
                response = connection.getresponse()
            while True:
                with _failing_as(f"{parts.hostname}:{port}"):
                    body = response.read(_PIECE)
                if not body:
                    break
                _write(output, body)
        finally:
            connection.close()
    return Response(response.status, response.reason)


@contextmanager
def _failing_as(where: str) -> Iterator[None]:
    """What goes wrong in here is the other host's doing, or the way's to it."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise LabError(f"{where}: {reason}") from None


def _write(output: BinaryIO, body: bytes) -> None:
    try:
        output.write(body)
        output.flush()
    except BrokenPipeError:  # who reads has had enough
        raise
    except OSError as error:
        raise LabError(f"the body cannot be written: {error.strerror}") from None
