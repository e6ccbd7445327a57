"""Every scenario, each a test named area/name; and that a script which says otherwise fails."""

from __future__ import annotations

from collections import Counter

import pytest

from .catalogue import factory, scenarios
from .language import Check, Number, Quiet, Scenario, Segment, When
from .runner import ScriptFailure, run

ALL = scenarios()
ANY = [item for item in ALL if item.base == "any"]
AREAS = (
    "handshake", "options", "close", "reset", "window", "zero-window", "persist", "retransmission",
    "fast-retransmit", "sack", "tail-loss", "reordering", "spurious", "slow-start",
    "congestion-avoidance", "nagle", "cork", "delayed-ack", "mss", "pmtu", "paws", "user-timeout",
    "keep-alive", "linger", "syn-flood", "blind", "simultaneous", "ecn",
)  # fmt: skip
"""What issue 4 names, and ECN: each has its file."""

OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


def named(found: list[Scenario]):
    return pytest.mark.parametrize("scenario", found, ids=[item.name for item in found])


@named(ALL)
def test_script(scenario: Scenario) -> None:
    run(scenario, factory("full"))


@named(ALL)
def test_script_with_a_new_layer_before_every_line(scenario: Scenario) -> None:
    """A successor that takes over from a snapshot goes on as if nothing had been."""
    run(scenario, factory("full"), swap=True)


@named(ALL)
def test_script_where_both_sides_numbers_wrap(scenario: Scenario) -> None:
    """RFC 9293 3.4: nothing depends on where sequence numbers begin."""
    run(scenario._replace(iss=2**32 - 700, peer_iss=2**32 - 500), factory("full"))


@named(ANY)
def test_script_of_the_base_with_the_second_tcp(scenario: Scenario) -> None:
    run(scenario, factory("lite"))


def variants(scenario: Scenario):
    """The scenario with one line changed, so that it is wrong: (which line, scenario).

    Long repeats are left as they are: they cost time, and are lines like others.
    """
    for index, event in enumerate(scenario.events):
        if index < scenario.given:
            continue
        before, after = scenario.events[:index], scenario.events[index + 1 :]
        what = event.what
        if isinstance(what, Check):
            what = what._replace(operator=OPPOSITE[what.operator])
        elif event.verb == "host" and isinstance(what, Segment) and what.fields["seq"]:
            if what.count > 20:
                continue
            until = event.when or When(True, 0)
            quiet = Quiet(until._replace(ns=until.ns + event.tolerance))
            silent = event._replace(when=None, verb="nothing", what=quiet)
            yield f"nothing for {event.text}", scenario._replace(events=(*before, silent, *after))
            first, step = what.fields["seq"]
            what = what._replace(fields={**what.fields, "seq": Number(first + 1, step)})
        else:
            continue
        changed = (*before, event._replace(what=what), *after)
        yield f"other than {event.text}", scenario._replace(events=changed)


@named(ALL)
def test_a_line_that_is_wrong_or_left_out_fails(scenario: Scenario) -> None:
    for what, wrong in variants(scenario):
        try:
            run(wrong, factory("full"))
        except ScriptFailure:
            continue
        pytest.fail(f"it passes {what}")


def test_there_are_enough_of_them_in_every_area() -> None:
    count = Counter(item.name.split("/")[0] for item in ALL)
    assert len(ALL) >= 120
    assert len(ANY) >= 60
    assert set(count) == set(AREAS)
    assert {area: count[area] for area in AREAS if count[area] < 3} == {}


def test_names_and_clauses() -> None:
    assert len({item.name for item in ALL}) == len(ALL)
    sources = ("RFC ", "Linux", "Minshall", "FreeBSD")
    assert [item.name for item in ALL if not any(word in item.about for word in sources)] == []
