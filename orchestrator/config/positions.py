"""Finds the line of every key and array element in a TOML text.

tomllib gives values without positions, and the libraries that keep the text (tomlkit) do not
say where a value stood either. So the text is walked a second time. It is known to be valid by
then, which leaves little to do: step over strings, comments and brackets without being fooled
by what stands inside them, and note where each key begins.
"""

import re
import tomllib
from bisect import bisect_right
from typing import Final

KeyPath = tuple[str | int, ...]
"""Keys from the root inwards; an int is an index into an array."""

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
"""White space, line ends and comments."""
_SPACE: Final = re.compile(r"[ \t]*")
_SCALAR: Final = re.compile(r"[^,\]}#\n]*")
"""Numbers, booleans and dates end where a structure goes on."""
_STRINGS: Final = (
    re.compile(r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})', re.DOTALL),
    re.compile(r"'''.*?'''(?:'{0,2})", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)


class Positions:
    """Lines of one text, by key path. The text must be valid TOML."""

    def __init__(self, text: str) -> None:
        self._lines = _Walk(text).lines

    def line(self, path: KeyPath) -> int:
        """The 1-based line of the key, or of the nearest table around it; 0 for the root."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 0)

    def __contains__(self, path: KeyPath) -> bool:
        return path in self._lines


class _Walk:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._arrays: dict[KeyPath, int] = {}
        """Arrays of tables, and how many tables each has so far."""
        self.lines: dict[KeyPath, int] = {}
        self._document()

    def _document(self) -> None:
        table: KeyPath = ()
        while True:
            self._skip(_BLANK)
            if self._at >= len(self._text):
                return
            if self._ahead("[["):
                table = self._array_header()
            elif self._ahead("["):
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> KeyPath:
        line = self._line()
        self._at += len("[")
        table: KeyPath = ()
        for key in self._key():
            table = self._inside((*table, key))
            self._note(table, line)
        self._at += len("]")
        return table

    def _array_header(self) -> KeyPath:
        line = self._line()
        self._at += len("[[")
        *outer, last = self._key()
        table: KeyPath = ()
        for key in outer:
            table = self._inside((*table, key))
            self._note(table, line)
        table = (*table, last)
        self._note(table, line)
        index = self._arrays.get(table, 0)
        self._arrays[table] = index + 1
        self._note((*table, index), line)
        self._at += len("]]")
        return (*table, index)

    def _inside(self, table: KeyPath) -> KeyPath:
        """A name of an array of tables means its latest table."""
        count = self._arrays.get(table)
        return table if count is None else (*table, count - 1)

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for key in self._key():
            path = (*path, key)
            self._note(path, line)
        self._at += len("=")
        self._skip(_SPACE)
        self._value(path)

    def _key(self) -> list[str]:
        keys: list[str] = []
        while True:
            self._skip(_SPACE)
            keys.append(self._simple_key())
            self._skip(_SPACE)
            if not self._ahead("."):
                return keys
            self._at += len(".")

    def _simple_key(self) -> str:
        if self._text[self._at] in "\"'":
            quoted = self._take_string()
            return next(iter(tomllib.loads(f"{quoted} = 0")))
        match = _BARE_KEY.match(self._text, self._at)
        if match is None:
            raise ValueError(f"line {self._line()} is not valid TOML")
        self._at = match.end()
        return match.group()

    def _value(self, path: KeyPath) -> None:
        if self._ahead("["):
            self._array(path)
        elif self._ahead("{"):
            self._inline_table(path)
        elif self._text[self._at] in "\"'":
            self._take_string()
        else:
            self._skip(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._at += len("[")
        index = 0
        while True:
            self._skip(_BLANK)
            if self._ahead("]"):
                break
            self._note((*path, index), self._line())
            self._value((*path, index))
            index += 1
            self._skip(_BLANK)
            if self._ahead(","):
                self._at += len(",")
        self._at += len("]")

    def _inline_table(self, path: KeyPath) -> None:
        self._at += len("{")
        while True:
            self._skip(_BLANK)
            if self._ahead("}"):
                break
            self._pair(path)
            self._skip(_BLANK)
            if self._ahead(","):
                self._at += len(",")
        self._at += len("}")

    def _take_string(self) -> str:
        for form in _STRINGS:
            match = form.match(self._text, self._at)
            if match is not None:
                self._at = match.end()
                return match.group()
        raise ValueError(f"line {self._line()} is not valid TOML")

    def _skip(self, what: re.Pattern[str]) -> None:
        match = what.match(self._text, self._at)
        if match is not None:
            self._at = match.end()

    def _ahead(self, what: str) -> bool:
        return self._text.startswith(what, self._at)

    def _line(self) -> int:
        return bisect_right(self._starts, self._at)

    def _note(self, path: KeyPath, line: int) -> None:
        self.lines.setdefault(path, line)
