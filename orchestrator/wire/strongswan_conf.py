"""Reads strongswan.conf: sections, settings, includes; flattened to dotted names.

A later setting replaces an earlier one, as in strongSwan (strongswan.conf(5)). Includes are the
caller's to resolve, from the folder of the file that they stand in: this is pure.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from orchestrator.core.errors import PeerError

MAX_DEPTH: Final = 10
"""Files that include one another; strongSwan has no such limit, and loops."""

_TOKEN: Final = re.compile(
    r"""(?P<skip>[ \t\r\n]+|\#[^\n]*)
    |(?P<include>include[ \t]+(?P<path>"[^"\n]*"|[^\s\#{}]+))
    |(?P<open>(?P<section>[^\s\#{}="]+)\s*(?::[^{\n]*)?\{)
    |(?P<close>\})
    |(?P<set>(?P<key>[^\s\#{}="]+)[ \t]*=[ \t]*(?P<value>"(?:[^"\\]|\\.)*"|[^\#}\n]*))
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class ConfFile:
    folder: str
    """What its includes are relative to."""
    text: str


def parse(
    file: ConfFile, included: Callable[[str, str], Iterable[ConfFile]], depth: int = 0
) -> dict[str, str]:
    """Every setting by its dotted name ("charon.plugins.vici.socket").

    `included` gives the files that an include names in a folder's file. Raises PeerError for
    what is none of this.
    """
    found: dict[str, str] = {}
    sections: list[str] = []
    for token in _tokens(file.text):
        if token["path"] is not None:
            if depth == MAX_DEPTH:
                raise PeerError(f"more than {MAX_DEPTH} files include one another")
            for other in included(file.folder, token["path"].strip('"')):
                inner = parse(other, included, depth + 1)
                found |= {".".join((*sections, key)): inner[key] for key in inner}
        elif token["section"] is not None:
            sections.append(token["section"])
        elif token["close"] is not None:
            if not sections:
                raise PeerError("a section ends that did not begin")
            sections.pop()
        elif token["key"] is not None:
            found[".".join((*sections, token["key"]))] = _unquoted(token["value"].strip())
    if sections:
        raise PeerError(f"the section {sections[-1]} does not end")
    return found


def _tokens(text: str) -> Iterator[re.Match[str]]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise PeerError(f"line {text.count(chr(10), 0, at) + 1} is no setting")
        at = match.end()
        yield match


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value.startswith('"') and value.endswith('"'):
        return re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
    return value
