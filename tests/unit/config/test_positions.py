"""Lines of keys, compared with texts whose every key is unique and easy to find."""

import itertools
import tomllib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.positions import KeyPath, Positions

NASTY = [
    '"] } # = , ["',
    "'[table]'",
    r'"a \" quote and a \\"',
    '""',
    "''",
    '"""\n[not.a.table]\nneither = "this"\n"""',
    '"""two quotes ""\\" at the end"""""',
    "'''\n# no comment\n'quoted' ''\n'''",
    "1_000",
    "-0.5e3",
    "true",
    "1979-05-27 07:32:00Z",
    "inf",
]
COMMENTS = ["", "# [a] b = 1", '# "', "# '''"]


@st.composite
def values(draw: st.DrawFn, names: Iterator[str], depth: int = 0) -> str:
    kind = draw(st.integers(0, 9)) if depth < 3 else 0
    if kind < 6:
        return draw(st.sampled_from(NASTY))
    if kind < 8:
        comment = draw(st.sampled_from(COMMENTS))
        gap = f" {comment}\n  " if comment else draw(st.sampled_from(["", " ", "\n"]))
        items = [draw(values(names, depth + 1)) for _ in range(draw(st.integers(0, 3)))]
        trailing = draw(st.sampled_from(["", ","])) if items else ""
        return f"[{gap}{f',{gap}'.join(items)}{trailing}{gap}]"
    pairs = [
        f"{next(names)} = {draw(values(names, depth + 1))}"
        for _ in range(draw(st.integers(0, 3)))
    ]
    return "{ " + ", ".join(pairs) + " }"


@st.composite
def documents(draw: st.DrawFn) -> str:
    numbers = itertools.count()
    names = (f"key-{number:04}" for number in numbers)
    parts: list[str] = []
    arrays: list[str] = []
    for _ in range(draw(st.integers(0, 5))):
        header = draw(st.integers(0, 4))
        if header == 0:
            parts.append(f"[{next(names)}]")
        elif header == 1:
            parts.append(f'[ "{next(names)}" . {next(names)}]')
        elif header == 2:
            arrays.append(next(names))
            parts.append(f"[[{arrays[-1]}]]")
        elif header == 3 and arrays:
            parts.append(f"[[{draw(st.sampled_from(arrays))}]]")
        elif arrays:
            parts.append(f"[{draw(st.sampled_from(arrays))}.{next(names)}]")
        for _ in range(draw(st.integers(0, 3))):
            key = draw(st.sampled_from(["{0}", '"{0}"', "'{0}'", "{0} . {1}"]))
            key = key.format(next(names), next(names))
            comment = draw(st.sampled_from(COMMENTS))
            parts.append(f"{key} = {draw(values(names))} {comment}")
            parts.extend([""] * draw(st.integers(0, 2)))
    return draw(st.sampled_from(["\n", "\r\n"])).join(parts)


def keys_of(value: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    match value:
        case dict():
            for key, inner in value.items():
                yield (*path, key)
                yield from keys_of(inner, (*path, key))
        case list():
            for index, inner in enumerate(value):
                yield (*path, index)
                yield from keys_of(inner, (*path, index))


@settings(deadline=None)
@given(documents())
def test_every_key_is_found_on_the_line_where_it_first_stands(text: str) -> None:
    lines = text.split("\n")
    positions = Positions(text)
    for path in keys_of(tomllib.loads(text)):
        assert path in positions, path
        name = path[-1]
        if isinstance(name, str):
            first = next(number for number, line in enumerate(lines, 1) if name in line)
            assert positions.line(path) == first, path


def test_elements_of_arrays_have_lines_of_their_own() -> None:
    positions = Positions('a = 1\nlist = [\n  "x", # one\n  "y",\n\n  ["z",\n "w"]\n]\n')
    assert positions.line(("list", 0)) == 3
    assert positions.line(("list", 1)) == 4
    assert positions.line(("list", 2, 1)) == 7


def test_each_table_of_an_array_has_its_own_line() -> None:
    positions = Positions("[[a]]\nx = 1\n[[a]]\nx = 2\n[a.b]\ny = 3\n")
    assert positions.line(("a", 0, "x")) == 2
    assert positions.line(("a", 1, "x")) == 4
    assert positions.line(("a", 1, "b", "y")) == 6


def test_an_absent_key_has_the_line_of_the_table_that_lacks_it() -> None:
    positions = Positions("a = 1\n[server]\nb = 2\n")
    assert positions.line(("server", "identity")) == 2
    assert positions.line(("nowhere", "identity")) == 0


@pytest.mark.parametrize("text", ["", "\n", "# only a comment"])
def test_a_text_without_keys_has_no_lines(text: str) -> None:
    assert Positions(text).line(("a",)) == 0
