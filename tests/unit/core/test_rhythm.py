"""How rarely the active path is asked, and how long the server waits."""

from dataclasses import replace

import pytest
from hypothesis import given, strategies

from orchestrator.core.absence import LONGEST_SILENCE, SessionPolicy, SessionState
from orchestrator.core.mobility_events import State, Woke
from orchestrator.core.quantities import Seconds
from orchestrator.core.rhythm import Rhythm
from orchestrator.core.session_events import AnswerProbe, Heard
from orchestrator.core.traffic import SILENCE
from orchestrator.core.warmth import ASK
from tests.unit.core.builders import LTE, VIP4, WIFI, at, path
from tests.unit.core.fake_internet import DELAYS, SEND_INTERVAL, Internet
from tests.unit.core.server_stories import ServerStory, from_endpoint
from tests.unit.core.session_cast import attached
from tests.unit.core.stories import POLICY

USUAL, LONGEST = Seconds(2.0), Seconds(12.5)
TWO = replace(POLICY, warm_links=2)
HOUR = 3600.0
AT_REST = 120.0
"""Seconds after which two tunnels are up, and asked as rarely as may be."""
BUDGET_PROBES = 470
"""In an hour, over two links: every 12.5 s over one, every 25 s over the other, and slack."""
BUDGET_TICKS = 300
"""Both links at the same moment."""
NOTICED = 20.0
"""Seconds within which an idle endpoint has left a path that died without a sign."""
NOTICED_UNDER_TRAFFIC = 0.8
RTT = 2 * DELAYS[WIFI.pop]


@pytest.fixture
def rhythm() -> Rhythm:
    return Rhythm(USUAL, LONGEST)


def agree(rhythm: Rhythm) -> float:
    return rhythm.answered(rhythm.announce())


class TestRhythm:
    def test_an_idle_path_is_asked_ever_more_rarely_up_to_the_longest(
        self, rhythm: Rhythm
    ) -> None:
        assert [agree(rhythm) for _ in range(5)] == [2, 4, 8, LONGEST, LONGEST]

    def test_traffic_brings_it_back_at_once(self, rhythm: Rhythm) -> None:
        for _ in range(4):
            agree(rhythm)
        rhythm.hurry()
        assert [agree(rhythm) for _ in range(3)] == [2, 4, 8]

    def test_and_so_does_what_comes_while_a_probe_is_under_way(self, rhythm: Rhythm) -> None:
        agree(rhythm)
        agreed = rhythm.announce()
        rhythm.hurry()
        assert rhythm.answered(agreed) == USUAL

    def test_a_server_that_says_nothing_is_asked_as_ever(self, rhythm: Rhythm) -> None:
        for _ in range(4):
            rhythm.announce()
            assert rhythm.answered(None) == USUAL

    def test_no_longer_than_the_server_agrees_to(self, rhythm: Rhythm) -> None:
        for _ in range(4):
            rhythm.announce()
            rhythm.answered(Seconds(5.0))
        assert rhythm.interval == Seconds(5.0)

    def test_of_several_probes_the_shortest_announcement_counts(self, rhythm: Rhythm) -> None:
        agree(rhythm)
        agree(rhythm)
        long = rhythm.announce()
        rhythm.hurry()
        rhythm.announce()
        assert rhythm.answered(long) == USUAL

    def test_an_operator_who_wants_none_of_it(self) -> None:
        rhythm = Rhythm(Seconds(30.0), LONGEST)
        assert [agree(rhythm) for _ in range(2)] == [30, 30]


class TestServer:
    def said(self, story: ServerStory, within: float | None, sequence: int = 1) -> None:
        over = from_endpoint(WIFI, 1)
        said = None if within is None else Seconds(within)
        story.hears(Heard(VIP4, 1, over.spi_out, sequence, within=said))

    @pytest.mark.parametrize(
        ("within", "silent"), [(None, 10), (2.0, 10), (0.5, 10), (12.5, 20.5), (1e6, 68)]
    )
    def test_waits_as_long_as_the_endpoint_said(
        self, within: float | None, silent: float
    ) -> None:
        story = attached()
        self.said(story, within)
        story.waits(silent - 0.1)
        assert story.state() is SessionState.ATTACHED
        story.waits(0.2)
        assert story.state() is SessionState.AWAY

    def test_and_no_longer_when_it_says_less(self) -> None:
        story = attached()
        self.said(story, 12.5, 1)
        self.said(story, 2.0, 2)
        story.waits(10.1)
        assert story.state() is SessionState.AWAY

    def test_a_probe_that_was_overtaken_says_nothing(self) -> None:
        story = attached()
        self.said(story, 2.0, 2)
        self.said(story, 12.5, 1)
        story.waits(10.1)
        assert story.state() is SessionState.AWAY

    def test_answers_with_what_it_agreed_to(self) -> None:
        story = attached()
        over = from_endpoint(WIFI, 1)
        asked = Heard(VIP4, 1, over.spi_out, 1, within=Seconds(1e6))
        (answer,) = story.machine.handle(asked, at(story.now))
        assert answer == AnswerProbe(asked, agreed=LONGEST_SILENCE)


def idle(**options: object) -> Internet:
    """Attached over Wi-Fi, warm over LTE, and long at rest."""
    net = Internet(WIFI, LTE, policy=TWO, **options)  # type: ignore[arg-type]
    net.run(AT_REST)
    assert net.endpoint.state() is State.ATTACHED
    assert len(net.endpoint.machine._known.warmth.warm) == 1
    return net


def died(net: Internet) -> float:
    """The Wi-Fi carries nothing any more; how long until that was noticed."""
    net.silent.add(WIFI.pop)
    since = net.now
    while net.endpoint.machine.active_path == path(WIFI):
        net.run(0.01)
        assert net.now < since + 60
    return net.now - since


def left_under_traffic(net: Internet) -> float:
    """The Wi-Fi is dead when the endpoint begins to send, one way."""
    net.silent.add(WIFI.pop)
    since = net.now
    while net.endpoint.machine.active_path == path(WIFI):
        net.endpoint.send(net.up.next_packet(net.now))
        net.run(SEND_INTERVAL)
        assert net.now < since + 60
    return net.now - since


class TestBudget:
    """What an idle endpoint with two links costs: docs/operations.md has it in octets."""

    def test_an_hour_costs_no_more_than_promised(self) -> None:
        net = idle()
        probes, ticks = net.endpoint.probes, net.endpoint.ticks
        net.run(HOUR)
        assert net.endpoint.probes - probes <= BUDGET_PROBES
        assert net.endpoint.ticks - ticks <= BUDGET_TICKS
        assert net.endpoint.state() is State.ATTACHED
        assert net.server.state() is SessionState.ATTACHED

    def test_a_server_that_does_not_agree_costs_more_and_nothing_else(self) -> None:
        net = Internet(WIFI, LTE, policy=TWO)
        net.server.agrees_to_silence = False
        net.run(AT_REST)
        probes = net.endpoint.probes
        net.run(HOUR)
        assert net.endpoint.probes - probes > 3 * BUDGET_PROBES
        assert net.endpoint.state() is State.ATTACHED

    def test_no_nat_on_either_link_is_left_alone_for_long(self) -> None:
        net = idle()
        for _ in range(20):
            before = [sa.sent for sa in net.endpoint.sas]
            net.run(ASK + 1)
            after = [sa.sent for sa in net.endpoint.sas]
            assert all(later > then for then, later in zip(before, after, strict=True))


class TestNoticing:
    @pytest.mark.parametrize("rest", [0.0, 3.1, 6.2, 9.3, 12.4])
    def test_an_idle_endpoint_leaves_a_path_that_died(self, rest: float) -> None:
        net = idle()
        net.run(rest)
        assert died(net) <= NOTICED

    def test_with_its_first_packets_it_does_at_once(self) -> None:
        assert left_under_traffic(idle()) <= NOTICED_UNDER_TRAFFIC

    def test_unless_the_kernel_does_not_tell(self) -> None:
        net = idle()
        net.endpoint.kernel_tells = False
        assert NOTICED_UNDER_TRAFFIC < left_under_traffic(net) <= NOTICED

    def test_after_a_sleep_it_begins_anew(self) -> None:
        net = idle()
        net.endpoint.hears(Woke(Seconds(3600.0)))
        net.run(0.1)
        assert net.endpoint.machine.liveness is not None
        assert net.endpoint.machine.liveness.interval == USUAL

    def test_a_single_packet_is_asked_about(self) -> None:
        net = idle()
        probes = net.endpoint.probes
        net.run(5)
        net.endpoint.send(net.up.next_packet(net.now))
        net.run(SILENCE + 0.2)
        assert net.endpoint.probes - probes >= 1

    def test_the_server_never_takes_an_idle_endpoint_for_away(self) -> None:
        net = idle()
        net.server.is_configured(SessionPolicy(detach_after=Seconds(4.0)))
        for _ in range(600):
            net.run(1)
            assert net.server.state() is SessionState.ATTACHED

    def test_without_what_the_probe_says_it_would(self) -> None:
        net = idle()
        asked = net.endpoint.probes
        while net.endpoint.probes == asked:
            net.run(0.1)
        net.run(RTT)
        net.server.session().within = None
        net.server.is_configured(SessionPolicy(detach_after=Seconds(4.0)))
        net.run(5)
        assert net.server.state() is SessionState.AWAY


class TestPassing:
    def test_a_stream_keeps_a_path_whose_probes_are_lost_for_a_while(self) -> None:
        net = idle()
        net.loses_probes = True
        since = net.now
        while net.endpoint.machine.active_path == path(WIFI):
            net.talk(0.1)
        assert net.now - since > 2 * NOTICED_UNDER_TRAFFIC


@given(
    strategies.lists(
        strategies.tuples(
            strategies.floats(0, 30), strategies.booleans(), strategies.booleans()
        ),
        max_size=12,
    )
)
def test_who_says_something_now_and_then_is_attached(
    chat: list[tuple[float, bool, bool]],
) -> None:
    """At either end, whatever is said when; on a network that works."""
    net = Internet(WIFI, LTE, policy=TWO)
    net.server.is_configured(SessionPolicy(detach_after=Seconds(4.0)))
    net.run(5)
    for pause, up, down in chat:
        net.run(pause)
        if up:
            net.endpoint.send(net.up.next_packet(net.now))
        if down:
            net.server.send(net.down.next_packet(net.now))
        assert net.server.state() is SessionState.ATTACHED
        assert net.endpoint.machine.active_path == path(WIFI)
    net.run(1)
    assert net.up.lost == net.down.lost == 0
