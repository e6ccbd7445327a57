"""python -m tests.scripts FILE [NAME]: run the scenarios of a file and show the exchange."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .catalogue import IMPLEMENTATIONS, factory
from .language import ScriptError, read_file
from .runner import ScriptFailure, run


def main(arguments: list[str] | None = None) -> int:
    """Run what is named. Returns 0, 1 when a scenario went otherwise, 2 for a script's mistake."""
    parser = argparse.ArgumentParser(prog="python -m tests.scripts", description=__doc__)
    parser.add_argument("file", type=Path, help="a .ply file")
    parser.add_argument("name", nargs="?", help="one scenario of it")
    parser.add_argument("--impl", choices=sorted(IMPLEMENTATIONS), default="full")
    options = parser.parse_args(arguments)
    try:
        scenarios = read_file(options.file)
    except (ScriptError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    chosen = [item for item in scenarios if options.name in (None, item.name.split("/")[1])]
    if not chosen:
        names = ", ".join(item.name.split("/")[1] for item in scenarios)
        print(f"{options.file}: no scenario {options.name}; there are {names}", file=sys.stderr)
        return 2
    failed = 0
    for scenario in chosen:
        try:
            print(run(scenario, factory(options.impl)), end="\n\n")
        except ScriptFailure as failure:
            failed = 1
            print(failure, end="\n\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
