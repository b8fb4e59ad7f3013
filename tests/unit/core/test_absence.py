"""Stories of endpoints that stay away for long, or sleep, and of a server that is full.

The words are those of `test_sessions`.
"""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from orchestrator.core.absence import Patience, SessionState
from orchestrator.core.agenda import SLACK
from orchestrator.core.ike import IkeDown
from orchestrator.core.quantities import IPAddress, Reqid, Seconds
from orchestrator.core.session_events import Heard, SessionReason
from tests.unit.core.builders import LTE, VIP4, WIFI, WIFI2, at
from tests.unit.core.server_stories import LAPTOP, POLICY, ServerStory, from_endpoint

TABLET = "tablet@example.org"
TABLET_VIP: IPAddress = ip_address("10.99.0.9")
OVER_WIFI = from_endpoint(WIFI, 1)
OVER_LTE = from_endpoint(LTE, 2)
OF_TABLET = from_endpoint(WIFI2, 3, (TABLET_VIP,), Reqid(8))


def with_patience(
    asleep_after: float | None, expire_after: float | None = None, **policy: Any
) -> ServerStory:
    """A story whose laptop is attached over the Wi-Fi, its first flip heard."""
    patience = Patience(
        None if asleep_after is None else Seconds(asleep_after),
        None if expire_after is None else Seconds(expire_after),
    )
    story = ServerStory(replace(POLICY, patience=patience, **policy))
    story.admits(OVER_WIFI)
    story.probed(1, OVER_WIFI)
    return story


class TestAwayForLong:
    def test_asleep_after_a_while_and_never_expired_by_default(self) -> None:
        story = with_patience(600)
        assert story.waits(11) == ["hold, from 7"]
        assert story.state() is SessionState.AWAY
        assert story.waits(600) == ["hold, from 7", "shed"]
        assert story.state() is SessionState.ASLEEP
        assert story.reason() is SessionReason.LONG_AWAY
        assert story.machine.deadline() is None
        assert story.waits(30 * 86400) == []

    def test_says_what_comes_next_and_when(self) -> None:
        story = with_patience(600, 3600)
        session = story.session()
        assert session.next_state(story.policy) == (SessionState.AWAY, at(10))
        story.waits(11)
        assert session.next_state(story.policy) == (SessionState.ASLEEP, at(610))
        story.waits(600)
        assert session.next_state(story.policy) == (SessionState.EXPIRED, at(3610))

    def test_expires_and_everything_of_it_goes_but_the_lease(self) -> None:
        story = with_patience(60, 3600)
        story.waits(100)
        assert story.waits(3600) == [
            "terminate 1: away-for-long",
            "nothing, nothing",
            "end flows",
        ]
        assert story.machine.by_identity == {}
        assert story.machine.session_of_vip(VIP4) is None
        assert story.tells[-1].what == "expired"
        assert story.machine.deadline() is None

    def test_expires_without_sleeping_where_that_comes_first(self) -> None:
        story = with_patience(None, 60)
        assert story.waits(71)[-1] == "end flows"
        assert [tell.what for tell in story.tells] == ["attached", "away", "expired"]

    def test_begins_anew_when_it_returns_after_the_end(self) -> None:
        story = with_patience(None, 60)
        story.waits(100)
        assert story.probed(1, OVER_WIFI) == []
        assert story.admits(OVER_LTE) == ["hold, from 7"]
        assert story.probed(0, OVER_LTE) == ["to lte, from 7", "release"]

    def test_a_fresh_tunnel_is_a_sign_of_life(self) -> None:
        story = with_patience(None, 60)
        story.waits(65)
        story.admits(OVER_LTE)
        assert story.waits(59) == []
        assert story.waits(2)[-1] == "end flows"

    def test_one_endpoint_may_be_waited_for_longer_than_others(self) -> None:
        patience = {LAPTOP: Patience(None, None)}
        story = with_patience(None, 60, of_identity=patience)
        story.admits(OF_TABLET, (TABLET_VIP,), TABLET)
        story.waits(100)
        assert list(story.machine.by_identity) == [LAPTOP]

    def test_a_remembered_one_expires_counted_from_the_start_of_the_daemon(self) -> None:
        story = ServerStory(replace(POLICY, patience=Patience(None, Seconds(60))))
        story.remembers()
        assert story.waits(59) == []
        assert story.waits(2) == ["nothing, nothing", "end flows"]

    def test_what_was_to_be_deleted_meanwhile_is_nobodys(self) -> None:
        story = with_patience(None, 0.2, detach_after=Seconds(0.5))
        story.admits(from_endpoint(WIFI, 2))
        story.probed(2, from_endpoint(WIFI, 2))
        assert story.waits(10)[-1] == "end flows"
        assert story.machine.deadline() is None

    def test_flapping_for_long_leaves_nothing_behind(self) -> None:
        story = with_patience(None, 30 * 86400)
        for _ in range(500):
            story.waits(20)
            story.probed(1, OVER_WIFI)
        assert len(story.machine._register.agenda) <= 2 + SLACK


class TestSayingThatItSleeps:
    def test_is_answered_over_the_path_and_then_held_for_at_once(self) -> None:
        story = with_patience(600)
        assert story.sleeps(1, OVER_WIFI) == ["answer", "hold, from 7", "shed"]
        assert story.state() is SessionState.ASLEEP
        assert story.reason() is SessionReason.SAID_ASLEEP
        assert story.tells[-1].what == "asleep"

    def test_without_saying_it_would_be_held_for_only_when_unheard(self) -> None:
        story = with_patience(600)
        assert story.waits(9) == []
        assert story.state() is SessionState.ATTACHED

    def test_wakes_by_any_probe(self) -> None:
        story = with_patience(600)
        story.sleeps(1, OVER_WIFI)
        assert story.probed(1, OVER_WIFI, after=8 * 3600) == ["to wifi, from 7", "release"]
        assert story.state() is SessionState.ATTACHED

    def test_does_not_fall_asleep_by_a_word_that_was_overtaken(self) -> None:
        story = with_patience(600)
        story.hears(Heard(VIP4, 1, OVER_WIFI.spi_out, 5))
        assert story.sleeps(1, OVER_WIFI, sequence=4) == []
        assert story.sleeps(0, OVER_WIFI, sequence=9) == []
        assert story.sleeps(1, OVER_WIFI, sequence=6) == ["answer", "hold, from 7", "shed"]

    def test_saying_it_twice_changes_nothing(self) -> None:
        story = with_patience(600)
        story.sleeps(1, OVER_WIFI, sequence=6)
        assert story.sleeps(1, OVER_WIFI, sequence=7) == []

    def test_one_that_is_away_already_may_say_it(self) -> None:
        story = with_patience(600)
        story.waits(11)
        assert story.sleeps(1, OVER_WIFI) == ["hold, from 7", "shed"]
        assert story.state() is SessionState.ASLEEP

    def test_expires_as_one_that_is_away(self) -> None:
        story = with_patience(None, 60)
        story.sleeps(1, OVER_WIFI)
        assert story.waits(61)[-1] == "end flows"

    def test_nobody_falls_asleep_for_another(self) -> None:
        story = with_patience(600)
        assert story.hears(Heard(TABLET_VIP, 9, OVER_WIFI.spi_out, 9, asleep=True)) == []
        assert story.state() is SessionState.ATTACHED


class TestTooManySessions:
    def one_too_many(self, story: ServerStory) -> list[str]:
        return story.admits(OF_TABLET, (TABLET_VIP,), TABLET)

    def test_a_further_endpoint_is_refused(self) -> None:
        story = with_patience(None, most=1)
        story.waits(11)
        assert not story.machine.has_room(TABLET)
        assert story.machine.has_room(LAPTOP)
        assert self.one_too_many(story) == ["terminate 3: too-many-sessions"]
        assert list(story.machine.by_identity) == [LAPTOP]

    def test_or_the_one_that_has_been_away_longest_makes_room(self) -> None:
        story = with_patience(None, most=1, evict=True)
        story.waits(11)
        assert story.machine.has_room(TABLET)
        assert self.one_too_many(story) == [
            "terminate 1: made-room",
            "nothing, nothing",
            "end flows",
            f"{TABLET}: hold, from 8",
        ]
        assert (story.tells[-1].what, story.tells[-1].identity) == ("evicted", LAPTOP)

    def test_never_an_attached_one(self) -> None:
        story = with_patience(None, most=1, evict=True)
        assert not story.machine.has_room(TABLET)
        assert self.one_too_many(story) == ["terminate 3: too-many-sessions"]
        assert story.state() is SessionState.ATTACHED

    def test_who_left_first_goes_first(self) -> None:
        story = with_patience(None, most=2, evict=True)
        self.one_too_many(story)
        story.hears(Heard(TABLET_VIP, 1, OF_TABLET.spi_out))
        story.hears(IkeDown(OF_TABLET.ike), after=1)
        story.waits(20)
        story.probed(1, OVER_WIFI)
        story.waits(20)
        third = from_endpoint(LTE, 5, (TABLET_VIP + 1,), Reqid(9))
        story.admits(third, (TABLET_VIP + 1,), "phone")
        assert list(story.machine.by_identity) == [LAPTOP, "phone"]
