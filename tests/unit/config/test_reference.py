import re
import tomllib
from dataclasses import MISSING, make_dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

from orchestrator.config.endpoint import EndpointConfig
from orchestrator.config.reader import Reader, is_table, is_tables, schema
from orchestrator.config.reference import reasons, reference, shown
from orchestrator.config.server import ServerConfig

DOCS = Path(__file__).parents[3] / "docs"
PAGE = DOCS / "configuration.md"


def tables(cls: type[Any]) -> list[type[Any]]:
    inner = [
        each
        for _, kind, _ in schema(cls)
        if is_table(kind) or is_tables(kind)
        for table in (get_args(kind) or (kind,))
        if table is not Ellipsis
        for each in tables(table)
    ]
    return [cls, *inner]


def test_the_page_says_what_the_program_does() -> None:
    """If not: python -m orchestrator.config.reference > docs/configuration.md"""
    assert PAGE.read_text() == reference()


def values(cls: type[Any]) -> set[str]:
    """The keys that are no tables."""
    found = schema(cls)
    return {name for name, kind, _ in found if not is_table(kind) and not is_tables(kind)}


@pytest.mark.parametrize("cls", [*tables(EndpointConfig), *tables(ServerConfig)])
def test_every_key_has_its_reason(cls: type[Any]) -> None:
    entries = values(cls)
    assert entries == set(reasons(cls))


@pytest.mark.parametrize("cls", [*tables(EndpointConfig), *tables(ServerConfig)])
def test_defaults_are_shown_as_a_file_says_them(cls: type[Any]) -> None:
    for name, kind, spec in schema(cls):
        if name in values(cls) and spec.default not in (MISSING, None):
            table = make_dataclass("Table", [(name, kind)])
            raw = tomllib.loads(f"{name} = {shown(kind, spec.default)}")
            read = Reader(Path("/")).table(table, raw, ())
            assert read == table(spec.default)


@pytest.mark.parametrize("cls", [*tables(EndpointConfig), *tables(ServerConfig)])
def test_every_table_says_what_it_is_for(cls: type[Any]) -> None:
    """A dataclass without a docstring gets its signature for one."""
    assert not (cls.__doc__ or "").startswith(f"{cls.__name__}(")


@pytest.mark.parametrize(
    ("name", "cls"), [("endpoint.toml", EndpointConfig), ("server.toml", ServerConfig)]
)
def test_the_examples_have_every_key(name: str, cls: type[Any]) -> None:
    text = (DOCS / "examples" / name).read_text()
    keys = {key for table in tables(cls) for key in values(table)}
    absent = {key for key in keys if not re.search(rf"\b{key}( =|\]|\.\")", text)}
    assert absent == set()


def test_a_key_without_a_reason_is_noticed() -> None:
    """The test above can fail."""

    class Table:
        named: int
        """A reason."""
        nameless: int

    assert set(reasons(Table)) == {"named"}
