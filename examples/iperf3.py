"""A client of iperf3's server on plywire sockets: how fast is it to and from another stack?

plywire up
python examples/iperf3.py h1 10.0.0.9 100            # 100 MB to an `iperf3 -s` at 10.0.0.9
python examples/iperf3.py h1 10.0.0.9 100 reverse    # the server sends
"""

import json
import secrets
import sys
import time

from plywire.client import Stack

PORT = 5201
TEST_START, TEST_RUNNING, TEST_END, PARAM_EXCHANGE, CREATE_STREAMS = 1, 2, 4, 9, 10
EXCHANGE_RESULTS, DISPLAY_RESULTS, IPERF_DONE = 13, 14, 16
BLOCK = 131_072


def exactly(sock, size):
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise ConnectionError("the server has closed the connection")
        data += part
    return data


def expect(control, *states):
    for state in states:
        came = exactly(control, 1)[0]
        if came != state:
            raise ConnectionError(f"the server is in state {came}, not {state}: is it busy?")


def say(control, message):
    body = json.dumps(message).encode()
    control.sendall(len(body).to_bytes(4, "big") + body)


def hear(control):
    return json.loads(exactly(control, int.from_bytes(exactly(control, 4), "big")))


def measure(connect, size, reverse=False):
    """(bytes that the receiver had, seconds, the server's results). connect: makes a connection."""
    cookie = secrets.token_hex(18).encode() + b"\0"
    with connect() as control:
        control.sendall(cookie)
        expect(control, PARAM_EXCHANGE)
        ways = {"reverse": True} if reverse else {}
        say(control, {"tcp": True, "omit": 0, "time": 0, "num": size, "parallel": 1, "len": BLOCK,
                      "client_version": "3.12", **ways})  # fmt: skip
        expect(control, CREATE_STREAMS)
        with connect() as data:
            data.sendall(cookie)
            expect(control, TEST_START, TEST_RUNNING)
            begun = time.monotonic()
            moved = 0
            block = bytes(BLOCK)
            while moved < size:
                if reverse:
                    part = data.recv(BLOCK)
                    if not part:
                        break
                    moved += len(part)
                else:
                    data.sendall(block)
                    moved += BLOCK
            seconds = time.monotonic() - begun
            control.sendall(bytes([TEST_END]))
            expect(control, EXCHANGE_RESULTS)
            stream = {"id": 1, "bytes": moved, "retransmits": -1, "jitter": 0, "errors": 0,
                      "packets": 0, "start_time": 0, "end_time": seconds}  # fmt: skip
            say(control, {"cpu_util_total": 0, "cpu_util_user": 0, "cpu_util_system": 0,
                          "sender_has_retransmits": 0, "streams": [stream]})  # fmt: skip
            results = hear(control)
            expect(control, DISPLAY_RESULTS)
            control.sendall(bytes([IPERF_DONE]))
    return moved if reverse else results["streams"][0]["bytes"], seconds, results


def main(host, server, megabytes, reverse):
    with Stack.find(host) as stack:
        size, seconds, _ = measure(
            lambda: stack.create_connection((server, PORT), timeout=60), megabytes * 10**6, reverse
        )
    way = "received" if reverse else "sent"
    print(f"{size / 1e6:.1f} MB {way} in {seconds:.2f} s: {size * 8 / seconds / 1e6:.1f} Mbit/s")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [host, server, megabytes]:
            main(host, server, int(megabytes), False)
        case [host, server, megabytes, "reverse"]:
            main(host, server, int(megabytes), True)
        case _:
            sys.exit(__doc__)
