"""Fixtures that more than one folder of tests uses: a running lab, and a program's view of it."""

import pytest
from hypothesis import settings

from plywire.client import Stack

# How long an example takes is the machine's affair, and no reason to fail.
settings.register_profile("plywire", deadline=None)
settings.load_profile("plywire")


@pytest.fixture(scope="session")
def lab():
    """The default lab (h1 10.0.0.1, h2 10.0.0.2), up for the whole test session."""
    from plywire.lab.supervisor import Lab

    with Lab() as lab:
        yield lab


@pytest.fixture(scope="session")
def stacks(lab):
    """A client's Stack on each host of the lab, by name."""
    opened = {}
    try:
        for host in lab.config.hosts:
            opened[host] = Stack(lab.target(host))
        yield opened
    finally:
        for stack in opened.values():
            stack.close()
