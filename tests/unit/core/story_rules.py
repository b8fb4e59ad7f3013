"""What holds after every piece of news, whatever the story of an endpoint."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from orchestrator.core.echoes import FRESH_AFTER, STALE_AFTER
from orchestrator.core.kernel import TABLE_PATHS
from orchestrator.core.mobility_events import (
    State,
)
from orchestrator.core.paths import named
from orchestrator.core.places import place_of
from orchestrator.core.portal_events import (
    PortalReason,
)

if TYPE_CHECKING:
    from tests.unit.core.stories import EndpointStory

ROUNDING: Final = 1e-6
"""Seconds by which sums of times may differ."""


def the_kernel_is_as_the_machine_believes(story: "EndpointStory") -> None:
    if story.kernel is not None:
        assert story.kernel == story.machine.kernel()


def attached_means_an_active_tunnel_on_a_usable_path(story: "EndpointStory") -> None:
    machine = story.machine
    assert (machine.state is State.DETACHED) == (machine.active is None)
    assert (machine.active is None) == (machine.liveness is None)
    if machine.active is not None:
        assert machine.active_path in machine.paths
        assert machine.active_path is not None
        assert machine.active.local == machine.active_path.pop
        assert machine.active.remote == machine.active_path.server


def an_active_path_is_asked_again_soon_enough(story: "EndpointStory") -> None:
    policy, machine = story.machine.policy, story.machine
    if machine.state is State.ATTACHED:
        deadline = machine.deadline()
        assert deadline is not None
        longest = max(policy.probe_interval, policy.probe_idle)
        assert deadline <= story.now + longest + ROUNDING


def attached_means_that_traffic_flows(story: "EndpointStory") -> None:
    machine = story.machine
    if machine.state is State.ATTACHED:
        assert machine.kernel().active is not None
    assert None in (machine.kernel().active, machine.kernel().probed)


def a_virtual_address_is_never_an_outer_one(story: "EndpointStory") -> None:
    vips = set(story.machine.vips)
    assert not vips & {way.pop for way in story.machine.paths}
    if story.kernel is not None and story.kernel.active is not None:
        assert story.kernel.active.source not in vips
    assert not vips & {attempt.path.pop for attempt in story.attempts.values()}


def the_attempts_are_those_that_charon_works_on(story: "EndpointStory") -> None:
    known = {attempt.connection for attempt in story.machine._known.attempts.under_way}
    assert known <= set(story.attempts)
    for let_end in set(story.attempts) - known:
        assert let_end in story.answered_attempts, "it was forgotten before it was abandoned"
        del story.attempts[let_end]


def attempts_are_no_more_than_allowed_and_one_at_a_place(story: "EndpointStory") -> None:
    at_places = [place_of(path) for path in story.machine.attempt_paths]
    assert len(set(at_places)) == len(at_places) <= story.machine.policy.race
    assert all(map(story.machine._known.places.at, story.machine.attempt_paths))


def every_tunnel_of_ours_is_held_or_ended(story: "EndpointStory") -> None:
    held = {each.tunnel.ike for each in story.machine._known.tunnels.held}
    assert set(story.in_charon) <= held, "charon has a tunnel that nobody looks after"


def echoes_are_hidden_in_and_after_an_outage_only(story: "EndpointStory") -> None:
    machine = story.machine
    lasted = story.now - machine.since - ROUNDING
    if machine.state is State.DETACHED and lasted > STALE_AFTER:
        assert story.echoes_hidden()
    if machine.state is State.ATTACHED and lasted > FRESH_AFTER:
        assert not story.echoes_hidden()


def with_a_way_and_charon_it_never_rests_detached(story: "EndpointStory") -> None:
    machine = story.machine
    if machine.active is None and machine.charon is not None and machine.paths:
        assert machine.deadline() is not None


def warm_tunnels_lead_somewhere_and_are_no_more_than_allowed(story: "EndpointStory") -> None:
    machine, known = story.machine, story.machine._known
    warm, ours = known.warmth.warm, known.tunnels.held
    assert len({each.slot for each in ours}) == len(ours)
    if known.wishes.races(known.active):
        assert len(warm) < len(machine.paths)
    else:
        allowed = machine.policy.warm_links + (machine.active is None)
        allowed += sum(1 + flows.redundant for flows in machine.policy.flows)
        assert len(warm) < max(allowed, 1) or not warm
    for held in warm:
        assert held.tunnel != machine.active
        assert held.retire_at is None
        assert held.path in machine.paths


def flows_take_tunnels_that_are_warm_and_that_they_name(story: "EndpointStory") -> None:
    machine, kernel = story.machine, story.machine.kernel()
    assert len(dict((*kernel.bound, *kernel.copied))) == len(kernel.bound + kernel.copied)
    assert {slot for _, slot in kernel.copied} <= dict(kernel.warm).keys()
    assert not kernel.copied or kernel.active is not None
    for number, way in kernel.bound:
        assert way in dict(kernel.warm).values()
        globs = machine.policy.flows[number].links
        assert any(path.pop == way.source for path in named(machine.paths, globs))
    assert not kernel.bound or kernel.probed is None, "they go, while all else waits"


def tables_are_ours_and_one_for_each_point_of_presence(story: "EndpointStory") -> None:
    tables = story.machine.kernel().tables
    assert set(tables) == set(story.machine.paths)
    assert set(tables.values()) <= set(TABLE_PATHS)
    by_place = {(way.link, way.pop): table for way, table in tables.items()}
    assert len(set(by_place.values())) == len(by_place)
    assert all(by_place[way.link, way.pop] == table for way, table in tables.items())


def no_more_than_a_handful_is_held(story: "EndpointStory") -> None:
    lasting = [each for each in story.machine._known.tunnels.held if each.retire_at is None]
    assert len(lasting) <= len(story.machine.paths) + 2


def portal_is_a_reason_exactly_where_one_was_found(story: "EndpointStory") -> None:
    machine = story.machine
    if machine.state is State.DETACHED:
        found = any(map(machine.portals.at, machine.paths))
        assert (PortalReason.PORTAL in machine.reasons) == found


def a_way_is_open_for_its_time_and_only_where_no_tunnel_is(story: "EndpointStory") -> None:
    machine, way = story.machine, story.machine.portals.way
    assert (way is None) == (story.way is None)
    if way is None:
        return
    assert way.until - story.now <= machine.policy.portal.way + ROUNDING
    assert machine.deadline() is not None
    links = {path.link for path in way.paths}
    assert len(links) == 1
    assert {path.pop for path in way.paths} <= {path.pop for path in machine.paths}
    if machine.state is State.ATTACHED:
        assert machine.active_path is not None
        assert machine.active_path.link not in links


RULES: Final[tuple[Callable[["EndpointStory"], None], ...]] = (
    the_kernel_is_as_the_machine_believes,
    attached_means_an_active_tunnel_on_a_usable_path,
    an_active_path_is_asked_again_soon_enough,
    attached_means_that_traffic_flows,
    a_virtual_address_is_never_an_outer_one,
    the_attempts_are_those_that_charon_works_on,
    attempts_are_no_more_than_allowed_and_one_at_a_place,
    every_tunnel_of_ours_is_held_or_ended,
    echoes_are_hidden_in_and_after_an_outage_only,
    with_a_way_and_charon_it_never_rests_detached,
    warm_tunnels_lead_somewhere_and_are_no_more_than_allowed,
    flows_take_tunnels_that_are_warm_and_that_they_name,
    tables_are_ours_and_one_for_each_point_of_presence,
    no_more_than_a_handful_is_held,
    portal_is_a_reason_exactly_where_one_was_found,
    a_way_is_open_for_its_time_and_only_where_no_tunnel_is,
)
