"""Negotiations fail, charon goes, the daemon starts again: what the endpoint orders then."""

from dataclasses import replace
from ipaddress import ip_address

from orchestrator.core.ike import (
    CharonGone,
    IkeDown,
    IkeFailure,
    IkeMoved,
    IkeRekeyed,
    Tunnel,
    TunnelDown,
    TunnelRekeyed,
    TunnelUp,
)
from orchestrator.core.mobility_events import (
    AttemptFailed,
    State,
)
from orchestrator.core.quantities import Seconds, Spi, UniqueId
from tests.unit.core.builders import (
    LTE,
    SERVER4,
    VIP4,
    VIP6,
    WIFI,
    WIFI2,
    path,
    tunnel,
)
from tests.unit.core.dialogues import FLIP_TO_LTE
from tests.unit.core.stories import POLICY, EndpointStory, attached, tried_in_vain


class TestFailures:
    def test_a_late_tunnel_of_an_abandoned_attempt_is_ended(self) -> None:
        story = attached(LTE)
        story.is_at(LTE, WIFI)
        late = story.next_tunnel()
        assert story.is_at(LTE) == ["protect lte", "abandon"]
        assert story.hears(TunnelUp(late)) == ["terminate 2"]
        assert story.machine.active_path == path(LTE)

    def test_a_late_failure_of_an_abandoned_attempt_is_nothing(self) -> None:
        story = attached(LTE)
        story.is_at(LTE, WIFI)
        assert story.attempt is not None
        late = AttemptFailed(story.attempt.connection, IkeFailure.SILENT, "")
        story.is_at(LTE)
        assert story.hears(late) == []
        assert story.machine.failure_of(path(LTE)) is None

    def test_an_address_that_disappears_during_ike_ends_the_attempt(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        assert story.is_at(LTE) == ["hold", "abandon", "negotiate lte"]

    def test_a_wrong_secret_is_named_in_the_state(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        story.fails(IkeFailure.AUTHENTICATION)
        assert story.state() is State.DETACHED
        assert story.reasons() == {"authentication-failed"}
        failure = story.machine.failure_of(path(WIFI))
        assert failure == (IkeFailure.AUTHENTICATION, "in the test")

    def test_tries_the_next_path_at_once_and_the_same_one_after_a_pause(self) -> None:
        story = EndpointStory()
        story.starts(WIFI, LTE)
        story.finds_charon()
        assert story.fails() == ["negotiate lte"]
        assert story.fails() == []
        assert story.waits(0.6) == ["negotiate wifi"]

    def test_the_pause_grows_and_is_bounded(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        pauses = []
        for _ in range(12):
            story.fails()
            before = story.now
            story.waits_for_an_attempt()
            pauses.append(round(story.now - before, 3))
        assert pauses == sorted(pauses)
        assert pauses[0] <= 0.5
        assert 29 <= pauses[-1] <= 30.25

    def test_a_night_of_failures_is_survived(self) -> None:
        story = EndpointStory(replace(POLICY, backoff_max=Seconds(0.5)))
        story.starts(WIFI)
        story.finds_charon()
        for _ in range(2000):
            story.fails()
            story.waits(0.5)
        assert story.attempt is not None

    def test_a_change_of_place_forgets_the_pause_of_the_old_one(self) -> None:
        story = tried_in_vain(9)
        story.is_at()
        assert "negotiate wifi" in story.is_at(WIFI)

    def test_a_server_that_ends_the_tunnel_at_once_refuses(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        pauses = []
        for _ in range(10):
            story.negotiated()
            assert story.hears(IkeDown(UniqueId(story.numbers)), after=0.01) == ["hold"]
            assert story.reasons() == {"refused-after-authentication"}
            before = story.now
            story.waits_for_an_attempt()
            pauses.append(round(story.now - before, 3))
        assert pauses == sorted(pauses)
        assert 29 <= pauses[-1] <= 30.25

    def test_a_tunnel_that_worked_and_is_deleted_is_negotiated_at_once(self) -> None:
        """The negative control: deletion alone is no refusal."""
        story = attached(WIFI)
        assert story.hears(IkeDown(UniqueId(1)), after=60) == ["hold", "negotiate wifi"]
        assert story.reasons() >= {"tunnel-deleted"}

    def test_a_refused_renewal_gives_the_traffic_back_to_the_moved_tunnel(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)
        story.answered()
        story.negotiated()
        said = story.hears(IkeDown(UniqueId(2)), after=0.01)
        assert said == ["hold", *FLIP_TO_LTE]
        assert story.state() is State.MOVING

    def test_an_attempt_of_which_nothing_is_heard_ends(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        said = story.waits(14)
        assert said == ["abandon", "negotiate wifi"]

    def test_the_end_of_a_draining_tunnel_is_nothing(self) -> None:
        story = attached(LTE)
        story.is_at(LTE, WIFI)
        story.negotiated()
        story.answered()
        assert story.hears(IkeDown(UniqueId(1))) == []
        assert story.waits(1.5) == []


class TestCharon:
    def test_its_absence_changes_nothing_for_traffic_that_runs(self) -> None:
        story = attached(WIFI)
        assert story.hears(CharonGone("crashed")) == []
        assert set(story.waits(30, answering=True)) == {"probe"}
        assert story.state() is State.ATTACHED

    def test_its_restart_renews_the_tunnel_and_flips(self) -> None:
        story = attached(WIFI)
        story.hears(CharonGone("crashed"))
        assert story.finds_charon() == ["negotiate wifi"]
        assert story.negotiated() == ["protect wifi", "probe", "release"]
        assert story.reasons() >= {"charon-restarted"}
        story.answered()
        # Without a number: the new charon gave 1 to another, perhaps to the fresh one.
        assert story.waits(1.5) == ["terminate 0"]

    def test_a_new_connection_to_the_same_charon_renews_nothing(self) -> None:
        story = attached(WIFI)
        mine = story.machine.active
        assert mine is not None
        story.hears(CharonGone("vici closed"))
        assert story.finds_charon(mine) == []
        assert story.machine.active == mine

    def test_a_path_that_dies_without_it_says_both(self) -> None:
        """Whatever is left to be said of why nothing comes: charon's socket took ESP in."""
        story = attached(WIFI)
        story.hears(CharonGone("crashed"))
        story.waits(5.0)
        assert story.state() is State.DETACHED
        assert story.reasons() >= {"path-dead", "charon-absent"}

    def test_its_absence_is_the_reason_while_detached(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        story.hears(CharonGone("stopped"))
        assert story.reasons() == {"charon-absent"}
        assert story.finds_charon() == ["negotiate wifi"]

    def test_ends_tunnels_of_a_predecessor_that_carry_nothing(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        stale = tunnel(path(WIFI2), 9, "orchestrator-65536-3")
        assert story.finds_charon(stale) == ["terminate 9", "negotiate wifi"]

    def test_leaves_other_peoples_tunnels_alone(self) -> None:
        story = attached(WIFI)
        office = tunnel(path(WIFI), 9, "office-vpn")
        assert story.hears(TunnelUp(office)) == []
        story.hears(CharonGone("vici closed"))
        mine = story.machine.active
        assert mine is not None
        assert story.finds_charon(mine, office) == []

    def test_its_return_does_not_send_traffic_into_a_tunnel_known_to_be_dead(self) -> None:
        story = attached(WIFI)
        story.waits(4.1)
        story.hears(CharonGone("crashed"))
        assert story.finds_charon() == ["negotiate wifi"]

    def test_its_return_ends_the_pause(self) -> None:
        story = EndpointStory()
        story.starts(WIFI)
        story.finds_charon()
        for _ in range(8):
            story.fails(IkeFailure.AUTHENTICATION)
            story.waits_for_an_attempt()
        story.fails(IkeFailure.AUTHENTICATION)
        story.hears(CharonGone("restarted with the right secret"))
        assert story.finds_charon() == ["negotiate wifi"]

    def test_follows_a_rekeyed_child_sa(self) -> None:
        story = attached(WIFI)
        old = story.machine.active
        assert old is not None
        fresh = replace(old, child=UniqueId(777), spi_in=Spi(7), spi_out=Spi(8))
        assert story.hears(TunnelRekeyed(old.child, fresh)) == []
        assert story.machine.active == fresh
        story.waits(2.1)
        assert story.probe is not None
        assert story.probe.spi == 7

    def test_a_rekeyed_child_sa_of_somebody_else_is_nothing(self) -> None:
        story = attached(WIFI)
        office = tunnel(path(WIFI), 9, "office-vpn")
        assert story.hears(TunnelRekeyed(UniqueId(3), office)) == []
        assert story.machine.active != office

    def test_follows_a_rekeyed_ike_sa(self) -> None:
        story = attached(WIFI)
        assert story.hears(IkeRekeyed(UniqueId(1), UniqueId(31))) == []
        assert story.hears(IkeDown(UniqueId(1))) == []
        assert story.state() is State.ATTACHED
        assert story.hears(IkeDown(UniqueId(31)))[0] == "hold"

    def test_the_end_of_a_rekeyed_child_sa_is_nothing(self) -> None:
        story = attached(WIFI)
        old = story.machine.active
        assert old is not None
        story.hears(TunnelRekeyed(old.child, replace(old, child=UniqueId(777))))
        assert story.hears(TunnelDown(old.ike, old.child)) == []
        assert story.state() is State.ATTACHED

    def test_both_sides_rekey_at_once(self) -> None:
        """The other's successor is told of first, ours wins (child_rekey.c)."""
        story = attached(WIFI)
        old = story.machine.active
        assert old is not None
        ours = replace(old, child=UniqueId(778), spi_in=Spi(9), spi_out=Spi(10))
        story.hears(TunnelRekeyed(old.child, replace(old, child=UniqueId(777), spi_in=Spi(7))))
        story.hears(TunnelRekeyed(old.child, ours))
        assert story.machine.active == ours

    def test_the_sas_of_a_moved_tunnel_that_the_server_ends_are_buried(self) -> None:
        """charon deletes them where they were; ours would lie there until their keys end."""
        story = attached(WIFI)
        story.is_at(LTE)
        assert story.hears(IkeDown(UniqueId(1)))[:2] == ["hold", "bury 1"]
        story = attached(WIFI)
        assert "bury 1" not in story.hears(IkeDown(UniqueId(1)))

    def test_the_former_sas_of_a_moved_tunnel_that_is_rekeyed_are_buried(self) -> None:
        story = attached(WIFI)
        first = story.machine.active
        assert first is not None
        story.is_at(LTE)
        fresh = replace(first, child=UniqueId(777), spi_in=Spi(7), spi_out=Spi(8))
        assert story.hears(TunnelRekeyed(first.child, fresh)) == ["bury 1"]

    def test_a_new_nat_mapping_changes_ports_and_nothing_else(self) -> None:
        story = attached(WIFI)
        moved = IkeMoved(UniqueId(1), ip_address(WIFI.pop), 4500, SERVER4, 4501)
        story.hears(moved)
        assert story.machine.active is not None
        assert story.machine.active.remote_port == 4501
        assert story.state() is State.ATTACHED

    def test_does_not_follow_ike_into_the_tunnel(self) -> None:
        """strongSwan #299: after a roam IKE chose the virtual address as its own."""
        story = attached(WIFI)
        story.hears(IkeMoved(UniqueId(1), VIP4, 4500, SERVER4, 4500))
        assert story.kernel is not None
        assert story.kernel.active is not None
        assert story.kernel.active.source == ip_address(WIFI.pop)

    def test_what_charon_says_of_a_moved_tunnel_is_older_than_the_move(self) -> None:
        story = attached(WIFI)
        story.is_at(LTE)
        assert story.hears(IkeMoved(UniqueId(1), ip_address(WIFI.pop), 4500, SERVER4, 1)) == []
        assert story.machine.active is not None
        assert story.machine.active.local == ip_address(LTE.pop)


class TestRestart:
    def test_an_adopted_tunnel_keeps_its_policy_as_it_was(self) -> None:
        story = EndpointStory()
        mine = adopted()
        said = story.starts(WIFI, vips=(VIP4,), adopted=mine)
        assert said == ["protect wifi", "probe", "release"]  # and never "hold"
        assert story.kernel is not None
        assert story.kernel.active is not None
        assert story.kernel.active.source == mine.local
        story.answered()
        assert story.state() is State.ATTACHED

    def test_charon_knows_the_adopted_tunnel_by_its_spi(self) -> None:
        story = EndpointStory()
        mine = adopted()
        story.starts(WIFI, vips=(VIP4,), adopted=mine)
        known = replace(tunnel(path(WIFI), 1), spi_in=mine.spi_in, spi_out=mine.spi_out)
        assert story.finds_charon(known) == []
        assert story.machine.active == known

    def test_an_adopted_tunnel_that_charon_does_not_know_is_renewed(self) -> None:
        story = EndpointStory()
        story.starts(WIFI, vips=(VIP4,), adopted=adopted())
        story.answered()
        assert story.finds_charon() == ["negotiate wifi"]

    def test_a_tunnel_that_the_predecessor_moved_stays_where_it_was_moved_to(self) -> None:
        """charon still believes in the old address; the SAs and the policy know better."""
        story = EndpointStory()
        mine = replace(adopted(), local=ip_address(LTE.pop))
        assert story.starts(LTE, vips=(VIP4,), adopted=mine)[0] == "protect lte"
        believed = replace(tunnel(path(WIFI), 1), spi_in=mine.spi_in, spi_out=mine.spi_out)
        assert story.finds_charon(believed) == ["negotiate lte"]
        assert story.machine.active is not None
        assert story.machine.active.local == ip_address(LTE.pop)
        assert story.machine.active.ike == 1

    def test_a_tunnel_moved_before_charon_was_found_can_still_be_ended_there(self) -> None:
        story = EndpointStory()
        mine = adopted()
        story.starts(WIFI, vips=(VIP4,), adopted=mine)
        story.is_at(LTE)
        known = replace(tunnel(path(WIFI), 7), spi_in=mine.spi_in, spi_out=mine.spi_out)
        story.finds_charon(known)
        story.answered()
        story.negotiated()
        story.answered()
        assert story.waits(1.5) == ["terminate 7"]

    def test_without_its_path_an_adopted_tunnel_holds(self) -> None:
        story = EndpointStory()
        assert story.starts(LTE, vips=(VIP4,), adopted=adopted()) == ["hold"]
        assert story.finds_charon() == ["negotiate lte"]

    def test_names_of_negotiations_never_return(self) -> None:
        """A name is how an attempt is abandoned: it must not name an older tunnel too."""
        first, second = EndpointStory(), EndpointStory(first_flip=65536)
        for story in (first, second):
            story.starts(WIFI)
            story.finds_charon()
        assert not first.connections & second.connections

    def test_flips_begin_above_those_of_the_predecessor(self) -> None:
        story = EndpointStory(first_flip=65536)
        story.starts(WIFI, vips=(VIP4,), adopted=adopted())
        assert story.probe is not None
        assert story.probe.flip > 65536

    def test_remembered_addresses_are_held_from_the_first_moment(self) -> None:
        story = EndpointStory()
        story.starts(WIFI, vips=(VIP4,))
        assert story.kernel is not None
        assert story.kernel.vips == (VIP4,)

    def test_fixed_addresses_overrule_remembered_ones(self) -> None:
        story = EndpointStory(replace(POLICY, static_vips=(VIP6,)))
        story.starts(WIFI, vips=(VIP4,))
        assert story.machine.vips == (VIP6,)


def adopted() -> Tunnel:
    """What the kernel's policy and SAs say of a predecessor's tunnel: no IKE_SA is known."""
    return replace(tunnel(path(WIFI), 1, ""), ike=UniqueId(0), child=UniqueId(0))
