"""What is kept in memory for those who do not read, of a flow, a session and in all."""

import threading
from ipaddress import ip_address

import pytest

from orchestrator.core.allowance import Shortage
from tests.kernel.proxy.conftest import Proxied
from tests.kernel.proxy.keeping import LIMIT, MIB, PORTION, RECEIVED, Stuck, stuck
from tests.kernel.proxy.lan import OTHER_VIP, limited, transfer, until

FLOWS = 8
OF_SESSION = MIB
MOST = OF_SESSION + FLOWS * (PORTION + RECEIVED)
"""What is read and not acknowledged; a portion that each flow may have all the same; receive
buffers."""


def met(proxied: Proxied, shortage: Shortage) -> int:
    return dict(proxied.counters().memory.met)[shortage]


def test_all_flows_of_a_session_are_acknowledged_up_to_its_limit_and_go_on(
    proxied: Proxied,
) -> None:
    proxied.configure(limited(octets_per_flow=LIMIT, octets_per_vip=OF_SESSION))
    before = met(proxied, Shortage.SESSION)
    with stuck(proxied, FLOWS) as flows:
        proxied.lan.detach()
        flows.pour()
        assert OF_SESSION <= flows.acknowledged <= MOST
        assert all(sender.acknowledged for sender in flows.senders)
        assert met(proxied, Shortage.SESSION) > before
        memory = proxied.counters().memory
        assert memory.waiting > 0
        assert memory.since is not None
        assert memory.octets <= OF_SESSION + FLOWS * PORTION
        assert any(flow.waits_since is not None for flow in proxied.flows())
        proxied.lan.attach()
        flows.all_arrives()
    until(lambda: proxied.counters().memory.octets == 0)
    assert proxied.counters().memory.waiting == 0


def test_without_the_sessions_limit_each_flow_has_its_own(proxied: Proxied) -> None:
    proxied.configure(limited(octets_per_flow=LIMIT))
    with stuck(proxied, FLOWS) as flows:
        proxied.lan.detach()
        flows.pour()
        assert MOST < flows.acknowledged <= FLOWS * LIMIT
        assert proxied.counters().memory.waiting == 0
        proxied.lan.attach()
        flows.all_arrives()


@pytest.mark.parametrize("limit", ["session", "all"])
def test_who_is_there_goes_on_while_others_fill_every_limit(
    proxied: Proxied, limit: str
) -> None:
    """One whose application does not read fills the limit; another connection still moves."""
    in_all = OF_SESSION if limit == "all" else 2 * OF_SESSION
    proxied.configure(limited(octets_per_flow=LIMIT, octets_per_vip=OF_SESSION, octets=in_all))
    before = dict(proxied.counters().memory.met)
    with stuck(proxied, FLOWS) as full:
        full.pour()
        assert any(now > before[short] for short, now in proxied.counters().memory.met)
        vip = OTHER_VIP if limit == "all" else str(full.endpoints[0].getsockname()[0])
        with stuck(proxied, 1, vip=vip) as going:
            transfer(going.senders[0].sock, going.endpoints[0], 4 * MIB)
        full.all_arrives()


def test_sessions_share_what_there_is_in_all(proxied: Proxied) -> None:
    """One begins with eight flows, the other with one: both get their part in the end."""
    proxied.configure(limited(octets_per_flow=LIMIT, octets_per_vip=2 * MIB, octets=2 * MIB))
    with stuck(proxied, FLOWS) as many, stuck(proxied, 1, vip=OTHER_VIP) as one:
        both = Stuck(many.endpoints + one.endpoints, many.senders + one.senders)
        proxied.lan.detach()
        both.pour()
        assert both.acknowledged <= 2 * MIB + (FLOWS + 1) * (PORTION + RECEIVED)
        assert one.acknowledged >= PORTION
        (flow,) = (f for f in proxied.flows() if f.vip.host == ip_address(OTHER_VIP))
        assert flow.queued_to_endpoint >= PORTION
        proxied.lan.attach()
        threads = [threading.Thread(target=each.all_arrives) for each in (many, one)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
