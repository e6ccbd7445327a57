"""A thousand worlds of 20 % loss, reordering, duplication and corruption: nothing is ever wrong,
not even in between (tests/tcp/invariants.py: each segment, and every 40th state)."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from sim_programs import MS, SECOND, Program, exchange, listener, socket, two_hosts

from plywire.lab.simulator import World
from plywire.roles import TCP
from tests.tcp.invariants import Watch, watch_sending

SEEDS = 1000
HOUR = 3600 * SECOND

# One in two round trips fails on such a wire. With the usual retries some of a thousand
# connections would rightly give up; here each has to get through.
PATIENCE = {
    "tcp": {"syn_retries": 20, "synack_retries": 20, "orphan_retries": 20, "retries2": 30},
    "link": {"arp_tries": 20},
}


def run(seed: int) -> str:
    """What is wrong in the world of this seed; "" when nothing is."""
    world = World(seed, strict=seed % 10 == 0)
    watch_sending()
    try:
        return _run(world)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _run(world: World) -> str:
    rng = world.random("test")
    h1, h2 = two_hosts(world, **PATIENCE)
    watches = [Watch(every=40) for _ in (h1, h2)]
    for watch, host in zip(watches, (h1, h2), strict=True):
        watch.attach(host.layer(TCP))
    world.wire(
        "lan",
        delay=rng.choice((100_000, 2 * MS, 40 * MS)),
        jitter=rng.choice((0, 1 * MS)),
        loss=0.2,
        reorder=0.2,
        reorder_by=rng.choice((1 * MS, 30 * MS)),
        duplicate=0.1,
        corrupt=0.05,
        rate=rng.choice((0, 10_000_000)),
    )
    upward = rng.randbytes(rng.choice((0, 1, 1460, rng.randrange(200_000), rng.randrange(200_000))))
    downward = rng.randbytes(
        rng.choice((0, 1, 1460, rng.randrange(200_000), rng.randrange(200_000)))
    )
    accepted = h2.accept(listener(h2))
    client = socket(h1)
    world.wait(h1.connect(client, ("10.0.0.2", 80)), limit=HOUR)
    above = Program(h1, client, upward)
    below = Program(h2, world.wait(accepted, limit=HOUR).descriptor, downward)
    exchange(world, above, below, limit=10 * HOUR)
    if bytes(below.received) != upward:
        return f"h2 received {len(below.received)} bytes, not the {len(upward)} sent"
    if bytes(above.received) != downward:
        return f"h1 received {len(above.received)} bytes, not the {len(downward)} sent"

    def closed() -> bool:
        return not any(host.describe("tcp", "connections") for host in (h1, h2))

    if not world.run(closed, limit=10 * HOUR):
        return f"still open: {[host.describe('tcp', 'connections') for host in (h1, h2)]}"
    if [len(host.list_sockets().result()) for host in (h1, h2)] != [0, 1]:  # h2's listener
        return "a descriptor was left behind"
    if not all(watch.flows and watch.count for watch in watches):
        return "nobody has watched"
    return ""


def test_a_thousand_seeds():
    # Not a Pool: one whose workers cannot start makes new ones for ever.
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        problems = list(pool.map(run, range(SEEDS), chunksize=10))
    wrong = [f"seed {seed}: {problem}" for seed, problem in enumerate(problems) if problem]
    assert not wrong, f"{len(wrong)} of {SEEDS}:\n" + "\n".join(wrong[:10])
