import socket

import pytest
from worlds import World


@pytest.fixture(params=["kernel", "plywire"])
def world(request):
    if request.param == "kernel":
        world = World("kernel", socket, socket, "127.0.0.1")
    else:
        stacks = request.getfixturevalue("stacks")
        world = World("plywire", stacks["h1"], stacks["h2"], "10.0.0.2")
    yield world
    world.close()
