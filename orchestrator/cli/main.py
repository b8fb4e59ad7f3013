"""The console script `orchestrator`; what it does is in `cli.commands`."""

from typing import NoReturn

from orchestrator.cli.start import start


def main() -> NoReturn:
    start("orchestrator.cli.commands")
