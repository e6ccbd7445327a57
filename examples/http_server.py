"""The standard library's HTTP server, unmodified, on a plywire host.

plywire up
python examples/http_server.py h2 [PORT [DIRECTORY]]
"""

import contextlib
import functools
import http.server
import os
import sys

from plywire.client import Stack


def main(host, port="80", directory=os.curdir):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=directory)
    with Stack.find(host) as stack:
        with stack.patch():  # the server takes its listening socket from the socket module
            server = http.server.ThreadingHTTPServer(("", int(port)), handler)
        with server, contextlib.suppress(KeyboardInterrupt):
            print(f"http://{host}.lab:{port}/ shows {os.path.abspath(directory)}", flush=True)
            server.serve_forever()


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
