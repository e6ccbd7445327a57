"""An echo server and its client on plywire sockets.

plywire up
python examples/echo.py serve h2 &
python examples/echo.py talk h1 h2.lab "hello, other stack"
"""

import contextlib
import sys
import threading

from plywire.client import Stack

PORT = 7


def echo(sock, peer):
    with sock:
        while data := sock.recv(65536):
            sock.sendall(data)
    print("served", *peer, flush=True)


def serve(host):
    with Stack.find(host) as stack, stack.create_server(("", PORT)) as listener:
        print("listening on", host, "port", PORT, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                threading.Thread(target=echo, args=listener.accept(), daemon=True).start()


def talk(host, server, text):
    with Stack.find(host) as stack, stack.create_connection((server, PORT), timeout=10) as sock:
        sock.sendall(text.encode())
        sock.shutdown(1)  # SHUT_WR: the server sees the end and closes
        print(sock.makefile("r", encoding="utf-8").read())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", host]:
            serve(host)
        case ["talk", host, server, text]:
            talk(host, server, text)
        case _:
            sys.exit(__doc__)
