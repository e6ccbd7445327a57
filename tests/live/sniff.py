"""Captures an interface of this network namespace into a pcapng file: `sniff.py INTERFACE FILE`.

The kernel queues each packet on this socket when it passes the interface. So when standard input
ends, all packets up to that moment are in the queue, and are written before this ends.
"""

from __future__ import annotations

import select
import socket
import sys
import time

from plywire.pcapng import Writer

ETH_P_ALL = 3
SO_RCVBUFFORCE = 33  # Linux; Python has no name for it
LINKTYPE_ETHERNET = 1
QUEUE = 256 << 20


def main(interface: str, path: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sniffer:
        sniffer.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE)
        sniffer.bind((interface, 0))
        sniffer.setblocking(False)
        with open(path, "wb") as file:
            writer = Writer(file)
            number = writer.interface(interface, LINKTYPE_ETHERNET)
            print("ready", flush=True)
            ended = False
            while not ended:
                ready, _, _ = select.select([sniffer, sys.stdin], [], [])
                ended = sys.stdin in ready
                while True:
                    try:
                        frame = sniffer.recv(1 << 17)
                    except BlockingIOError:
                        break
                    writer.packet(number, time.time_ns(), frame)


if __name__ == "__main__":
    main(*sys.argv[1:])
