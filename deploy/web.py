"""A web server on a plywire host, an ordinary program: `python web.py HOST PORT DIRECTORY`.

It waits for the host's API, and starts anew when that has gone away: its sockets went with it.
"""

import functools
import http.server
import os
import sys
import threading

from plywire.client import Stack
from plywire.client.errors import ApiDown

LOOK = 1.0  # seconds


def find(host, pause):
    while True:
        try:
            return Stack.find(host)
        except ApiDown:
            pause.wait(LOOK)


def main(host, port, directory):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=directory)
    pause = threading.Event()
    with find(host, pause) as stack:
        with stack.patch():
            server = http.server.ThreadingHTTPServer(("", int(port)), handler)
        print(f"http://{host}.lab:{port}/ shows {directory}", flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        session = stack.session()
        while not session.ended:
            pause.wait(LOOK)
    print(f"the API of {host} has gone", flush=True)
    os.execv(sys.executable, [sys.executable, *sys.argv])


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
