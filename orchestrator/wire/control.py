"""The language between the `orchestrator` command and a daemon: lines of JSON.

One connection carries one request and its reply; after `watch` and `portal` every further
line is a reply with one event, until either side closes. After the first reply to `portal` the
client sends one message of `adapters.fdpass`, with the sockets that it listens at. A line is
one object in UTF-8, ended by a newline.

    request = {"v":1,"verb":"status"|"paths"|"sessions"|"flows"|"metrics"|"watch"|"roam"
                            |"portal"|"reload"|"replace-proxy"|"stop"}
              and, with roam and portal, "link": an interface name, or null for any
    reply   = {"ok":true,"result":…} | {"ok":false,"error":text,"remedy":text}
              and, of a wrong configuration, "faults": [{"file":text,"line":number,
                                                         "problem":text,"remedy":text}, …]
"""

import json
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Final

from orchestrator.core.errors import ConfigFault, OrchestratorError, PeerError

VERSION: Final = 1
REQUEST_LIMIT: Final = 4096
"""Octets of a request, newline included; the longest honest one has some sixty."""
REPLY_LIMIT: Final = 64 * 1024 * 1024
"""Octets of a reply, newline included: 100,000 flows at some 400 octets each, and half as much
again."""
LINK_LIMIT: Final = 64
"""Characters of a link's name; the kernel allows 15."""

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


class Verb(StrEnum):
    STATUS = "status"
    PATHS = "paths"
    SESSIONS = "sessions"
    FLOWS = "flows"
    METRICS = "metrics"
    WATCH = "watch"
    ROAM = "roam"
    PORTAL = "portal"
    RELOAD = "reload"
    REPLACE_PROXY = "replace-proxy"
    STOP = "stop"


WITH_LINK: Final = (Verb.ROAM, Verb.PORTAL)


class Refused(OrchestratorError):
    """A request that was understood and is not granted; what to do about it, if anything."""

    def __init__(self, error: str, remedy: str = "") -> None:
        super().__init__(error)
        self.error = error
        self.remedy = remedy


class NotThisRole(Refused):
    """A request for the other role's daemon."""


@dataclass(frozen=True, slots=True)
class Request:
    verb: Verb
    link: str | None = None
    """With ROAM: where to; None is anywhere else. With PORTAL: where somebody signs in."""


@dataclass(frozen=True, slots=True)
class Done:
    result: object
    """Made plain on its way out."""


@dataclass(frozen=True, slots=True)
class Refusal:
    error: str
    remedy: str = ""
    faults: tuple[ConfigFault, ...] = ()
    """Of the configuration, if it was refused because of them."""


Reply = Done | Refusal


def encode_request(request: Request) -> bytes:
    content: dict[str, Json] = {"v": VERSION, "verb": str(request.verb)}
    if request.verb in WITH_LINK:
        content["link"] = request.link
    return _line(content)


def decode_request(line: bytes) -> Request:
    """Raises PeerError for anything but a request of this version."""
    content = _object(line, REQUEST_LIMIT)
    version = content.pop("v", None)
    if version != VERSION or isinstance(version, bool):
        raise PeerError(f"this daemon speaks version {VERSION} of the control protocol only")
    try:
        verb = Verb(str(content.pop("verb", None)))
    except ValueError as error:
        raise PeerError("the request has no verb that this daemon knows") from error
    link = content.pop("link", None) if verb in WITH_LINK else None
    if content:
        raise PeerError(f"a request to {verb} has no such parts")
    if link is None:
        return Request(verb)
    if not isinstance(link, str) or not 0 < len(link) <= LINK_LIMIT:
        raise PeerError("the link is not a name")
    return Request(verb, link)


def encode_reply(reply: Reply) -> bytes:
    """A reply that would be longer than REPLY_LIMIT becomes a refusal."""
    if isinstance(reply, Refusal):
        faults = {"faults": plain(reply.faults)} if reply.faults else {}
        return _line({"ok": False, "error": reply.error, "remedy": reply.remedy, **faults})
    line = _line({"ok": True, "result": plain(reply.result)})
    if len(line) > REPLY_LIMIT:
        return encode_reply(Refusal(f"the answer has {len(line)} octets, which is too long"))
    return line


def decode_reply(line: bytes) -> Reply:
    """Raises PeerError for anything but a reply."""
    content = _object(line, REPLY_LIMIT)
    match content:
        case {"ok": True, "result": result}:
            return Done(result)
        case {"ok": False, "error": str() as error, "remedy": str() as remedy}:
            return Refusal(error, remedy, _faults(content.get("faults", [])))
    raise PeerError("not a reply of the control protocol")


def _faults(content: Json) -> tuple[ConfigFault, ...]:
    if not isinstance(content, list):
        raise PeerError("the faults are no array")
    return tuple(map(_fault, content))


def _fault(content: Json) -> ConfigFault:
    match content:
        case {
            "file": str() as file,
            "line": int() as line,
            "problem": str() as problem,
            "remedy": str() as remedy,
        }:
            return ConfigFault(Path(file), line, problem, remedy)
    raise PeerError("not a fault of a configuration")


def plain(value: object) -> Json:
    """The value in JSON's own terms: dataclasses become objects, sets sorted arrays, members
    of an Enum their name, and what JSON has no word for (an address, a path) its text."""
    match value:
        case StrEnum():
            return str(value)
        case Enum():
            return value.name.lower().replace("_", "-")
        case None | bool() | int():
            return value
        case str():
            return str(value)
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): plain(each) for key, each in value.items()}
        case AbstractSet():
            return sorted(str(each) for each in value)
        case bytes():
            return value.hex()
        case Sequence():
            return [plain(each) for each in value]
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    return str(value)


def _line(content: Mapping[str, Json]) -> bytes:
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode(errors="backslashreplace") + b"\n"


def _object(line: bytes, limit: int) -> dict[str, Json]:
    if len(line) > limit:
        raise PeerError(f"a line of more than {limit} octets")
    if not line.endswith(b"\n"):
        raise PeerError("the line has no end")
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PeerError("the line is not JSON") from error
    if not isinstance(content, dict):
        raise PeerError("the line is not a JSON object")
    return content
