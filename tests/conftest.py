"""What all tests stand on: signals that arrive, whoever started the tests, and `--no-skips`,
`--skipped-to`."""

import signal
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores SIGINT for what it starts in the background, and programs that we start
    # would inherit that: a test that interrupts one would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="a skipped test has failed: where everything is there, nothing has to be skipped",
    )
    parser.addoption(
        "--skipped-to",
        metavar="FILE",
        help="what was skipped is added there, a name a line: to be run elsewhere, by @FILE",
    )
    parser.addoption("--roams", type=int, default=20, help="how many random roams one run has")
    parser.addoption(
        "--roam-seconds", type=float, default=40.0, help="how long all of them take"
    )
    parser.addoption(
        "--rekey-seconds",
        type=float,
        default=90.0,
        help="how long short keys are tried",
    )
    parser.addoption(
        "--roam-seed",
        type=int,
        action="append",
        help="what they are made of; given again, there is another run",
    )


def _judged(report: Report, config: pytest.Config) -> Report:
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and (elsewhere := config.getoption("--skipped-to")):
        with Path(elsewhere).open("a") as names:
            names.write(report.nodeid + "\n")
    elif skipped and config.getoption("--no-skips"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _judged((yield), item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _judged((yield), collector.config)
