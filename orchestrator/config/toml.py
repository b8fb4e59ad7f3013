"""Loads a configuration file: all faults at once, each with its line and its remedy."""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from orchestrator.config.endpoint import EndpointConfig, inline_secret_faults
from orchestrator.config.positions import Positions
from orchestrator.config.reader import Contradiction, Reader
from orchestrator.config.server import ServerConfig
from orchestrator.config.values import show
from orchestrator.core.errors import ConfigError, ConfigFault

CONFIG_LIMIT: Final = 1024 * 1024
"""Octets; ten thousand endpoints with a secret each take half of it."""

AnyConfig = EndpointConfig | ServerConfig

_SYNTAX: Final = re.compile(
    r"(?P<what>.*?)(?: \(at (?:line (?P<line>\d+).*|end of document)\))?", re.DOTALL
)
_UNCLOSED: Final = ("a text is not closed", "end it with the quotes that it began with")
_COMPLAINTS: Final = (
    (r"Cannot declare \((?P<table>.*)\) twice", "[{table}] is there twice", "join the two"),
    (
        r"Cannot overwrite a value|Duplicate inline table key .*",
        "this key is there already",
        "leave one of the two",
    ),
    (r"Illegal character '\\n'|Unterminated string|Expected \"'+\"", *_UNCLOSED),
    (r"Unclosed array", "an array is not closed", "end it with ]"),
    (
        r"Unescaped '\\' in a string",
        "a backslash in a text",
        r"write \\ for it, or the text in 'single quotes'",
    ),
)
"""What tomllib says, and the same for people, with what helps."""


def load(path: Path) -> AnyConfig:
    """The configuration in the file. Raises ConfigError with every fault, in file order.

    Relative paths in it are taken from where the file stands.
    """
    file = path.absolute()
    text = _text(file)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_fault(file, text, error)]) from error
    reader = Reader(file.parent)
    config = _read(reader, raw)
    reader.found += inline_secret_faults(file, raw.get("auth"))
    if config is None or reader.found:
        raise ConfigError(faults(file, Positions(text), reader.found))
    return config


def load_again(path: Path) -> AnyConfig:
    """As `load`, for a daemon that runs: it does not wait for who may write into a pipe."""
    file = path.absolute()
    if file.exists() and not file.is_file():
        fault = ConfigFault(file, 0, "is not a file", "put the configuration file back")
        raise ConfigError([fault])
    return load(file)


def faults(
    file: Path, positions: Positions, found: Iterable[Contradiction]
) -> tuple[ConfigFault, ...]:
    """What was found, with lines, in file order."""
    placed = {
        ConfigFault(file, positions.line(each.key), each.problem, each.remedy) for each in found
    }
    return tuple(sorted(placed, key=lambda fault: (fault.line, fault.problem)))


def positions_of(path: Path) -> Positions:
    """Where the keys of a file stand that was loaded before."""
    return Positions(_text(path.absolute()))


def _read(reader: Reader, raw: dict[str, object]) -> AnyConfig | None:
    match raw.get("role"):
        case "endpoint":
            return reader.table(EndpointConfig, raw, ())
        case "server":
            return reader.table(ServerConfig, raw, ())
        case None:
            problem = "role is missing"
        case other:
            problem = f"role: {show(other)} is not a choice"
    reader.found.append(
        Contradiction(("role",), problem, 'write role = "endpoint" or role = "server"')
    )
    return None


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            octets = opened.read(CONFIG_LIMIT + 1)
    except OSError as error:
        fault = ConfigFault(
            file, 0, f"cannot be read: {error.strerror}", "give the path of a readable file"
        )
        raise ConfigError([fault]) from error
    if len(octets) > CONFIG_LIMIT:
        fault = ConfigFault(
            file, 0, "is larger than 1 MiB", "give the path of a configuration file"
        )
        raise ConfigError([fault])
    try:
        return octets.decode()
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        fault = ConfigFault(file, line, "is not UTF-8 text", "save the file as UTF-8")
        raise ConfigError([fault]) from error


def _syntax_fault(file: Path, text: str, error: tomllib.TOMLDecodeError) -> ConfigFault:
    match = _SYNTAX.fullmatch(str(error))
    what, line = (match["what"], match["line"]) if match else (str(error), None)
    problem, remedy = _complaint(what)
    number = int(line) if line else text.count("\n") + 1
    return ConfigFault(file, number, f"not TOML: {problem}", remedy)


def _complaint(what: str) -> tuple[str, str]:
    """Problem and remedy."""
    for pattern, problem, remedy in _COMPLAINTS:
        if found := re.fullmatch(pattern, what):
            names = re.findall(r"'([^']*)'", found.groupdict().get("table", ""))
            return problem.format(table=".".join(names)), remedy
    return (
        f"{what[:1].lower()}{what[1:]}",
        "write `key = value`, texts in quotes; tables begin with [name]",
    )
