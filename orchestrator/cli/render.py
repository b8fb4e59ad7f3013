"""What a daemon says, in words and tables for people.

Unknown or missing parts are left away, so that a command and a daemon of neighbouring versions
understand each other. Give everything to `clean` first: identities and reasons come from the
network, and a terminal obeys what it is shown.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import click

Answer = Mapping[str, Any]

_COLOURS: Final = {
    "attached": "green",
    "serving": "green",
    "active": "green",
    "alive": "green",
    "moving": "yellow",
    "waiting": "yellow",
    "negotiating": "yellow",
    "suspect": "yellow",
    "portal": "yellow",
    "detached": "red",
    "away": "red",
    "asleep": "yellow",
    "failed": "red",
    "refused": "red",
    "dead": "red",
    "error": "red",
    "warning": "yellow",
}
_UNITS: Final = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
_SIZES: Final = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
MEGABIT: Final = 1e6
_NUMBER: Final = re.compile(r"-|\d+(\.\d+)?([A-Za-z]+\d*)*")
"""With its units, as in 4.2s or 2m10s; or none."""
_EVENT_WORDS: Final = frozenset({"at", "boottime", "event", "reasons"})
"""Parts of an event that have a place of their own in its line."""


def clean(value: Any) -> Any:
    """The same answer without control characters."""
    match value:
        case str():
            return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in value)
        case Mapping():
            return {clean(key): clean(each) for key, each in value.items()}
        case Sequence():
            return [clean(each) for each in value]
    return value


def duration(seconds: float | None) -> str:
    """Two units at most: 850ms, 4.2s, 2m10s, 3h5m, 12d4h."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 10:
        return f"{seconds:.1f}s".replace(".0s", "s")
    rest = round(seconds)
    parts: list[str] = []
    for unit, length in _UNITS:
        count, rest = divmod(rest, length)
        if parts or count:
            parts.append(f"{count}{unit}" if count else "")
        if len(parts) == 2:
            break
    return "".join(parts)


def size(octets: float | None) -> str:
    if octets is None:
        return "-"
    for unit, length in _SIZES:
        if octets >= length:
            return f"{octets / length:.1f}{unit}".replace(f".0{unit}", unit)
    return f"{octets:g}B"


def coloured(word: str) -> str:
    return click.style(word, fg=_COLOURS.get(word))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Aligned columns; numbers to the right, as their heading then is."""
    texts = [["-" if cell in (None, "", []) else _cell(cell) for cell in row] for row in rows]
    numeric = [
        bool(texts) and all(_NUMBER.fullmatch(text[column]) for text in texts)
        for column in range(len(headings))
    ]
    widths = [
        max(len(click.unstyle(cell)) for cell in column)
        for column in zip(headings, *texts, strict=True)
    ]
    return "\n".join(
        "  ".join(
            _aligned(cell, width, right=right)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in ([click.style(each, bold=True) for each in headings], *texts)
    )


def status(answer: Answer) -> str:
    state = str(answer.get("state", "?"))
    why = ", ".join(answer.get("reasons", ()))
    since = duration(answer.get("since_s"))
    head = (
        f"{answer.get('role', 'daemon')} {answer.get('identity', '')}: {coloured(state)} "
        f"for {since}{f' ({why})' if why else ''}"
    )
    path, held = answer.get("active_path"), answer.get("held") or {}
    sessions, queued = answer.get("sessions") or {}, answer.get("queued") or {}
    lines: list[tuple[str, str | None]] = [
        ("virtual addresses", ", ".join(answer.get("vip", ())) or None),
        ("pools", ", ".join(answer.get("pools", ())) or None),
        ("path", path_line(path) if path else None),
        ("flows", "; ".join(map(flows_line, answer.get("flows") or ())) or None),
        ("sessions", f"{sessions.get('attached')} of {sessions['all']}" if sessions else None),
        ("charon", answer.get("charon")),
        ("proxy", answer.get("proxy")),
        ("queued", queued_line(queued.get("memory") or {})),
        ("spooled", queued_line(queued.get("disk") or {})),
        ("held", held_line(held) if held else None),
        ("sign-in", way_line(answer.get("portal_way") or {})),
        ("frozen", f"{answer['frozen']} connections" if answer.get("frozen") else None),
        ("roams", _text(answer.get("roams"))),
        ("repairs", _text(answer.get("repairs"))),
        ("running for", duration(answer.get("uptime_s"))),
        ("version", answer.get("version")),
    ]
    known = [f"  {name:<18} {value}" for name, value in lines if value is not None]
    warnings = [
        f"{click.style('warning', fg='yellow')}: {text}" for text in answer.get("warnings", ())
    ]
    return "\n".join([head, *known, *warnings])


def way_line(way: Answer) -> str | None:
    """The way to sign in, while one is open."""
    return f"{way['link']} is open for {duration(way.get('left_s'))}" if "link" in way else None


def path_line(path: Answer) -> str:
    rtt = path.get("rtt_ms")
    tail = f", RTT {rtt} ms" if rtt is not None else ""
    return f"{path.get('link')} {path.get('pop')} -> {path.get('server')}{tail}"


def flows_line(flows: Answer) -> str:
    """A class of flows, where it goes, and why."""
    return f"{flows.get('name')} on {flows.get('link') or 'hold'} ({flows.get('reason')})"


def held_line(held: Answer) -> str:
    line = f"{held.get('packets', 0)} packets"
    if held.get("packets"):
        line += f" of {held.get('flows')} flows for {duration(held.get('since_s'))}"
        line += f", the oldest {duration(held.get('oldest_s'))} old"
    line += f", {size(held.get('bytes'))} of {size(held.get('limit_bytes'))}"
    if held.get("packets"):
        line += f", at {held.get('percent')}% of a limit"
    if held.get("total_percent"):
        line += f"; {held.get('sessions')} sessions, {held['total_percent']}% of the total"
    if lost := dropped(held.get("dropped") or {}):
        line += f"; lost: {lost}"
    return line


def dropped(reasons: Answer) -> str:
    return ", ".join(f"{count} {why}" for why, count in sorted(reasons.items()))


def held_cell(held: Answer) -> str | None:
    """What is held of how much, for how long."""
    if not held.get("packets"):
        return None
    return f"{size(held.get('bytes'))} {held.get('percent')}% {duration(held.get('since_s'))}"


def queued_line(kept: Answer) -> str | None:
    """What the proxy keeps in memory, or on disk, of its limit; None: nothing may be."""
    if not kept.get("limit_bytes"):
        return None
    line = f"{size(kept.get('bytes'))} of {size(kept.get('limit_bytes'))}"
    if kept.get("waiting"):
        since = duration(kept.get("waiting_since_s"))
        line += f", {kept['waiting']} connections wait for room, for {since}"
    if kept.get("lost_bytes"):
        line += f", {size(kept['lost_bytes'])} lost"
    if kept.get("problem"):
        line += f"; {kept['problem']}"
    return line


def paths(answer: Sequence[Answer]) -> str:
    if not answer:
        return "no path: see `orchestrator status` for the reason"
    flows = ("FLOWS",) if any(path.get("flows") for path in answer) else ()
    return table(
        (
            "LINK",
            "POP",
            "GATEWAY",
            "SERVER",
            "STATE",
            "CLASS",
            "RTT MS",
            "VAR MS",
            "LOSS %",
            "RATE",
            "MTU",
            "IKE_SA",
            "SPI IN",
            *flows,
            "WHY",
        ),
        [
            (
                path.get("link"),
                path.get("pop"),
                path.get("gateway"),
                path.get("server"),
                coloured(str(path.get("state"))),
                path.get("class"),
                path.get("rtt_ms"),
                path.get("rttvar_ms"),
                path.get("loss_percent"),
                rate(path),
                path.get("mtu"),
                path.get("ike_sa"),
                path.get("spi_in"),
                *(path.get("flows") for _ in flows),
                [*path.get("reasons", ()), *path.get("why_not", ())],
            )
            for path in answer
        ],
    )


def rate(path: Answer) -> str | None:
    """The best second, in and out; None: nothing was carried."""
    best = (path.get("rate_in_bps"), path.get("rate_out_bps"))
    if not any(best):
        return None
    kilo = max(each or 0 for each in best) < MEGABIT
    unit, of = ("kbit/s", 1e3) if kilo else ("Mbit/s", MEGABIT)
    return "/".join(f"{float(f'{(each or 0) / of:.2g}'):g}" for each in best) + f" {unit}"


def sessions(answer: Sequence[Answer]) -> str:
    if not answer:
        return "no sessions"
    return table(
        (
            "IDENTITY",
            "VIP",
            "STATE",
            "FOR",
            "THEN",
            "POP",
            "FLOWS",
            "QUEUED",
            "HELD",
            "LOST",
            "ROAMS",
            "WHY",
        ),
        [
            (
                session.get("identity"),
                session.get("vip"),
                coloured(str(session.get("state"))),
                duration(session.get("since_s")),
                next_state(session.get("next") or {}),
                session.get("pop"),
                session.get("flows"),
                queued_of(session.get("queued") or {}),
                held_cell(session.get("held") or {}),
                dropped((session.get("held") or {}).get("dropped") or {}),
                session.get("roams"),
                session.get("reasons"),
            )
            for session in answer
        ],
    )


def queued_of(queued: Answer) -> str | None:
    """Of a session: in memory and on disk."""
    octets, spooled = queued.get("bytes"), queued.get("spooled_bytes")
    return f"{size(octets)}+{size(spooled)}" if spooled else size(octets)


def next_state(following: Answer) -> str | None:
    """What a session becomes if nothing is heard, and in how long."""
    if not following:
        return None
    return f"{following.get('state')} in {duration(following.get('in_s'))}"


def flows(answer: Sequence[Answer]) -> str:
    if not answer:
        return "no flows"
    return table(
        (
            "VIP",
            "",
            "PEER",
            "STATE",
            "TO PEER",
            "TO ENDPOINT",
            "QUEUED",
            "QUEUED BACK",
            "SPOOLED",
        ),
        [
            (
                socket_address(flow.get("vip")),
                "->" if flow.get("direction") == "from-endpoint" else "<-",
                socket_address(flow.get("peer")),
                flow.get("state"),
                size(flow.get("to_peer")),
                size(flow.get("to_endpoint")),
                size(flow.get("queued_to_peer")),
                size(flow.get("queued_to_endpoint")),
                size(flow.get("spooled")),
            )
            for flow in answer
        ],
    )


def socket_address(value: object) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    host = str(value.get("host"))
    return f"[{host}]:{value.get('port')}" if ":" in host else f"{host}:{value.get('port')}"


def findings(answer: Sequence[Answer]) -> str:
    if not answer:
        return "all is well"
    return "\n".join(
        f"{coloured(str(each.get('severity')))}: {each.get('subject')}: {each.get('what')}\n"
        f"  remedy: {each.get('remedy')}"
        for each in answer
    )


def reloaded(answer: Answer) -> str:
    taken, waiting = answer.get("taken") or (), answer.get("waiting") or ()
    line = (
        f"taken: {', '.join(taken)}" if taken else "of what a reload takes nothing has changed"
    )
    return line + (f"; a restart takes: {', '.join(waiting)}" if waiting else "")


def replacement(answer: Answer) -> str:
    lost = f", {answer['lost']} were lost" if answer.get("lost") else ""
    still = duration(answer.get("standstill_ms", 0) / 1000)
    return (
        f"{answer.get('connections')} connections went over{lost}, and stood still for "
        f"{still}: from process {answer.get('former_pid')} ({answer.get('former_release')}) "
        f"to {answer.get('pid')} ({answer.get('release')})"
    )


def event(answer: Answer) -> str:
    """One line: the time of day, what happened, why, and what else is known."""
    at = str(answer.get("at", ""))[11:23]
    why = ", ".join(answer.get("reasons", ()))
    rest = " ".join(f"{k}={_cell(v)}" for k, v in answer.items() if k not in _EVENT_WORDS)
    what = coloured(str(answer.get("event", "?")))
    return " ".join(part for part in (at, what, f"({why})" if why else "", rest) if part)


def _cell(value: object) -> str:
    match value:
        case str():
            return value
        case Mapping():
            return " ".join(f"{key}={_cell(each)}" for key, each in value.items())
        case Sequence():
            return ", ".join(_cell(each) for each in value)
    return str(value)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _aligned(cell: str, width: int, *, right: bool) -> str:
    gap = " " * (width - len(click.unstyle(cell)))
    return f"{gap}{cell}" if right else f"{cell}{gap}"
