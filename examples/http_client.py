"""The standard library's HTTP client, unmodified, on a plywire host.

plywire up
python examples/http_server.py h2 &
python examples/http_client.py h1 http://h2.lab/
"""

import http.client
import sys
import urllib.parse

from plywire.client import Stack


def main(host, url):
    parts = urllib.parse.urlsplit(url)
    with Stack.find(host) as stack, stack.patch():
        client = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=30)
        client.connect()
        print("from", *client.sock.getsockname(), "to", *client.sock.getpeername(), file=sys.stderr)
        client.request("GET", parts.path or "/")
        response = client.getresponse()
        print(response.status, response.reason, file=sys.stderr)
        sys.stdout.buffer.write(response.read())
        client.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
