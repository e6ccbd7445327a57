"""Programs that know nothing of plywire: the standard library's."""

import asyncio
import contextlib
import hashlib
import http.client
import http.server
import random
import socketserver
import urllib.request

import pytest

BODY = random.Random(5).randbytes(700_000)


@contextlib.contextmanager
def patched(stack):
    """The socket module as it is, or plywire in its place."""
    if hasattr(stack, "patch"):
        with stack.patch():
            yield
    else:
        yield


@contextlib.contextmanager
def serving(world, server):
    thread = world.run(server.serve_forever, 0.05)
    try:
        yield server.server_address
    finally:
        server.shutdown()
        thread()
        server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(BODY if self.path == "/large" else self.path.encode())

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(hashlib.sha256(data).hexdigest().encode())

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # a client that leaves in the middle is not this test's affair


@pytest.fixture
def address(world):
    with patched(world.server):
        server = Server((world.address, 0), Handler)
    with serving(world, server) as address:
        yield address


def test_http_get_and_post_on_one_connection(world, address):
    with patched(world.client):
        client = http.client.HTTPConnection(*address, timeout=30)
        client.connect()
    with contextlib.closing(client):
        client.request("GET", "/hello")
        response = client.getresponse()
        assert (response.status, response.read()) == (200, b"/hello")
        client.request("GET", "/large")
        assert client.getresponse().read() == BODY
        client.request("POST", "/", body=BODY)
        assert client.getresponse().read() == hashlib.sha256(BODY).hexdigest().encode()


def test_http_without_patching(world, address):
    client = http.client.HTTPConnection(*address)
    client.sock = world.client.create_connection(address, 30)
    with contextlib.closing(client):
        client.request("GET", "/hello")
        assert client.getresponse().read() == b"/hello"


def test_http_many_clients(world, address):
    def fetch(number):
        client = http.client.HTTPConnection(*address)
        client.sock = world.client.create_connection(address, 30)
        with contextlib.closing(client):
            client.request("GET", f"/{number}")
            return client.getresponse().read()

    results = [world.run(fetch, number) for number in range(10)]
    assert [result() for result in results] == [b"/%d" % number for number in range(10)]


def test_urllib(world, address):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    url = "http://{}:{}/large".format(*address)
    with patched(world.client), opener.open(url, timeout=30) as response:
        assert response.read() == BODY


class Upper(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())


def test_socketserver(world):
    with patched(world.server):
        server = socketserver.ThreadingTCPServer((world.address, 0), Upper)
    server.daemon_threads = True
    with serving(world, server) as address:
        client = world.client_socket()
        client.connect(address)
        with client, client.makefile("rwb") as file:
            for word in (b"one\n", b"two\n"):
                file.write(word)
                file.flush()
                assert file.readline() == word.upper()


def test_asyncio_streams(world):
    async def handle(reader, writer):
        writer.write((await reader.readexactly(len(BODY)))[::-1])
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def talk():
        listener = world.listener(timeout=0)
        server = await asyncio.start_server(handle, sock=listener)
        client = world.client_socket(timeout=0)
        await asyncio.get_running_loop().sock_connect(client, listener.getsockname())
        reader, writer = await asyncio.open_connection(sock=client)
        writer.write(BODY)
        assert await reader.readexactly(len(BODY)) == BODY[::-1]
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    asyncio.run(asyncio.wait_for(talk(), 30))
