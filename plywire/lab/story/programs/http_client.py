"""A program that fetches a page: `python -m plywire.lab.story.programs.http_client TARGET URL`.

It is the standard library's client, over a plywire stack. It prints the status and the body.
"""

from __future__ import annotations

import sys
from http.client import HTTPConnection
from urllib.parse import urlsplit

from plywire.client import Stack


def main(target: str, url: str) -> None:
    """Fetch and print."""
    parts = urlsplit(url)
    with Stack(target) as stack, stack.patch():
        connection = HTTPConnection(parts.hostname, parts.port or 80, timeout=30)
        connection.request("GET", parts.path or "/")
        response = connection.getresponse()
        print(response.status, response.reason)
        print(response.read().decode("utf-8", "replace"), end="", flush=True)
        connection.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
