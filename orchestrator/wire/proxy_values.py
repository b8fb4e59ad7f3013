"""Settings, records and counters of the proxy worker, as objects of JSON.

Whatever does not decode raises PeerError, and nothing else.
"""

from dataclasses import asdict
from ipaddress import ip_network

from orchestrator.core.allowance import Shortage
from orchestrator.core.errors import PeerError
from orchestrator.core.firewall import ProxyPorts
from orchestrator.core.flows import (
    DialFailure,
    FlowDirection,
    FlowRecord,
    Kept,
    ProxyCounters,
    ProxySettings,
    Refusal,
    SocketAddress,
    SourcePolicy,
    SpoolSettings,
)
from orchestrator.core.quantities import Instant
from orchestrator.core.relay_events import Outcome, Phase
from orchestrator.wire.json_fields import Fields


def socket_address(address: SocketAddress) -> list[object]:
    return [str(address.host), address.port]


def settings_object(settings: ProxySettings) -> dict[str, object]:
    return {
        "pools": [str(pool) for pool in settings.pools],
        "source": settings.source,
        "port_from_endpoints": settings.ports.from_endpoints,
        "port_to_endpoints": settings.ports.to_endpoints,
        "flows_per_vip": settings.flows_per_vip,
        "flows": settings.flows,
        "octets_per_flow": settings.octets_per_flow,
        "octets_per_vip": settings.octets_per_vip,
        "octets": settings.octets,
        "spool": settings.spool and asdict(settings.spool),
        "dial_seconds": settings.dial_seconds,
        "dial_vip_seconds": settings.dial_vip_seconds,
    }


def read_settings(fields: Fields) -> ProxySettings:
    pools = fields.texts("pools")
    try:
        settings = ProxySettings(
            pools=tuple(ip_network(pool) for pool in pools),
            source=fields.word("source", SourcePolicy),
            ports=ProxyPorts(
                fields.number("port_from_endpoints"), fields.number("port_to_endpoints")
            ),
            flows_per_vip=fields.number("flows_per_vip"),
            flows=fields.number("flows"),
            octets_per_flow=fields.number("octets_per_flow"),
            octets_per_vip=fields.number("octets_per_vip"),
            octets=fields.number("octets"),
            dial_seconds=fields.seconds("dial_seconds"),
            dial_vip_seconds=fields.seconds("dial_vip_seconds"),
            spool=_read_spool(fields.fields_or_none("spool")),
        )
    except ValueError as error:
        raise PeerError(f"settings: {error}") from error
    fields.close()
    return settings


def _read_spool(fields: Fields | None) -> SpoolSettings | None:
    """Raises ValueError for limits that make no sense."""
    if fields is None:
        return None
    spool = SpoolSettings(
        fields.text("directory"),
        fields.number("per_flow"),
        fields.number("per_vip"),
        fields.number("in_all"),
    )
    fields.close()
    return spool


def record_object(record: FlowRecord) -> dict[str, object]:
    return {
        "vip": socket_address(record.vip),
        "peer": socket_address(record.peer),
        "direction": record.direction,
        "since": record.since,
        "state": record.state,
        "to_peer": record.to_peer,
        "to_endpoint": record.to_endpoint,
        "queued_to_peer": record.queued_to_peer,
        "queued_to_endpoint": record.queued_to_endpoint,
        "spooled": record.spooled,
        "waits_since": record.waits_since,
    }


def read_record(fields: Fields) -> FlowRecord:
    record = FlowRecord(
        vip=fields.socket("vip"),
        peer=fields.socket("peer"),
        direction=fields.word("direction", FlowDirection),
        since=Instant(fields.seconds("since")),
        state=fields.word("state", Phase),
        to_peer=fields.number("to_peer"),
        to_endpoint=fields.number("to_endpoint"),
        queued_to_peer=fields.number("queued_to_peer"),
        queued_to_endpoint=fields.number("queued_to_endpoint"),
        spooled=fields.number("spooled"),
        waits_since=fields.instant_or_none("waits_since"),
    )
    fields.close()
    return record


def counters_object(counters: ProxyCounters) -> dict[str, object]:
    return {
        "open": counters.open,
        "capacity": counters.capacity,
        "accepted": counters.accepted,
        "to_peer": counters.to_peer,
        "to_endpoint": counters.to_endpoint,
        "refused": dict(counters.refused),
        "dial_failures": dict(counters.dial_failures),
        "ended": dict(counters.ended),
        "events_lost": counters.events_lost,
        "memory": _kept(counters.memory),
        "disk": _kept(counters.disk),
        "disk_failures": counters.disk_failures,
        "disk_lost": counters.disk_lost,
        "disk_problem": counters.disk_problem,
    }


def _kept(kept: Kept) -> dict[str, object]:
    return {
        "octets": kept.octets,
        "limit": kept.limit,
        "waiting": kept.waiting,
        "since": kept.since,
        "met": dict(kept.met),
    }


def _read_kept(fields: Fields) -> Kept:
    kept = Kept(
        fields.number("octets"),
        fields.number("limit"),
        fields.number("waiting"),
        fields.instant_or_none("since"),
        fields.tally("met", Shortage),
    )
    fields.close()
    return kept


def read_counters(fields: Fields) -> ProxyCounters:
    counters = ProxyCounters(
        open=fields.number("open"),
        capacity=fields.number("capacity"),
        accepted=fields.number("accepted"),
        to_peer=fields.number("to_peer"),
        to_endpoint=fields.number("to_endpoint"),
        refused=fields.tally("refused", Refusal),
        dial_failures=fields.tally("dial_failures", DialFailure),
        ended=fields.tally("ended", Outcome),
        events_lost=fields.number("events_lost"),
        memory=_read_kept(fields.fields("memory")),
        disk=_read_kept(fields.fields("disk")),
        disk_failures=fields.number("disk_failures"),
        disk_lost=fields.number("disk_lost"),
        disk_problem=fields.text_or_none("disk_problem"),
    )
    fields.close()
    return counters
