"""A crowd of endpoints on one host: each has a session of its own with our server."""

from orchestrator.lab.crowd import Crowd, server_configuration, virtual_addresses
from orchestrator.lab.flows import INTERACTIVE, Flows
from orchestrator.lab.internet import INTERNET
from orchestrator.lab.netns import Lab
from orchestrator.lab.product import Product
from orchestrator.lab.ticker import Way
from orchestrator.wire.control import Verb
from tests.kernel.lab.waiting import becomes

COUNT = 3


def test_each_has_a_session_goes_away_and_is_back_when_it_says_so(lab: Lab) -> None:
    lab.link("wifi").attach()
    product = Product(lab, server=server_configuration(COUNT))
    product.start_server()
    flows = Flows(lab.host("endpoint"), lab.host("peer1"), INTERNET.address("peer1"))

    def states() -> list[str]:
        return [session["state"] for session in product.server.ask(Verb.SESSIONS)]

    with Crowd(lab, COUNT) as crowd:
        crowd.wait_until_answered()
        assert sorted(crowd.vips) == sorted(virtual_addresses(COUNT).values())
        flows.open(INTERACTIVE, Way.DOWN, COUNT, crowd.vips)
        with flows:
            assert becomes(lambda: all(flow.arrivals.total for flow in flows.flows))
            lab.link("wifi").detach()
            assert becomes(lambda: states() == ["away"] * COUNT)
            returned = lab.link("wifi").attach()
            crowd.tell_back()
            crowd.wait_until_answered()
            assert states() == ["attached"] * COUNT
            assert becomes(
                lambda: all(flow.arrivals.first_since(returned) for flow in flows.flows)
            )
    assert [flow.failure for flow in flows.flows] == [None] * COUNT
