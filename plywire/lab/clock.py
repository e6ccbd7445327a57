"""`plywire clock`: let the time of the whole lab stand still, or go slowly.

All layers read one clock. A change is planned for a moment shortly ahead and given to every host,
then every layer is woken, since it sleeps until a time that the change has moved.
"""

from __future__ import annotations

import json
import time
from fractions import Fraction

import click

from plywire.lab.control import LabClient, find_lab
from plywire.lab.rundir import LabError
from plywire.runtime.clock import LEAD, TOO_LATE

_SLOWEST = 1_000_000


@click.group()
def clock() -> None:
    """The time that all layers of the lab live by."""


@clock.command()
@click.pass_obj
def pause(lab: str | None) -> None:
    """Let time stand still: no timer fires. Messages are still carried."""
    _change(lab, Fraction(0))


@clock.command()
@click.pass_obj
def resume(lab: str | None) -> None:
    """Let time run at real time's pace again."""
    _change(lab, Fraction(1))


@clock.command()
@click.argument("factor", metavar="K", type=click.FloatRange(1, _SLOWEST))
@click.pass_obj
def slow(lab: str | None, factor: float) -> None:
    """Let time run at 1/K of real time's pace."""
    _change(lab, 1 / Fraction(factor).limit_denominator(1000))


@clock.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def show(lab: str | None, as_json: bool) -> None:
    """The lab's time, and its pace."""
    with find_lab(lab or "default") as client:
        host, role = _layers(client)[0]
        state = client.ask(host, role, "clock")
    click.echo(json.dumps(state) if as_json else line(state))


def change(client: LabClient, pace: Fraction) -> dict:
    """Let the lab's time run at `pace` of real time's, and return the clock's new state.

    It counts, in every layer, when this returns. Raises LabError.
    """
    layers = _layers(client)
    plan = _agree(client, layers, pace)
    states = {f"{host}.{role}": client.ask(host, role, "clock") for host, role in layers}
    for name, state in states.items():
        if [state[key] for key in ("at", "lab", "num", "den")] != plan[:4]:
            raise LabError(f"{name} goes by another clock: was somebody else changing it too?")
    return state


def _agree(client: LabClient, layers: list[tuple[str, str]], pace: Fraction) -> list[int]:
    """Give a planned change to every host and wait until it counts; on a machine that is too busy
    for that, again with more time."""
    for lead in (LEAD, 10 * LEAD, 100 * LEAD):
        plan = client.ask(*layers[0], "clock", "plan", pace.numerator, pace.denominator, lead)
        try:
            for host, role in dict(layers).items():  # the layers of a host share a file
                client.ask(host, role, "clock", "adopt", *plan)
        except LabError as error:
            if TOO_LATE not in str(error):
                raise
            continue
        time.sleep(lead / 1e9)
        return plan
    raise LabError("the layers answer too slowly for a change of their clock: try again")


def line(state: dict) -> str:
    """A clock's state for people."""
    pace = Fraction(state["num"], state["den"])
    if not pace:
        words = "standing still"
    elif pace == 1:
        words = "at real time's pace"
    else:
        words = f"at 1/{float(1 / pace):g} of real time's pace"
    return f"lab time {state['time'] / 1e9:.6f} s, {words}"


def _change(lab: str | None, pace: Fraction) -> None:
    with find_lab(lab or "default") as client:
        click.echo(line(change(client, pace)))


def _layers(client: LabClient) -> list[tuple[str, str]]:
    """The layers that are up; the others read the clock when they start."""
    found = [
        (host.name, layer.role)
        for host in client.status().hosts
        for layer in host.layers
        if layer.state == "up"
    ]
    if not found:
        raise LabError("no layer is up; see `plywire status`")
    return found
