"""Experiment files: what they mean, and each refusal with its key and its reason."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from plywire.config import SECOND
from plywire.errors import ConfigError
from plywire.impair import Impairments
from plywire.lab.exp.file import Experiment, parse

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "experiments"

GOOD = """
[experiment]
name = "two"
repetitions = 3
seed = 40
limit = 12.5
sample = 0.002

[workload]
kind = "requests"
count = 7
writes = [4, 200]
response = 9

[implementations.full]
[implementations.lite]
sender.tcp = "services.tcp_lite:create"

[options.plain]
[options.tuned]
both.profile = "bsd"
both.tcp.delayed_ack = 0.02
sender.tcp.congestion = "newreno"
receiver.socket.TCP_NODELAY = 5

[impairments.clean]
[impairments.bad]
delay = 0.02
loss = 0.25
rate = 1000
queue = 3
"""


def read(text: str, **more: str) -> Experiment:
    return parse(tomllib.loads(text), "x.toml", **more)


def test_the_matrix_is_every_variant_on_every_wire_again_and_again():
    experiment = read(GOOD)
    variants = ["full+plain", "full+tuned", "lite+plain", "lite+tuned"]
    assert [item.name for item in experiment.variants] == variants
    names = [run.name for run in experiment.runs()]
    assert names[:5] == [*(f"{name}@clean-001" for name in variants), "full+plain@bad-001"]
    assert len(names) == len(set(names)) == 4 * 2 * 3
    assert [run.seed for run in experiment.runs()[::8]] == [40, 41, 42]


def test_an_axis_of_one_is_no_part_of_the_name():
    one = '[experiment]\nname = "x"\n[options.a]\n[options.b]\n'
    assert [run.name for run in read(one).runs()[:2]] == ["a@clean-001", "b@clean-001"]
    assert read('[experiment]\nname = "x"').runs()[0].name == "defaults@clean-001"


def test_options_reach_the_hosts_of_their_ends():
    tuned = read(GOOD).variants[3]
    h1, h2 = tuned.lab.hosts["h1"], tuned.lab.hosts["h2"]
    assert h1.implementations == {"tcp": "services.tcp_lite:create"}
    assert h2.implementations == {}
    assert (h1.tcp.congestion, h2.tcp.congestion) == ("newreno", "cubic")
    assert h1.tcp.delayed_ack == h2.tcp.delayed_ack == SECOND // 50
    assert h1.profile == h2.profile == "bsd"
    assert tuned.sockets == {"sender": {}, "receiver": {"TCP_NODELAY": 1}}  # a flag, as set


def test_times_are_seconds_in_the_file():
    experiment = read(GOOD)
    assert (experiment.limit, experiment.sample) == (12_500_000_000, 2_000_000)
    bad = Impairments(delay=20_000_000, loss=0.25, rate=1000, queue=3)
    both = {"clean": Impairments(), "bad": bad}
    assert experiment.impairments == {
        name: {"sender": one, "receiver": one} for name, one in both.items()
    }


def test_each_direction_can_be_impaired_by_itself():
    text = """
[experiment]
name = "one-way"
[impairments.thin]
delay = 0.02
loss = 0.01
sender.rate = 1000000
receiver = { delay = 0.1, loss = 0 }
"""
    (cell,) = read(text).cells()
    assert cell.settings == {
        "sender": Impairments(delay=20_000_000, loss=0.01, rate=1_000_000),
        "receiver": Impairments(delay=100_000_000),
    }


def test_what_the_programs_do():
    workload = read(GOOD).workload
    assert (workload.forward, workload.backward) == (7 * 204, 7 * 9)
    transfer = read('[experiment]\nname = "x"\n[workload]\nbytes = 5').workload
    assert (transfer.kind, transfer.forward, transfer.backward) == ("transfer", 5, 0)


def test_swaps_come_in_the_order_of_their_time():
    text = (
        GOOD
        + """
[[options.plain.swaps]]
after = 0.9
layer = "ip"
end = "receiver"
[[options.plain.swaps]]
after = 0.1
set = { congestion = "newreno", rto_min = 0.25 }
"""
    )
    first, second = read(text).variants[0].swaps
    assert (first.end, first.layer, first.after, first.spec) == ("sender", "tcp", 0.1, "")
    assert first.numbers() == {"congestion": "newreno", "rto_min": SECOND // 4}
    assert (second.end, second.layer, second.after) == ("receiver", "ip", 0.9)


def test_where_it_runs_can_be_said_elsewhere():
    assert read(GOOD).where == "simulator"
    assert read(GOOD, place="lab").where == "lab"


HEAD = '[experiment]\nname = "x"\n'


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("", "x.toml: experiment.name", "'' is not letters"),
        ('[experiment]\nname = "../x"', "x.toml: experiment.name", "is not letters"),
        (f"{HEAD}seeds = 1", "x.toml: experiment.seeds", "unknown key"),
        (f'{HEAD}repetitions = "3"', "x.toml: experiment.repetitions", "not an integer"),
        (f"{HEAD}repetitions = 0", "x.toml: experiment.repetitions", "not from 1 to 1000"),
        (f"{HEAD}seed = -1", "x.toml: experiment.seed", "-1 is not from 0"),
        (f'{HEAD}where = "moon"', "x.toml: experiment.where", "simulator, lab"),
        (f"{HEAD}limit = 0", "x.toml: experiment.limit", "number of seconds above 0"),
        (f"{HEAD}sample = 0.0001", "x.toml: experiment.sample", "less than a millisecond"),
        (f"{HEAD}[more]", "x.toml: more", "unknown key"),
        ("experiment = 3", "x.toml: experiment", "must be a table"),
        (f'{HEAD}[workload]\nkind = "game"', "x.toml: workload.kind", "transfer, requests"),
        (f"{HEAD}[workload]\nbytes = 0", "x.toml: workload.bytes", "0 is not from 1"),
        (f"{HEAD}[workload]\ncount = 3", "x.toml: workload.count", "unknown key"),
        (f'{HEAD}[workload]\nkind = "requests"\nwrites = []', "x.toml: workload.writes", "array"),
        (f'{HEAD}[workload]\nkind = "requests"\nwrites = [1, 0]', "x.toml: workload.writes",
         "0 is not a size"),
        (f'{HEAD}[workload]\nkind = "requests"\ncount = 1000000\nresponse = 9999',
         "x.toml: workload.count", "more than 1073741824 bytes"),
        (f"{HEAD}[implementations.a]\nsender.udp = 'x:y'", "x.toml: implementations.a.sender.udp",
         "not a layer"),
        (f"{HEAD}[implementations.a]\ntcp = 'x:y'", "x.toml: implementations.a.tcp", "unknown key"),
        (f"{HEAD}[implementations.a]\nboth.tcp = 'services.nowhere:create'",
         "x.toml: implementations.a.both.tcp", "there is no module services.nowhere"),
        (f"{HEAD}[implementations.a]\nboth.tcp = 'services.ip:create'",
         "x.toml: implementations.a.both.tcp", "is ip, and cannot be tcp"),
        (f"{HEAD}[options.a]\nsender.tcp.conjestion = 'x'",
         "x.toml: options.a.sender.tcp.conjestion", "unknown key"),
        (f"{HEAD}[options.a]\nsender.tcp.rack = 1", "x.toml: options.a.sender.tcp.rack",
         "not true or false"),
        (f"{HEAD}[options.a]\nsender.tcp.congestion = 'vegas'", "hosts.h1.tcp.congestion",
         "cubic, newreno"),
        (f"{HEAD}[options.a]\nsender.udp = {{}}", "x.toml: options.a.sender.udp", "unknown key"),
        (f"{HEAD}[options.a]\nboth.profile = 'mac'", "x.toml: options.a.both.profile", "linux"),
        (f"{HEAD}[options.a]\nsender.socket.TCP_SPEED = 1",
         "x.toml: options.a.sender.socket.TCP_SPEED", "unknown; there are"),
        (f"{HEAD}[options.a]\nsender.socket.TCP_CONGESTION = 'reno'",
         "x.toml: options.a.sender.socket.TCP_CONGESTION", "unknown; there are"),
        (f"{HEAD}[options.a]\nsender.socket.TCP_MAXSEG = 7",
         "x.toml: options.a.sender.socket.TCP_MAXSEG", "is from 88"),
        (f"{HEAD}[options.'a/b']", "x.toml: options.a/b", "a name is"),
        (f"{HEAD}[options.a]\nswaps = [{{ after = 1 }}]", "x.toml: options.a.swaps[0].after",
         "not a share"),
        (f"{HEAD}[options.a]\nswaps = [{{ end = 'h1' }}]", "x.toml: options.a.swaps[0].end",
         "sender, receiver"),
        (f"{HEAD}[options.a]\nswaps = [{{ layer = 'udp' }}]", "x.toml: options.a.swaps[0].layer",
         "unknown"),
        (f"{HEAD}[options.a]\nswaps = [{{ set = {{ mss = 3 }} }}]",
         "x.toml: options.a.swaps[0].set.mss", "unknown key"),
        (f"{HEAD}[options.a]\nswaps = [{{ implementation = 'services.tcp_lite:create' }}]",
         "swaps[0].implementation", "and cannot take over what is tcp/"),
        (f"{HEAD}[impairments.a]\ndelai = 1", "x.toml: impairments.a.delai", "there are delay"),
        (f"{HEAD}[impairments.a]\nloss = 2", "x.toml: impairments.a", "2 is not from 0 to 1"),
        (f"{HEAD}[impairments.a]\nloss = 0.1\nsender.loss = 2", "x.toml: impairments.a.sender",
         "2 is not from 0 to 1"),
        (f"{HEAD}[impairments.a]\nreceiver.sender = {{}}", "x.toml: impairments.a.receiver.sender",
         "unknown key"),
        (f"{HEAD}[impairments.a]\nsender = 1", "x.toml: impairments.a.sender", "must be a table"),
        (f"{HEAD}[impairments.a]\nboth.loss = 1", "x.toml: impairments.a.both", "there are delay"),
        (f"{HEAD}[impairments.a]\nloss = '1%'", "x.toml: impairments.a.loss", "is not a number"),
        (f"{HEAD}[impairments.a]\ndelay = 5000", "x.toml: impairments.a.delay", "from 0 to 3600"),
        (f"{HEAD}[impairments.a]\nrate = 1.5", "x.toml: impairments.a.rate", "not a whole number"),
        (f"{HEAD}repetitions = 1000\n" + "".join(f"[options.o{n}]\n" for n in range(11)),
         "x.toml: experiment.repetitions", "11000 runs in all; 10000 at most"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_key(text, where, reason):
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert where in caught.value.where
    assert reason in caught.value.reason


@pytest.mark.parametrize("name", ["cc", "lite", "nagle", "swap"])
def test_the_experiments_that_are_shipped_can_be_read(name):
    text = (EXAMPLES / f"{name}.toml").read_text()
    experiment = parse(tomllib.loads(text), name)
    assert experiment.name == name
    assert experiment.where == "simulator"
    assert len(experiment.variants) >= 2
    assert experiment.repetitions >= 6  # fewer give no interval of 95 %
