"""Reads JSON that somebody else wrote, key by key, and believes none of it.

Whatever is missing, unknown, of another type or out of range raises PeerError, and nothing else
does; what a message may cost is bounded by its length.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import ip_address
from typing import Any, Final, TypeVar

from orchestrator.core.errors import PeerError
from orchestrator.core.flows import SocketAddress
from orchestrator.core.quantities import Instant, IPAddress, Seconds

LARGEST_NUMBER: Final = 2**63 - 1
LONGEST_SECONDS: Final = 10 * 365 * 86400.0
_Word = TypeVar("_Word", bound=StrEnum)


class Fields:
    """A JSON object whose keys are taken one by one; `close` when there should be none left."""

    def __init__(self, value: Any, name: str) -> None:
        if not isinstance(value, Mapping):
            raise PeerError(f"{name} is no object")
        self._left = dict(value)
        self._name = name

    @classmethod
    def parse(cls, line: bytes, name: str) -> "Fields":
        try:
            return cls(json.loads(line, parse_constant=_no_constant), name)
        except (ValueError, RecursionError) as error:
            raise PeerError(f"{name} is no JSON: {error}") from error

    def close(self) -> None:
        if self._left:
            raise PeerError(f"{self._name} has an unknown key {min(self._left)[:40]!r}")

    def text(self, key: str) -> str:
        value = self._take(key)
        if not isinstance(value, str):
            raise PeerError(f"{key!r} is no text")
        return value

    def texts(self, key: str) -> list[str]:
        value = self._take(key)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise PeerError(f"{key!r} is no list of texts")
        return value

    def addresses(self, key: str) -> tuple[IPAddress, ...]:
        return tuple(_address(one) for one in self.texts(key))

    def number(self, key: str) -> int:
        value = self._take(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise PeerError(f"{key!r} is no whole number")
        if not 0 <= value <= LARGEST_NUMBER:
            raise PeerError(f"{key!r} is not between 0 and {LARGEST_NUMBER}")
        return value

    def seconds(self, key: str) -> Seconds:
        value = self._take(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise PeerError(f"{key!r} is no time")
        if not 0 <= value <= LONGEST_SECONDS:
            raise PeerError(f"{key!r} is not between 0 and ten years")
        return Seconds(float(value))

    def instant_or_none(self, key: str) -> Instant | None:
        return None if self._is_none(key) else Instant(self.seconds(key))

    def text_or_none(self, key: str) -> str | None:
        return None if self._is_none(key) else self.text(key)

    def flag(self, key: str) -> bool:
        value = self._take(key)
        if not isinstance(value, bool):
            raise PeerError(f"{key!r} is neither true nor false")
        return value

    def socket(self, key: str) -> SocketAddress:
        match self._take(key):
            case [str(host), int(port)] if 0 <= port < 1 << 16:
                return SocketAddress(_address(host), port)
            case _:
                raise PeerError(f"{key!r} is no address and port")

    def word(self, key: str, words: type[_Word]) -> _Word:
        return _word(self.text(key), words)

    def word_or_none(self, key: str, words: type[_Word]) -> _Word | None:
        return None if self._is_none(key) else self.word(key, words)

    def fields(self, key: str) -> "Fields":
        return Fields(self._take(key), repr(key))

    def fields_or_none(self, key: str) -> "Fields | None":
        return None if self._is_none(key) else self.fields(key)

    def every(self, key: str) -> list["Fields"]:
        value = self._take(key)
        if not isinstance(value, list):
            raise PeerError(f"{key!r} is no list")
        return [Fields(one, f"one of {key!r}") for one in value]

    def tally(self, key: str, words: type[_Word]) -> tuple[tuple[_Word, int], ...]:
        """A number for each of some words."""
        counts = self.fields(key)
        names = list(counts._left)  # noqa: SLF001 - our own class
        return tuple((_word(name, words), counts.number(name)) for name in names)

    def _is_none(self, key: str) -> bool:
        """Then it is taken."""
        none = self._left.get(key, "") is None
        if none:
            del self._left[key]
        return none

    def _take(self, key: str) -> Any:
        if key not in self._left:
            raise PeerError(f"{self._name} has no {key!r}")
        return self._left.pop(key)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _word(text: str, words: type[_Word]) -> _Word:
    try:
        return words(text)
    except ValueError as error:
        raise PeerError(f"{text[:40]!r} is none of {', '.join(words)}") from error


def _address(text: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError as error:
        raise PeerError(f"{text[:60]!r} is no address") from error
