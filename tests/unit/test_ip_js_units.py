"""The tests of services/ip_js in its own language, run by Node's own runner."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.node import FOLDER, needs_node

FILES = sorted(FOLDER.glob("test/*.test.js"))


@needs_node
@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_javascript(file):
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", str(file)],
        capture_output=True, text=True, timeout=60, cwd=FOLDER,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    counts = dict(re.findall(r"^# (pass|fail|skipped) (\d+)$", done.stdout, re.MULTILINE))
    assert counts["fail"] == counts["skipped"] == "0"
    assert int(counts["pass"]) > 1
