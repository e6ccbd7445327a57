"""In CI nothing is skipped: with PLYWIRE_NO_SKIP=1 a skipped test is a failed one."""

import os

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _refuse_skip((yield))


def _refuse_skip(report):
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("PLYWIRE_NO_SKIP"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} may not be skipped (PLYWIRE_NO_SKIP is set): {reason}"
    return report
