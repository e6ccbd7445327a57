"""An HTTP server on a plywire host: `python -m plywire.lab.story.programs.http_server TARGET PORT`.

It is the standard library's server, over a plywire stack. It says `ready` when it listens and ends
with its standard input.
"""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from plywire.client import Stack

BODY = b"<h1>It works: this page came over four processes down and four up.</h1>\n"


class Handler(BaseHTTPRequestHandler):
    """Answers every GET with one page, and closes."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *arguments: object) -> None:
        """The diagram tells it."""


def main(target: str, port: int) -> None:
    """Serve until standard input ends."""
    with Stack(target) as stack, stack.patch(), HTTPServer(("", port), Handler) as server:
        threading.Thread(target=_end_with_input, args=(server,), daemon=True).start()
        print("ready", flush=True)
        server.serve_forever()


def _end_with_input(server: HTTPServer) -> None:
    sys.stdin.buffer.read()
    server.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
