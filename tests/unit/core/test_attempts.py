"""Negotiations under way, and what each place is remembered for."""

from dataclasses import replace
from itertools import pairwise
from typing import Final

from hypothesis import given, strategies

from orchestrator.core.attempts import CONNECTION_PREFIX, OVERTIME, Attempts, Patience
from orchestrator.core.ike import IkeFailure
from orchestrator.core.mobility_events import Abandon, Ask, Negotiate, Reason
from orchestrator.core.paths import Path
from orchestrator.core.quantities import IPAddress, Seconds
from tests.unit.core.builders import LTE, VIP4, WIFI, at, path

PATIENCE: Final = Patience(Seconds(8.0), Seconds(0.5), Seconds(30.0))
ON_WIFI, ON_LTE = path(WIFI), path(LTE)
BECAUSE: Final = frozenset({Reason.BETTER_LINK})


def attempts(fixed_vips: tuple[IPAddress, ...] = (), first_flip: int = 0) -> Attempts:
    return Attempts(PATIENCE, fixed_vips, first_flip)


def begun(some: Attempts, way: Path = ON_WIFI, now: float = 0.0) -> Negotiate:
    return some.begin(way, BECAUSE, at(now))


def everywhere(_: Path) -> bool:
    return True


class TestThoseUnderWay:
    def test_are_known_until_they_end_in_a_tunnel(self) -> None:
        some = attempts()
        first, second = begun(some), begun(some, ON_LTE)
        assert [attempt.path for attempt in some.under_way] == [ON_WIFI, ON_LTE]
        assert some.won(first.connection) is not None
        assert [attempt.connection for attempt in some.under_way] == [second.connection]

    def test_are_found_by_their_place(self) -> None:
        some = attempts()
        order = begun(some)
        found = some.at(path(replace(WIFI, gateway="192.168.10.9")))
        assert found is not None
        assert found.connection == order.connection
        assert some.at(ON_LTE) is None

    def test_remember_why_they_were_begun(self) -> None:
        some = attempts()
        won = some.won(begun(some).connection)
        assert won is not None
        assert won.reasons == BECAUSE

    def test_an_outcome_of_another_changes_nothing(self) -> None:
        some = attempts()
        late = begun(some).connection
        some.withdraw(everywhere)
        begun(some, ON_LTE)
        assert some.won(late) is None
        assert some.lost(late, IkeFailure.SILENT) is None
        assert not some.answered(late)
        assert [attempt.path for attempt in some.under_way] == [ON_LTE]

    def test_an_outcome_comes_once(self) -> None:
        some = attempts()
        order = begun(some)
        assert some.lost(order.connection, IkeFailure.SILENT) is not None
        assert some.lost(order.connection, IkeFailure.SILENT) is None

    def test_are_abandoned_by_their_names_where_they_are_not_wanted(self) -> None:
        some = attempts()
        order = begun(some)
        begun(some, ON_LTE)
        assert some.withdraw(lambda way: way == ON_WIFI) == (Abandon(order.connection),)
        assert some.withdraw(lambda way: way == ON_WIFI) == ()
        assert [attempt.path for attempt in some.under_way] == [ON_LTE]

    def test_are_let_end_where_the_server_may_have_a_tunnel(self) -> None:
        some = attempts()
        order = begun(some)
        assert some.answered(order.connection)
        assert some.withdraw(everywhere) == ()
        assert some.under_way == ()
        assert some.won(order.connection) is None, "its tunnel comes too late"

    def test_are_given_up_whatever_the_server_has_where_there_is_no_way(self) -> None:
        some = attempts()
        order = begun(some)
        some.answered(order.connection)
        assert some.give_up(some.under_way[0]) == Abandon(order.connection)
        assert some.under_way == ()

    def test_are_not_abandoned_when_charon_is_gone(self) -> None:
        some = attempts()
        begun(some)
        some.drop()
        assert some.withdraw(everywhere) == ()

    def test_are_overdue_some_time_after_their_limit(self) -> None:
        some = attempts()
        begun(some, now=100.0)
        assert some.under_way[0].overdue == 100.0 + PATIENCE.limit + OVERTIME


class TestNames:
    def test_are_ours_to_see(self) -> None:
        assert begun(attempts()).connection.startswith(CONNECTION_PREFIX)

    def test_no_two_are_alike_in_any_run_of_the_daemon(self) -> None:
        names = []
        for first_flip in (0, 1, 11, 65536):
            some = attempts(first_flip=first_flip)
            for _ in range(120):
                names.append(begun(some).connection)
                some.withdraw(everywhere)
        assert len(set(names)) == len(names)


class TestAsk:
    def test_offers_everything_first(self) -> None:
        order = begun(attempts())
        assert (order.ask, order.vips) == (Ask.LEASED, ())

    def test_requests_an_address_once_it_is_told_to(self) -> None:
        some = attempts()
        assert some.lost(begun(some).connection, IkeFailure.MUST_ASK) is not None
        assert some.requesting
        assert begun(some).ask is Ask.ASSIGN

    def test_to_be_told_so_again_is_a_failure(self) -> None:
        some = attempts()
        some.lost(begun(some).connection, IkeFailure.MUST_ASK)
        some.lost(begun(some).connection, IkeFailure.MUST_ASK)
        assert not some.requesting
        assert begun(some).ask is Ask.LEASED

    def test_offers_everything_again_when_it_has_an_address(self) -> None:
        some = attempts()
        some.lost(begun(some).connection, IkeFailure.MUST_ASK)
        some.won(begun(some).connection)
        assert begun(some).ask is Ask.LEASED

    def test_offers_everything_again_when_the_request_failed(self) -> None:
        some = attempts()
        some.lost(begun(some).connection, IkeFailure.MUST_ASK)
        some.lost(begun(some).connection, IkeFailure.SILENT)
        assert begun(some).ask is Ask.LEASED

    def test_still_requests_one_when_the_request_was_only_abandoned(self) -> None:
        some = attempts()
        some.lost(begun(some).connection, IkeFailure.MUST_ASK)
        begun(some)
        some.withdraw(everywhere)
        assert begun(some, ON_LTE).ask is Ask.ASSIGN

    def test_offers_what_the_operator_fixed(self) -> None:
        order = begun(attempts(fixed_vips=(VIP4,)))
        assert (order.ask, order.vips) == (Ask.FIXED, (VIP4,))


class TestPauses:
    def test_a_place_waits_and_another_does_not(self) -> None:
        some = attempts()
        assert some.failed(ON_WIFI, IkeFailure.SILENT, "", at(100)) == PATIENCE.backoff_min
        assert some.retry_at(ON_WIFI) == 100.5
        assert some.retry_at(ON_LTE) <= 100

    def test_another_gateway_is_no_way_around_the_pause(self) -> None:
        some = attempts()
        some.failed(ON_WIFI, IkeFailure.SILENT, "", at(100))
        assert some.retry_at(path(replace(WIFI, gateway="192.168.10.9"))) == 100.5

    def test_end_all_at_once_and_begin_short_again(self) -> None:
        some = attempts()
        for _ in range(8):
            some.failed(ON_WIFI, IkeFailure.AUTHENTICATION, "", at(100))
        some.end_pauses(at(101))
        assert some.retry_at(ON_WIFI) == at(101)
        assert some.failed(ON_WIFI, IkeFailure.AUTHENTICATION, "", at(101)) == 0.5

    def test_what_happened_is_known_after_the_pause_too(self) -> None:
        some = attempts()
        some.failed(ON_WIFI, IkeFailure.SILENT, "no outcome", at(100))
        some.end_pauses(at(101))
        assert some.silent(ON_WIFI)
        assert some.failure_of(ON_WIFI) == (IkeFailure.SILENT, "no outcome")


class TestSilence:
    def test_nobody_is_silent_at_first(self) -> None:
        assert not attempts().silent(ON_WIFI)
        assert attempts().failure_of(ON_WIFI) is None

    def test_unanswered_probes_make_a_place_silent_without_a_pause(self) -> None:
        some = attempts()
        some.fell_silent(ON_WIFI, "probes unanswered")
        assert some.silent(ON_WIFI)
        assert not some.silent(ON_LTE)
        assert some.retry_at(ON_WIFI) <= 0
        assert some.failure_of(ON_WIFI) == (IkeFailure.SILENT, "probes unanswered")

    def test_silence_leaves_a_pause_as_it_was(self) -> None:
        some = attempts()
        some.failed(ON_WIFI, IkeFailure.REFUSED, "", at(100))
        some.fell_silent(ON_WIFI, "probes unanswered")
        assert some.retry_at(ON_WIFI) == 100.5

    def test_who_answers_with_a_refusal_is_not_silent(self) -> None:
        some = attempts()
        some.fell_silent(ON_WIFI, "probes unanswered")
        some.failed(ON_WIFI, IkeFailure.AUTHENTICATION, "wrong secret", at(100))
        assert not some.silent(ON_WIFI)
        assert some.failure_of(ON_WIFI) == (IkeFailure.AUTHENTICATION, "wrong secret")


class TestForgetting:
    def test_a_place_that_was_left_is_forgotten(self) -> None:
        some = attempts()
        for way in (ON_WIFI, ON_LTE):
            some.failed(way, IkeFailure.SILENT, "", at(100))
        some.keep([ON_LTE])
        assert some.failure_of(ON_WIFI) is None
        assert some.failure_of(ON_LTE) is not None

    def test_a_place_that_worked_is_forgiven_and_no_other(self) -> None:
        some = attempts()
        for way in (ON_WIFI, ON_LTE):
            some.failed(way, IkeFailure.SILENT, "", at(100))
        some.forgive(ON_WIFI)
        assert (some.silent(ON_WIFI), some.silent(ON_LTE)) == (False, True)
        some.forgive_all()
        assert not some.silent(ON_LTE)

    def test_forgiving_a_place_does_not_end_what_is_under_way_there(self) -> None:
        some = attempts()
        order = begun(some)
        some.forgive_all()
        some.keep([])
        assert some.won(order.connection) is not None


patiences = strategies.builds(
    Patience,
    strategies.just(Seconds(8.0)),
    strategies.floats(0.1, 60).map(Seconds),
    strategies.floats(1, 3600).map(Seconds),
)


@given(patiences, strategies.lists(strategies.sampled_from(IkeFailure), max_size=40))
def test_pauses_double_up_to_the_bound_whatever_fails(
    patience: Patience, failures: list[IkeFailure]
) -> None:
    some, now, pauses = Attempts(patience, (), 0), at(0), []
    for why in failures:
        pauses.append(some.failed(ON_WIFI, why, "", now))
        assert some.retry_at(ON_WIFI) == now + pauses[-1]
        now = some.retry_at(ON_WIFI)
    assert all(pause <= patience.backoff_max for pause in pauses)
    for before, after in pairwise(pauses):
        assert after == min(2 * before, patience.backoff_max)
