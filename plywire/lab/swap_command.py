"""`plywire swap`: exchange one layer of a lab that runs."""

from __future__ import annotations

import click

from plywire.lab.control import find_lab


@click.command()
@click.argument("layer", metavar="HOST.LAYER")
@click.option("--impl", default="", metavar="MODULE:FACTORY",
              help="The other implementation (default: the one that runs now).")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="A key of the layer's table in the lab file (congestion=newreno).")  # fmt: skip
@click.option("--fresh", is_flag=True, help="Begin without the old state: connections end.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would happen.")
@click.pass_obj
def swap(
    lab: str | None, layer: str, impl: str, settings: tuple[str, ...], fresh: bool, dry_run: bool
) -> None:
    """Exchange a layer while its neighbours and connections go on (swap h1.tcp --set rack=false).

    The successor is started first; if it cannot take over, the old one goes on.
    """
    host, dot, role = layer.partition(".")
    if not dot or not host or not role:
        raise click.UsageError(f"{layer!r} is not HOST.LAYER, as in h1.tcp")
    pairs = {}
    for item in settings:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--set {item!r} is not KEY=VALUE, as in congestion=newreno")
        pairs[key] = value
    with find_lab(lab or "default") as client:
        for answer in client.swap(host, role, impl, pairs, fresh, dry_run):
            if answer.WhichOneof("item") == "line":
                click.echo(answer.line)
                continue
            report = answer.report
            click.echo(
                f"done: pause {report.pause * 1000:.1f} ms, {report.size:,} bytes of state;"
                f" the successor took {report.started:.2f} s to start, before the pause"
            )
            if report.silent:
                click.echo(
                    f"not asked to wait, for they did not answer: {', '.join(report.silent)}"
                )
