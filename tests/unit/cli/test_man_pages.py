"""The manual says what the command does, and its examples are right."""

import re
from pathlib import Path

import click
import pytest

from orchestrator.cli.commands import cli
from orchestrator.cli.outcome import Exit
from orchestrator.config.endpoint import EndpointConfig
from orchestrator.config.reader import schema
from orchestrator.config.server import ServerConfig
from orchestrator.config.toml import load

MAN = Path(__file__).parents[3] / "docs/man"
COMMAND = (MAN / "orchestrator.1.md").read_text()
FILE = (MAN / "orchestrator.toml.5.md").read_text()


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_its_paragraph(name: str) -> None:
    commands = COMMAND[COMMAND.index("# COMMANDS") : COMMAND.index("# OPTIONS")]
    arguments = [
        parameter.make_metavar(click.Context(cli))
        for parameter in cli.commands[name].params
        if isinstance(parameter, click.Argument)
    ]
    words = "".join(
        f" [*{argument.strip('[]')}*]" if argument.startswith("[") else f" *{argument}*"
        for argument in arguments
    )
    assert f"\n**{name}**{words}\n:" in commands
    options = COMMAND[COMMAND.index("# OPTIONS") : COMMAND.index("# EXIT STATUS")]
    for parameter in cli.commands[name].params:
        if isinstance(parameter, click.Option):
            assert all(f"**{option}**" in options for option in parameter.opts)


@pytest.mark.parametrize("name", sorted(set(cli.commands) - {"run"}))
def test_every_result_has_its_shape(name: str) -> None:
    assert f"\n**{name}**\n:" in COMMAND[COMMAND.index("# JSON") : COMMAND.index("# FILES")]


def test_every_exit_code_is_there() -> None:
    listed = COMMAND[COMMAND.index("# EXIT STATUS") : COMMAND.index("# JSON")]
    assert re.findall(r"^\d+$", listed, re.MULTILINE) == [str(int(code)) for code in Exit]


@pytest.mark.parametrize("cls", [EndpointConfig, ServerConfig])
def test_every_table_is_named(cls: type[EndpointConfig | ServerConfig]) -> None:
    tables = FILE[FILE.index("# TABLES") : FILE.index("# EXAMPLES")]
    for name, _, _ in schema(cls):
        assert f"**[{name}]**" in tables or f"**{name}**" in tables


def test_the_smallest_files_are_right(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret\n")
    (tmp_path / "secret").chmod(0o600)
    examples = re.findall(
        r"((?:^    .*\n|^\n)+)", FILE[FILE.index("# EXAMPLES") :], re.MULTILINE
    )
    texts = [text for text in examples if "role = " in text]
    assert len(texts) == 2
    for text, cls in zip(texts, (EndpointConfig, ServerConfig), strict=True):
        file = tmp_path / "example.toml"
        file.write_text(re.sub(r'"/etc/orchestrator/[^"]*"', '"secret"', text))
        assert isinstance(load(file), cls)
