"""A program that fetches a page: `python -m plywire.lab.story.programs.http_client TARGET URL`.

It is the standard library's client, over a plywire stack. It prints the status and the body, or
why there is none.
"""

from __future__ import annotations

import sys
from http.client import HTTPConnection, HTTPException
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
    try:
        main(sys.argv[1], sys.argv[2])
    except (OSError, HTTPException) as error:
        reason = "; ".join([str(error), *getattr(error, "__notes__", ())])
        sys.exit(f"{sys.argv[2]}: {reason}")
