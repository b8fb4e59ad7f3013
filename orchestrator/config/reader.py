"""Turns TOML tables into the dataclasses that describe them, and gathers every fault.

The dataclasses are the reference: a field's name is the key, its type says how the value is
read (`KINDS`), `Annotated[…, Between(…)]` bounds it, its default makes it optional. A field
that is itself a dataclass is a table; a union of dataclasses is a table whose `kind` chooses.
A dataclass with a method `contradictions()` is asked what does not fit together; where a value
of its own is not readable, as far as it comes without that.
"""

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

from orchestrator.config import values
from orchestrator.config.positions import KeyPath
from orchestrator.config.values import BadValue, Between, Inherits, Otherwise
from orchestrator.core.flow_class import Ports
from orchestrator.core.quantities import IPAddress, IPNetwork, Seconds

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind:
    """How one type of value is read, and how it is called and shown in the reference."""

    read: Callable[[object], object]
    name: str
    show: Callable[[Any], str] = values.show


KINDS: Final[Mapping[object, Kind]] = {
    str: Kind(values.text, "text"),
    bool: Kind(values.boolean, "true or false"),
    int: Kind(values.integer, "whole number"),
    Seconds: Kind(values.duration, "duration", lambda s: f'"{values.show_duration(s)}"'),
    values.Lifetime: Kind(
        values.lifetime,
        'duration or "unlimited"',
        lambda s: '"unlimited"' if s is None else f'"{values.show_duration(s)}"',
    ),
    values.Octets: Kind(values.size, "size", lambda octets: f'"{values.show_size(octets)}"'),
    values.FixedVips: Kind(values.fixed_vips, "IP address, or one of each family"),
    values.AssignedVips: Kind(
        values.assigned_vips,
        '"assigned", IP address, or one of each family',
        lambda vips: values.show(list(vips)) if vips else '"assigned"',
    ),
    values.Secret: Kind(values.secret, "text", lambda _: '"…"'),
    values.Identity: Kind(values.identity, "identity"),
    values.HostName: Kind(values.host_name, "host name"),
    values.InterfaceName: Kind(values.interface, "interface name"),
    values.InterfaceGlob: Kind(values.interface_glob, "interface name pattern"),
    values.InterfaceClass: Kind(
        values.interface_class,
        "interface name pattern, or an array of several that are equal",
        values.show_class,
    ),
    IPAddress: Kind(values.address, "IP address", lambda address: f'"{address}"'),
    values.ListenAddress: Kind(values.listen_address, "IP address and port"),
    values.HttpUrl: Kind(values.http_url, "URL of plain HTTP, with an IP address"),
    Ports: Kind(values.ports, "port, or range of ports", str),
    IPNetwork: Kind(values.network, "IP network", lambda network: f'"{network}"'),
    Path: Kind(values.path, "path", lambda path: f'"{path}"'),
}


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Values that are readable and yet cannot stand; found at `key` of the table."""

    key: KeyPath
    problem: str
    remedy: str


@runtime_checkable
class Checked(Protocol):
    def contradictions(self) -> Iterable[Contradiction]: ...


@dataclass(slots=True)
class Reader:
    """Reads tables; what was wrong with them is in `found` afterwards."""

    directory: Path
    """What relative paths are relative to."""
    found: list[Contradiction] = field(default_factory=list)
    _made: dict[KeyPath, object] = field(default_factory=dict)
    """Tables that were read, from which others take what they do not say."""

    def table(
        self,
        cls: Callable[..., T],
        raw: Mapping[str, object],
        where: KeyPath,
        base: object = None,
    ) -> T | None:
        """The table as a `cls`, or None when a fault (now in `found`) prevents it.

        What it does not say is as in `base`, another table, if that has it.
        """
        before = len(self.found)
        self._unknown(cls, raw, where)
        arguments: dict[str, object] = {}
        whole = True
        for name, kind, spec in schema(cls):
            if name in raw:
                value = self._value(kind, raw[name], (*where, name))
            elif hasattr(base, name):
                value = getattr(base, name)
            elif not has_default(spec):
                value = self._absent(name, kind, where)
            else:
                continue
            whole = whole and not isinstance(value, _Faulty)
            arguments[name] = value
        if not whole:
            unread = [name for name, it in arguments.items() if isinstance(it, _Faulty)]
            self._contradictions(_readable(cls, arguments), where, unread)
            return None
        made = cls(**arguments)
        self._contradictions(made, where)
        if len(self.found) > before:
            return None
        self._made[where] = made
        return made

    def _contradictions(
        self, made: object, where: KeyPath, unread: Collection[str] = ()
    ) -> None:
        if not isinstance(made, Checked):
            return
        try:
            for each in made.contradictions():
                self._fault((*where, *each.key), each.problem, each.remedy)
        except AttributeError as error:
            if error.obj is not made or error.name not in unread:
                raise

    def _absent(self, name: str, kind: object, where: KeyPath) -> object:
        if is_table(kind):
            # What the missing table lacks says more than that it is missing.
            return self._value(kind, {}, (*where, name))
        table = ".".join(str(key) for key in where)
        self._fault(
            where,
            f"{name} is missing" + (f" in [{table}]" if table else ""),
            f"add {name} = {example(kind)}",
        )
        return _Faulty()

    def _unknown(
        self, cls: Callable[..., object], raw: Mapping[str, object], where: KeyPath
    ) -> None:
        names = [name for name, _, _ in schema(cls)]
        for key in raw.keys() - set(names):
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
            remedy = (
                f"did you mean {near[0]}?"
                if near
                else f"known here: {', '.join(sorted(names))}"
            )
            self._fault((*where, key), f"unknown key {key}", remedy)

    def _value(self, kind: object, raw: object, where: KeyPath) -> object:
        """The value, or `_Faulty` when it has a fault (now in `found`)."""
        origin, arguments = get_origin(kind), get_args(kind)
        if kind in KINDS:
            return self._scalar(KINDS[kind], raw, where)
        if origin is Annotated:
            if isinstance(arguments[1], Inherits):
                return self._heir(arguments[0], arguments[1], raw, where)
            if isinstance(arguments[1], Otherwise):
                return self._scalar(KINDS[arguments[0]], raw, where, arguments[1].remedy)
            return self._bounded(arguments[0], arguments[1], raw, where)
        if origin is Literal:
            return self._choice([str(each) for each in arguments], raw, where)
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            found = self._choice([str(member) for member in kind], raw, where)
            return found if isinstance(found, _Faulty) else kind(str(found))
        if origin is tuple:
            return self._array(arguments[0], raw, where)
        if origin in (Union, UnionType):
            inner = [each for each in arguments if each is not type(None)]
            if not all(is_dataclass(each) for each in inner):
                return self._value(inner[0], raw, where)
            return self._one_of(inner, raw, where)
        if not isinstance(raw, Mapping):
            return self._no_table(raw, where)
        if is_dataclass(kind):
            made = self.table(kind, raw, where)  # type: ignore[arg-type]  # a class, not a value
            return _Faulty() if made is None else made
        return self._names(arguments[0], arguments[1], raw, where)

    def _heir(self, kind: Any, base: Inherits, raw: object, where: KeyPath) -> object:
        """A table that takes what it does not say from another one."""
        if not isinstance(raw, Mapping):
            return self._no_table(raw, where)
        made = self.table(kind, raw, where, self._made.get(base.table, base.default))
        return _Faulty() if made is None else made

    def _no_table(self, raw: object, where: KeyPath) -> "_Faulty":
        self._fault(
            where, f"{where[-1]} is {values.show(raw)}, not a table", "see the examples"
        )
        return _Faulty()

    def _scalar(
        self, kind: Kind, raw: object, where: KeyPath, remedy: str | None = None
    ) -> object:
        try:
            value = kind.read(raw)
        except BadValue as error:
            self._fault(where, f"{_called(where)}: {error.problem}", remedy or error.remedy)
            return _Faulty()
        return self.directory / value if isinstance(value, Path) else value

    def _bounded(self, kind: object, bounds: Between, raw: object, where: KeyPath) -> object:
        value = self._value(kind, raw, where)
        try:
            bounds.check(value, KINDS[kind].show)
        except BadValue as error:
            self._fault(where, f"{_called(where)}: {error.problem}", error.remedy)
            return _Faulty()
        return value

    def _choice(self, choices: list[str], raw: object, where: KeyPath) -> object:
        if raw in choices:
            return raw
        near = difflib.get_close_matches(str(raw), choices, n=1)
        listed = " or ".join(f'"{choice}"' for choice in choices)
        self._fault(
            where,
            f"{_called(where)}: {values.show(raw)} is not a choice",
            f'did you mean "{near[0]}"?' if near else f"write {listed}",
        )
        return _Faulty()

    def _array(self, kind: object, raw: object, where: KeyPath) -> object:
        if not isinstance(raw, list):
            self._fault(
                where, f"{_called(where)}: {values.show(raw)} is not an array", "put it in [ ]"
            )
            return _Faulty()
        found = [self._value(kind, item, (*where, index)) for index, item in enumerate(raw)]
        return _Faulty() if any(isinstance(each, _Faulty) for each in found) else tuple(found)

    def _one_of(self, classes: list[Any], raw: object, where: KeyPath) -> object:
        if not isinstance(raw, Mapping):
            return self._value(classes[0], raw, where)
        by_kind = {get_args(get_type_hints(each)["kind"])[0]: each for each in classes}
        if "kind" not in raw:
            listed = " or ".join(f'kind = "{kind}"' for kind in by_kind)
            self._fault(where, f"kind is missing in [{where[-1]}]", f"add {listed}")
            return _Faulty()
        kind = self._choice(list(by_kind), raw["kind"], (*where, "kind"))
        return kind if isinstance(kind, _Faulty) else self._value(by_kind[kind], raw, where)

    def _names(
        self, name_kind: object, kind: object, raw: Mapping[str, object], where: KeyPath
    ) -> object:
        """A table whose keys are the operator's own names."""
        found = {
            self._scalar(KINDS[name_kind], name, (*where, name)): self._value(
                kind, each, (*where, name)
            )
            for name, each in raw.items()
        }
        if any(isinstance(each, _Faulty) for pair in found.items() for each in pair):
            return _Faulty()
        return MappingProxyType(found)

    def _fault(self, where: KeyPath, problem: str, remedy: str) -> None:
        self.found.append(Contradiction(where, problem, remedy))


class _Faulty:
    """Stands for a value that could not be read."""


def _readable(cls: Any, arguments: Mapping[str, object]) -> object:
    """A `cls` without the values that could not be read."""
    made: object = object.__new__(cls)
    for spec in fields(cls):
        value = arguments.get(spec.name, spec.default)
        if value is MISSING and spec.default_factory is not MISSING:
            value = spec.default_factory()
        if not isinstance(value, _Faulty):
            object.__setattr__(made, spec.name, value)
    return made


def schema(cls: Callable[..., object]) -> Iterator[tuple[str, object, Field[object]]]:
    """Name, type and field of everything in a configuration dataclass."""
    types = get_type_hints(cls, include_extras=True)
    for spec in fields(cls):  # type: ignore[arg-type]  # a dataclass, called as a function here
        yield spec.name, types[spec.name], spec


def has_default(spec: Field[object]) -> bool:
    return spec.default is not MISSING or spec.default_factory is not MISSING


def is_table(kind: object) -> bool:
    """Whether values of this type are tables of known keys."""
    if inherits(kind) is not None:
        return True
    if get_origin(kind) in (Union, UnionType):
        return all(is_dataclass(each) for each in get_args(kind))
    return is_dataclass(kind)


def is_tables(kind: object) -> bool:
    """Whether values of this type are arrays of tables of known keys."""
    return get_origin(kind) is tuple and is_table(get_args(kind)[0])


def inherits(kind: object) -> Inherits | None:
    """From where a table takes what it does not say."""
    named = get_args(kind)[1] if get_origin(kind) is Annotated else None
    return named if isinstance(named, Inherits) else None


def example(kind: object) -> str:
    """A value of this type, for a remedy."""
    if get_origin(kind) is Annotated and kind not in _EXAMPLES:
        return example(get_args(kind)[0])
    if get_origin(kind) is tuple:
        return f"[{example(get_args(kind)[0])}]"
    if get_origin(kind) is Literal:
        return f'"{get_args(kind)[0]}"'
    return _EXAMPLES.get(kind, '"…"')


_EXAMPLES: Final[Mapping[object, str]] = {
    values.Identity: '"laptop1@example.org"',
    values.InterfaceName: '"eth0"',
    IPAddress: '"203.0.113.10"',
    IPNetwork: '"10.99.0.0/24"',
    Path: '"/etc/orchestrator/…"',
    values.Lifetime: f'"8h", or "{values.UNLIMITED}"',
}


def _called(where: KeyPath) -> str:
    """The value's name as people say it: the key, with its place in an array."""
    name = where[-1]
    if isinstance(name, int):
        return f"{where[-2]}[{name}]"
    return name
