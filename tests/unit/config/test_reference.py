from pathlib import Path
from typing import Any, get_args

import pytest

from orchestrator.config.endpoint import EndpointConfig
from orchestrator.config.reader import is_table, schema
from orchestrator.config.reference import reasons, reference
from orchestrator.config.server import ServerConfig

PAGE = Path(__file__).parents[3] / "docs/configuration.md"


def tables(cls: type[Any]) -> list[type[Any]]:
    inner = [
        each
        for _, kind, _ in schema(cls)
        if is_table(kind)
        for table in (get_args(kind) or (kind,))
        for each in tables(table)
    ]
    return [cls, *inner]


def test_the_page_says_what_the_program_does() -> None:
    """If not: python -m orchestrator.config.reference > docs/configuration.md"""
    assert PAGE.read_text() == reference()


@pytest.mark.parametrize("cls", [*tables(EndpointConfig), *tables(ServerConfig)])
def test_every_key_has_its_reason(cls: type[Any]) -> None:
    entries = {name for name, kind, _ in schema(cls) if not is_table(kind)}
    assert entries == set(reasons(cls))


def test_a_key_without_a_reason_is_noticed() -> None:
    """The test above can fail."""

    class Table:
        named: int
        """A reason."""
        nameless: int

    assert set(reasons(Table)) == {"named"}
