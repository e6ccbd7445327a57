"""A station on a plywire wire that is not plywire: pyzmq, msgpack, and proto/pipes.md.

    plywire up --host h1
    python examples/station.py ipc:///tmp/plywire-$UID/default/h1.eth0.wire 10.0.0.1 80

It joins the wire, answers ARP, pings the host, opens a TCP connection to a port where a program
listens (examples/http_server.py h1) and closes it. A fourth argument is its own endpoint.
"""

import os
import socket
import struct
import sys
import time

import msgpack
import zmq

BARRIER, FRAME, JOIN, MEMBERS, LEAVE, DONE = 2, 80, 81, 82, 83, 84
FIN, SYN, RST, ACK = 1, 2, 4, 16
WIRE, HOST, PORT = sys.argv[1], socket.inet_aton(sys.argv[2]), int(sys.argv[3])
OWN = sys.argv[4] if len(sys.argv) > 4 else f"ipc://@plywire-station-{os.getpid()}"
ME, MAC = HOST[:3] + b"\x4d", b"\x02\0" + HOST[:3] + b"\x4d"
outlets, waiting = {}, []
context = zmq.Context()
inbox = context.socket(zmq.PULL)
inbox.bind(OWN)


def say(endpoint, *message):
    if endpoint not in outlets:
        outlets[endpoint] = context.socket(zmq.PUSH)
        outlets[endpoint].connect(endpoint)
    outlets[endpoint].send(msgpack.packb([3, message]))  # a batch of one


def hear(kind):
    """The messages of a kind as they come. Whoever asks for us, on the wire or by ARP, is told."""
    while waiting or inbox.poll(5000):
        if not waiting:
            waiting.extend(msgpack.unpackb(inbox.recv())[1:])
        got, trace, *fields = waiting.pop(0)
        if got == JOIN:
            say(fields[1], MEMBERS, trace, [["station", OWN]])
        elif got == FRAME and fields[2][12:22] == b"\x08\6\0\1\x08\0\6\4\0\1":
            if fields[2][38:42] == ME:
                arp(2, fields[2][6:12], fields[2][28:32])
        elif got == kind:
            yield fields
    sys.exit(f"no message of kind {kind} within 5 s")


def send(destination, ethertype, packet):
    frame = (destination + MAC + ethertype + packet).ljust(60, b"\0")
    say(WIRE, FRAME, time.monotonic_ns(), 1, time.monotonic_ns(), frame)  # trace, ifindex, sent_at


def arp(operation, mac, address):
    packet = b"\0\1\x08\0\6\4" + struct.pack("!H", operation) + MAC + ME + mac + address
    send(mac if operation == 2 else b"\xff" * 6, b"\x08\6", packet)


def checksum(data):
    return struct.pack("!H", ~(sum(struct.unpack(f"!{len(data) // 2}H", data)) % 0xFFFF) & 0xFFFF)


def ip(protocol, data):
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 1, 0, 64, protocol, 0) + ME + HOST
    send(host_mac, b"\x08\0", head[:10] + checksum(head) + head[12:] + data)


def tcp(flags, seq, ack):
    head = struct.pack("!HHIIBBHHH", port, PORT, seq, ack, 5 << 4, flags, 65_535, 0, 0)
    ip(6, head[:16] + checksum(ME + HOST + b"\0\6\0\x14" + head) + head[18:])


def segment(wanted):
    """The sequence number of the next segment of our connection with these flags."""
    for _, _, frame in hear(FRAME):
        if frame[:6] == MAC and frame[12:14] == b"\x08\0" and frame[23] == 6:
            ports, seq, flags = frame[34:38], int.from_bytes(frame[38:42], "big"), frame[47]
            if ports == struct.pack("!HH", PORT, port) and flags & RST:
                sys.exit(f"nobody listens on port {PORT}")
            if ports == struct.pack("!HH", PORT, port) and flags & (FIN | SYN | ACK) == wanted:
                break
    return seq


say(WIRE, JOIN, 1, "station", OWN, 1)
print("joined:", ", ".join(name for name, _ in next(hear(MEMBERS))[0] if name != "station"))
arp(1, b"\0" * 6, HOST)
host_mac = next(f for _, _, f in hear(FRAME) if f[12:14] == b"\x08\6" and f[28:32] == HOST)[6:12]
print(f"arp: {sys.argv[2]} is at {host_mac.hex(':')}")

began, echo = time.monotonic(), b"\x08\0\0\0" + struct.pack("!HH", os.getpid() & 0xFFFF, 1)
ip(1, echo[:2] + checksum(echo) + echo[4:])
next(f for _, _, f in hear(FRAME) if f[23] == 1 and f[34] == 0 and f[38:42] == echo[4:])
print(f"ping: {(time.monotonic() - began) * 1e3:.1f} ms")

port = 20_000 + os.getpid() % 10_000
tcp(SYN, 1000, 0)
seq = segment(SYN | ACK)
tcp(ACK, 1001, seq + 1)
say(WIRE, BARRIER, 0, 1, "station", 7)  # trace, ifindex, station, token
print("tcp: SYN, SYN+ACK, ACK; worked through by all layers of", next(hear(DONE))[0])
tcp(FIN | ACK, 1001, seq + 1)
tcp(ACK, 1002, segment(FIN | ACK) + 1)
print("tcp: FIN, ACK, FIN, ACK")
for endpoint in list(outlets):
    say(endpoint, LEAVE, 0, "station")
context.destroy(linger=200)
