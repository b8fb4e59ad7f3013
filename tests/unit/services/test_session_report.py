"""What `sessions` says of what the proxy keeps for one."""

from dataclasses import replace

from orchestrator.core.quantities import Instant
from orchestrator.services.session_report import by_vip, queued
from tests.unit.wire.test_proxy_control import RECORD, SETTINGS

NOW = Instant(20.0)


def test_says_how_much_is_kept_and_who_waits_since_when() -> None:
    idle = replace(RECORD, queued_to_peer=0, queued_to_endpoint=0, spooled=0, waits_since=None)
    later = replace(RECORD, waits_since=Instant(18.0))
    assert queued([RECORD, later, idle], 2, SETTINGS, NOW) == {
        "bytes": 14,
        "limit_bytes": 2 * SETTINGS.octets_per_vip,
        "spooled_bytes": 10,
        "spool_limit_bytes": 2 << 21,
        "waiting": 2,
        "waiting_since_s": 6.5,
    }


def test_without_a_spool_it_has_no_limit() -> None:
    said = queued([], 1, replace(SETTINGS, spool=None), NOW)
    assert (said["spool_limit_bytes"], said["waiting_since_s"]) == (None, None)


def test_flows_belong_to_the_session_of_their_virtual_address() -> None:
    other = replace(RECORD, vip=RECORD.peer)
    assert by_vip([RECORD, other, RECORD]) == {
        RECORD.vip.host: [RECORD, RECORD],
        RECORD.peer.host: [other],
    }
