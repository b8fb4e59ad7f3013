"""An endpoint moved, and charon rewrites its SAs, or does not."""

from dataclasses import replace
from ipaddress import ip_address

from orchestrator.core.absence import SessionState
from orchestrator.core.following import FOLLOW_LIMIT
from orchestrator.core.ike import (
    IkeDown,
    IkeMoved,
    TunnelDown,
    TunnelRekeyed,
)
from orchestrator.core.quantities import Reqid, Spi, UniqueId
from orchestrator.core.session_events import (
    MappingChanged,
    SessionReason,
    StateMoved,
)
from orchestrator.core.session_probes import DRAIN
from tests.unit.core.builders import LTE, WIFI2
from tests.unit.core.server_stories import NAT
from tests.unit.core.session_cast import (
    OF_TABLET,
    OVER_LTE,
    OVER_WIFI,
    TABLET,
    TABLET_VIP,
    attached,
)


class TestFollowing:
    def test_holds_from_the_mapping_until_the_sa_is_rewritten(self) -> None:
        story = attached()
        assert story.mapping(OVER_WIFI) == ["hold, from 7"]
        assert story.sa_moved(OVER_WIFI, LTE.pop) == ["to lte, from 7", "release"]
        assert story.reason() is SessionReason.FOLLOWED

    def test_goes_on_where_it_was_when_charon_does_not_follow(self) -> None:
        story = attached()
        story.mapping(OVER_WIFI)
        assert story.waits(FOLLOW_LIMIT - 0.01) == []
        assert story.waits(0.02) == ["to wifi, from 7", "release"]
        assert story.tells[-1].reasons == {SessionReason.NEVER_MOVED}

    def test_packet_after_packet_from_elsewhere_does_not_prolong_the_hold(self) -> None:
        """The kernel says MAPPING for every packet until the SA is rewritten."""
        story = attached()
        held = 0
        for _ in range(200):
            story.mapping(OVER_WIFI)
            story.waits(0.01)
            held += story.session().following is not None
        assert held <= FOLLOW_LIMIT / 0.01 + 1

    def test_an_sa_rewritten_late_is_followed_all_the_same(self) -> None:
        story = attached()
        story.mapping(OVER_WIFI)
        story.waits(1)
        assert story.sa_moved(OVER_WIFI, LTE.pop) == ["to lte, from 7", "release"]
        assert story.mapping(OVER_WIFI) == ["hold, from 7"]

    def test_an_sa_rewritten_without_a_mapping_is_followed(self) -> None:
        story = attached()
        assert story.sa_moved(OVER_WIFI, LTE.pop) == ["to lte, from 7", "release"]

    def test_an_sa_that_is_soon_replaced_is_named(self) -> None:
        """Whoever moved negotiates anew; the kernel would send on the younger SA at once."""
        story = attached()
        assert story.named_sa() is None
        story.sa_moved(OVER_WIFI, LTE.pop)
        assert story.named_sa() == OVER_WIFI.spi_out
        story.admits(OVER_LTE)
        assert story.named_sa() == OVER_WIFI.spi_out
        story.probed(2, OVER_LTE)
        assert story.named_sa() == OVER_LTE.spi_out
        story.hears(TunnelDown(OVER_WIFI.ike, OVER_WIFI.child))
        assert story.named_sa() is None

    def test_a_rekeying_may_choose_the_sa_again(self) -> None:
        story = attached()
        story.sa_moved(OVER_WIFI, LTE.pop)
        here = replace(OVER_WIFI, remote=ip_address(LTE.pop))
        story.hears(TunnelRekeyed(here.child, replace(here, child=UniqueId(9), spi_out=Spi(9))))
        assert story.named_sa() is None

    def test_another_port_of_the_same_nat_ends_the_hold_at_once(self) -> None:
        story = attached()
        story.mapping(OVER_WIFI)
        assert story.sa_moved(OVER_WIFI, NAT) == ["to wifi, from 7", "release"]
        assert story.waits(1) == []

    def test_the_mapping_of_an_idle_tunnel_holds_nothing(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        assert story.mapping(OVER_LTE) == []
        assert story.sa_moved(OVER_LTE, WIFI2.pop) == []

    def test_an_idle_tunnel_that_moved_is_activated_where_it_is_now(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        story.sa_moved(OVER_LTE, WIFI2.pop)
        assert story.probed(2, OVER_LTE) == ["to wifi2, from 7", "release"]

    def test_an_absent_endpoint_is_attached_where_it_is_when_its_probe_overtakes_charon(
        self,
    ) -> None:
        story = attached()
        story.waits(60)
        assert story.state() is SessionState.AWAY
        story.mapping(OVER_WIFI)
        assert story.probed(2, OVER_WIFI) == [], "nothing is released to where it was"
        assert story.sa_moved(OVER_WIFI, LTE.pop) == ["to lte, from 7", "release", "answer"]

    def test_an_absent_endpoint_that_charon_does_not_follow_is_attached_by_its_next_probe(
        self,
    ) -> None:
        story = attached()
        story.waits(60)
        story.mapping(OVER_WIFI)
        story.probed(2, OVER_WIFI)
        story.waits(FOLLOW_LIMIT + 0.1)
        assert story.probed(2, OVER_WIFI) == ["to wifi, from 7", "release"]

    def test_an_sa_as_it_was_is_no_move(self) -> None:
        story = attached()
        assert story.sa_moved(OVER_WIFI, NAT) == []

    def test_mappings_and_moves_of_unknown_sas_are_nothing(self) -> None:
        story = attached()
        assert story.hears(MappingChanged(Spi(1))) == []
        here = OVER_WIFI.local
        assert story.hears(StateMoved(Spi(1), here, here, Reqid(7))) == []

    def test_charons_news_of_the_move_changes_the_port_only(self) -> None:
        story = attached()
        local = OVER_WIFI.local
        moved = IkeMoved(UniqueId(1), local, 4500, ip_address(LTE.pop), 1024)
        assert story.hears(moved) == []
        active = story.session().active
        assert active is not None
        assert (str(active.remote), active.remote_port) == (NAT, 1024)

    def test_a_moved_tunnel_is_superseded_by_the_one_negotiated_behind_it(self) -> None:
        story = attached()
        story.mapping(OVER_WIFI)
        story.hears(IkeMoved(UniqueId(1), OVER_WIFI.local, 4500, OVER_LTE.remote, 4500))
        story.sa_moved(OVER_WIFI, LTE.pop)
        story.admits(OVER_LTE)
        story.probed(2, OVER_LTE)
        assert story.waits(DRAIN + 0.1) == ["terminate 1: superseded"]

    def test_an_absent_endpoint_is_attached_where_its_sas_lead(self) -> None:
        """Its probe comes with the packet that charon will follow: milliseconds too early."""
        story = attached()
        story.waits(11)
        assert story.mapping(OVER_WIFI) == []
        assert story.probed(2, OVER_WIFI) == []
        assert story.sa_moved(OVER_WIFI, LTE.pop) == ["to lte, from 7", "release", "answer"]
        assert story.probed(2, OVER_WIFI) == ["release"], "it counts as a return once"
        assert story.probed(2, OVER_WIFI) == []

    def test_a_probe_that_waited_is_forgotten_with_the_absence_that_follows(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        story.mapping(OVER_LTE)
        assert story.probed(2, OVER_LTE) == []
        story.waits(60)
        assert story.state() is SessionState.AWAY
        assert story.sa_moved(OVER_LTE, WIFI2.pop) == []
        assert story.state() is SessionState.AWAY

    def test_an_endpoint_that_was_away_unnoticed_gets_what_waits(self) -> None:
        """Its TCP senders here have backed off, though nobody held anything."""
        story = attached()
        assert story.probed(2, OVER_WIFI) == ["release"]
        assert story.probed(2, OVER_WIFI) == []

    def test_and_where_they_led_when_charon_does_not_follow(self) -> None:
        story = attached()
        story.waits(11)
        story.mapping(OVER_WIFI)
        story.probed(2, OVER_WIFI)
        assert story.probed(2, OVER_WIFI, after=FOLLOW_LIMIT) == ["to wifi, from 7", "release"]

    def test_a_moved_tunnel_that_was_activated_too_early_is_activated_in_time(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        story.mapping(OVER_LTE)
        assert story.probed(2, OVER_LTE) == []
        assert story.probed(2, OVER_LTE, after=FOLLOW_LIMIT) == ["to lte, from 7", "release"]

    def test_a_moved_tunnel_that_is_awaited_loses_to_a_newer_flip(self) -> None:
        story = attached()
        story.admits(OVER_LTE)
        story.mapping(OVER_LTE)
        story.probed(2, OVER_LTE)
        story.probed(3, OVER_WIFI)
        assert story.sa_moved(OVER_LTE, WIFI2.pop) == []
        assert story.session().active == OVER_WIFI

    def test_an_endpoint_cannot_disturb_another_by_choosing_its_spi(self) -> None:
        """SPIs are chosen by whoever receives: two endpoints may choose the same."""
        story = attached()
        twin = replace(OF_TABLET, spi_out=OVER_WIFI.spi_out)
        story.admits(twin, (TABLET_VIP,), TABLET, adopted=True)
        story.mapping(OVER_WIFI)
        assert story.sa_moved(OVER_WIFI, LTE.pop) == ["to lte, from 7", "release"]
        assert story.session(TABLET).active == twin

    def test_nor_by_choosing_the_spi_that_the_server_chose_for_another(self) -> None:
        story = attached()
        story.admits(replace(OF_TABLET, spi_out=OVER_WIFI.spi_in), (TABLET_VIP,), TABLET)
        assert story.mapping(OVER_WIFI) == ["hold, from 7"]

    def test_nor_by_going_away(self) -> None:
        story = attached()
        story.admits(replace(OF_TABLET, spi_out=OVER_WIFI.spi_out), (TABLET_VIP,), TABLET)
        story.hears(IkeDown(OF_TABLET.ike))
        assert story.sa_moved(OVER_WIFI, LTE.pop) == ["to lte, from 7", "release"]
