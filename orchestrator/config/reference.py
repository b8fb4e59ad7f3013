"""Writes docs/configuration.md out of the configuration dataclasses.

`python -m orchestrator.config.reference > docs/configuration.md`; a test compares the two.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, is_dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

from orchestrator.config.endpoint import EndpointConfig
from orchestrator.config.reader import (
    KINDS,
    has_default,
    inherits,
    is_table,
    is_tables,
    schema,
)
from orchestrator.config.server import ServerConfig
from orchestrator.config.values import Between, Inherits

INTRODUCTION: Final = """\
# Configuration

One TOML file per daemon, `/etc/orchestrator/endpoint.toml` or `/etc/orchestrator/server.toml`;
commented examples stand in [examples](examples). `orchestrator check FILE` says everything that
is wrong with a file, each fault with its line and what to do, and changes nothing.

Unknown keys are faults. Durations are texts such as `"500ms"`, `"4s"`, `"2m"`, `"8h"`, `"1d"`;
sizes `"64B"`, `"512KiB"`, `"4MiB"`, `"1GiB"`. Relative paths start where the file stands. Files
with secrets must not be readable by others.

This page is made from the program itself (`orchestrator/config`).
"""


def reference() -> str:
    """The whole page, Markdown."""
    parts = [INTRODUCTION]
    for title, cls in (("Endpoint", EndpointConfig), ("Mobility server", ServerConfig)):
        parts += [f"## {title}\n", *_table(cls, ())]
    return "\n".join(parts)


def reasons(cls: type[object]) -> dict[str, str]:
    """The text under each field of a dataclass, in one line."""
    found: dict[str, str] = {}
    for base in cls.__bases__:
        if is_dataclass(base):
            found |= reasons(base)
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    name = ""
    for statement in tree.body if isinstance(tree, ast.ClassDef) else ():
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name)):
                pass
            case ast.Expr(value=ast.Constant(value=str() as text)) if name:
                found[name] = " ".join(text.split())
                name = ""
    return found


def _table(
    cls: type[Any], where: tuple[str, ...], base: Inherits | None = None
) -> Iterator[str]:
    """The entries of a table, then the tables inside it."""
    inner: list[str] = []
    why = reasons(cls)
    for name, kind, spec in schema(cls):
        if is_table(kind) and inherits(kind) is not None:
            inner += [f"{_heading((*where, name))}\n", f"{textwrap.fill(why[name], 96)}\n"]
            continue
        if is_table(kind):
            inner += _inner_tables(kind, (*where, name))
            continue
        if is_tables(kind):
            inner += _inner_tables(get_args(kind)[0], (*where, name), many=True)
            continue
        if get_origin(kind) is Mapping and is_table(get_args(kind)[1]):
            whose, kind = get_args(kind)  # a table for each name
            inner += _inner_tables(kind, (*where, name, f'"{describe(whose)}"'))
            continue
        default = f"default: as in `[{'.'.join(base.table)}]`" if base else _default(kind, spec)
        yield f"- **`{name}`** ({describe(kind)}; {default})  "
        yield textwrap.indent(textwrap.fill(why[name], 94), "  ")
    yield ""
    yield from inner


def _inner_tables(kind: object, path: tuple[str, ...], *, many: bool = False) -> Iterator[str]:
    """`many`: each of an array of tables."""
    heading, base = _heading(path, many=many), inherits(kind)
    for cls in (get_args(kind)[0],) if base else get_args(kind) or (kind,):
        chosen = get_type_hints(cls).get("kind")
        suffix = f' with `kind = "{get_args(chosen)[0]}"`' if chosen is not None else ""
        yield f"{heading}{suffix}\n"
        yield f"{textwrap.fill(' '.join((inspect.getdoc(cls) or '').split()), 96)}\n"
        yield from _table(cls, path, base)


def _heading(path: tuple[str, ...], *, many: bool = False) -> str:
    name = f"[{'.'.join(path)}]"
    return f"### `[{name}]`" if many else f"### `{name}`"


def describe(kind: object) -> str:
    """The type in the words of somebody who writes the file."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in KINDS:
        return KINDS[kind].name
    if origin is Annotated:
        bounds = arguments[1]
        if not isinstance(bounds, Between):
            return describe(arguments[0])
        show = KINDS[arguments[0]].show
        limit = f", {show(bounds.least)} to {show(bounds.most)}" if bounds.most else ""
        return f"{describe(arguments[0])}{limit}"
    if origin is Literal:
        return _literal(kind)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return " or ".join(f'`"{member}"`' for member in kind)
    if origin is tuple:
        return f"array: {describe(arguments[0])}"
    if type(None) in arguments:
        return describe(arguments[0])
    return f"table: {describe(arguments[0])} = {describe(arguments[1])}"


def _default(kind: object, spec: Field[Any]) -> str:
    if not has_default(spec):
        return "required"
    if spec.default is MISSING:
        return "default: empty"
    if get_origin(kind) is Annotated and kind not in KINDS:
        return _default(get_args(kind)[0], spec)
    if spec.default is None and kind not in KINDS:
        return "default: none"
    return f"default: `{shown(kind, spec.default)}`"


def shown(kind: object, value: Any) -> str:
    """The value as a file says it."""
    if kind in KINDS:
        return KINDS[kind].show(value)
    if get_origin(kind) is Annotated:
        return shown(get_args(kind)[0], value)
    if get_origin(kind) is tuple:
        return f"[{', '.join(shown(get_args(kind)[0], each) for each in value)}]"
    return f'"{value}"'


def _literal(kind: object) -> str:
    return f'`"{get_args(kind)[0]}"`'


if __name__ == "__main__":
    sys.stdout.write(reference())
