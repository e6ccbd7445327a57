"""A server on h2 and a client on h1, in one program: `plywire up`, then run this."""

import threading

from plywire.client import Stack

h1, h2 = Stack.find("h1"), Stack.find("h2")

listener = h2.create_server(("", 7000))


def echo():
    sock, _ = listener.accept()
    with sock:
        while data := sock.recv(65536):
            sock.sendall(data)


threading.Thread(target=echo).start()
with h1.create_connection(("h2.lab", 7000), timeout=10) as sock:
    sock.sendall(b"over four processes down and four up")
    sock.shutdown(1)
    print(sock.makefile("rb").read())
