"""A process in a layer's place, to see what the supervisor does: `standin.py BEHAVIOUR [FILE]`.

It takes a layer's arguments and lives until its standard input ends.
"""

import signal
import sys
from pathlib import Path

behaviour, file = sys.argv[1], Path(sys.argv[2])
fresh = not file.exists()
if behaviour == "refuse":
    print("2026-11-20T13:00:00.123 h1.tcp ERROR no such thing: try another", file=sys.stderr)
    sys.exit(2)
if behaviour == "crash":
    raise KeyError("nothing here")
if behaviour == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if behaviour == "fail-later" and not fresh:
    sys.exit("not again")
if behaviour == "slow-later" and not fresh:
    sys.stdin.read()
file.touch()
print("the first line\nthe second", file=sys.stderr, flush=True)
print("ready", flush=True)
if behaviour == "noisy":
    print("x" * 1_000_000, file=sys.stderr, flush=True)
    print("noise is over", file=sys.stderr, flush=True)
sys.stdin.read()
if behaviour == "stubborn":
    signal.pause()
