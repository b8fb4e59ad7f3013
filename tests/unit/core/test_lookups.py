"""What is asked over which link, when, and where the server is then, as seen from there."""

from dataclasses import replace
from ipaddress import IPv6Network, ip_address

from hypothesis import strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from orchestrator.core.lookups import (
    KEPT,
    LONGEST,
    PAUSE_MAX,
    SHORTEST,
    SHORTEST_WITHOUT,
    Answer,
    Lookups,
    Question,
)
from orchestrator.core.nat64 import ASKED_ADDRESSES, ASKED_NAME, synthesize
from orchestrator.core.paths import LinkChoice
from orchestrator.core.quantities import IPAddress, LinkIndex, Seconds
from tests.unit.core.builders import (
    LTE,
    LTE6,
    SERVER4,
    SERVER6,
    WIFI,
    WIFI2,
    Place,
    at,
    snapshot,
)

NAME = "vpn.example.org"
PREFIX = IPv6Network("2001:db8:64ff::/96")
OTHER_PREFIX = IPv6Network("2001:db8:65ff::/96")
LIVES = Seconds(600.0)
WIFI6 = Place("wlan2", 6, "2001:db8:66::2", "2001:db8:66::1")
"""A network that has IPv6 alone."""
ELSEWHERE6 = replace(WIFI6, pop="2001:db8:77::2", gateway="2001:db8:77::1")
NEW_SERVER: IPAddress = ip_address("203.0.113.77")
Script = dict[tuple[str, int], tuple[IPAddress, ...] | None]


def translated(address: IPAddress, prefix: IPv6Network = PREFIX) -> IPAddress:
    assert address.version == 4
    whole = synthesize(prefix, address)
    assert whole is not None
    return whole


def zone(
    server4: IPAddress | None = SERVER4,
    server6: IPAddress | None = None,
    prefix: IPv6Network | None = None,
) -> Script:
    """What a network's resolver says; with a prefix it translates where there is no AAAA."""
    six = (server6,) if server6 else ()
    if prefix is not None and server4 is not None and not six:
        six = (translated(server4, prefix),)
    return {
        (NAME, 4): (server4,) if server4 else (),
        (NAME, 6): six,
        (ASKED_NAME, 6): tuple(translated(a, prefix) for a in ASKED_ADDRESSES)
        if prefix
        else (),
    }


SILENT: Script = dict.fromkeys(zone())


class Asked:
    """Lookups, a clock, and whoever answers."""

    def __init__(
        self,
        *addresses: IPAddress,
        names: tuple[str, ...] = (NAME,),
        remembered: tuple[IPAddress, ...] = (),
    ) -> None:
        self.lookups = Lookups(addresses, names, LinkChoice(), {NAME: remembered})
        self.now = 0.0
        self.works = False

    def is_at(self, *places: Place) -> None:
        self.lookups.network(snapshot(*places), (), at(self.now))

    def asks(self) -> list[Question]:
        return list(self.lookups.begin(at(self.now), works=self.works))

    def hears(self, script: Script, lives: Seconds = LIVES) -> list[tuple[str, str, int]]:
        """Everything due is asked, and answered like this; returns what was."""
        questions = self.asks()
        for question in questions:
            self.is_told(question, script, lives)
        return [(q.link_name, q.topic.name, q.topic.version) for q in questions]

    def is_told(self, question: Question, script: Script, lives: Seconds = LIVES) -> None:
        found = script[question.topic.name, question.topic.version]
        answer = None if found is None else Answer(found, lives)
        self.lookups.answered(question, answer, at(self.now))

    def waits(self) -> float:
        """Until something is due; returns for how long."""
        due = self.lookups.deadline(works=self.works)
        assert due is not None
        before, self.now = self.now, max(self.now, due)
        return self.now - before

    def sees(self, place: Place) -> tuple[IPAddress, ...]:
        return self.lookups.servers.seen_from(LinkIndex(place.index))


class TestQuestions:
    def test_each_link_is_asked_for_both_families(self) -> None:
        asked = Asked()
        asked.is_at(WIFI, LTE)
        assert sorted(asked.hears(zone())) == [
            ("wlan0", NAME, 4),
            ("wlan0", NAME, 6),
            ("wwan0", NAME, 4),
            ("wwan0", NAME, 6),
        ]

    def test_with_our_address_there(self) -> None:
        asked = Asked()
        asked.is_at(LTE, LTE6)
        ours = {ip_address(LTE.pop), ip_address(LTE6.pop)}
        assert all(set(question.pops) == ours for question in asked.asks())

    def test_a_network_with_ipv6_is_asked_for_its_prefixes(self) -> None:
        asked = Asked()
        asked.is_at(WIFI6)
        assert ("wlan2", ASKED_NAME, 6) in asked.hears(zone())

    def test_nothing_is_asked_where_addresses_are_enough(self) -> None:
        for places in ((WIFI,), (LTE, LTE6)):
            asked = Asked(SERVER4, SERVER6, names=())
            asked.is_at(*places)
            assert asked.asks() == []
            assert asked.lookups.deadline(works=False) is None

    def test_prefixes_are_asked_for_where_only_they_lead_to_an_ipv4_address(self) -> None:
        asked = Asked(SERVER4, names=())
        asked.is_at(WIFI, WIFI6)
        assert asked.hears(zone(prefix=PREFIX)) == [("wlan2", ASKED_NAME, 6)]
        asked = Asked(SERVER6, names=())
        asked.is_at(WIFI6)
        assert asked.asks() == []

    def test_nothing_is_asked_twice_at_the_same_time(self) -> None:
        asked = Asked()
        asked.is_at(WIFI)
        assert asked.asks()
        assert asked.asks() == []
        asked.is_at(WIFI, LTE)
        assert {q.link_name for q in asked.asks()} == {"wwan0"}

    def test_a_link_without_a_way_out_is_not_asked(self) -> None:
        asked = Asked()
        asked.is_at(replace(WIFI, routed=False))
        assert asked.asks() == []


class TestTime:
    def test_an_answer_is_good_as_long_as_it_lives(self) -> None:
        asked = Asked()
        asked.is_at(WIFI)
        asked.hears(zone())
        assert asked.waits() == LIVES

    def test_not_for_ever(self) -> None:
        asked = Asked()
        asked.is_at(WIFI)
        asked.hears(zone(), Seconds(1e6))
        assert asked.waits() == LONGEST

    def test_longer_than_it_lives_while_the_way_works(self) -> None:
        for works, pause in ((True, SHORTEST), (False, SHORTEST_WITHOUT)):
            asked = Asked()
            asked.works = works
            asked.is_at(WIFI)
            asked.hears(zone(), Seconds(0.0))
            assert asked.waits() == pause

    def test_silence_is_asked_again_after_a_growing_pause(self) -> None:
        asked = Asked()
        asked.is_at(WIFI)
        pauses = []
        for _ in range(8):
            asked.hears(SILENT)
            pauses.append(asked.waits())
        assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, PAUSE_MAX, PAUSE_MAX]
        asked.hears(zone())
        assert asked.waits() == LIVES

    def test_a_network_that_is_entered_again_is_asked_at_once(self) -> None:
        asked = Asked()
        asked.is_at(WIFI)
        asked.hears(zone())
        asked.is_at(replace(WIFI, up=False))
        assert asked.asks() == []
        asked.is_at(WIFI)
        assert asked.hears(zone())

    def test_what_does_not_concern_a_link_is_no_reason_to_ask_over_it(self) -> None:
        asked = Asked()
        asked.is_at(WIFI)
        asked.hears(zone())
        asked.is_at(WIFI, WIFI2)
        assert {link for link, _, _ in asked.hears(zone())} == {"wlan1"}


class TestMeaning:
    def test_addresses_come_before_names_ipv6_before_ipv4(self) -> None:
        asked = Asked(NEW_SERVER)
        asked.is_at(WIFI)
        asked.hears(zone(SERVER4, SERVER6))
        assert asked.sees(WIFI) == (NEW_SERVER, SERVER6, SERVER4)

    def test_a_name_may_mean_something_else_on_another_link(self) -> None:
        asked = Asked()
        asked.is_at(WIFI, LTE)
        for question in asked.asks():
            inside = question.link_name == "wlan0"
            asked.is_told(question, zone(SERVER4 if inside else NEW_SERVER))
        assert asked.sees(WIFI)[0] == SERVER4
        assert asked.sees(LTE)[0] == NEW_SERVER

    def test_what_was_known_comes_last(self) -> None:
        asked = Asked(remembered=(SERVER4,))
        assert asked.sees(WIFI) == (SERVER4,)
        asked.is_at(WIFI)
        asked.hears(zone(NEW_SERVER))
        assert asked.sees(WIFI) == (NEW_SERVER, SERVER4)
        assert asked.lookups.remembered[NAME] == (NEW_SERVER, SERVER4)

    def test_nobody_answers_and_what_was_known_stays(self) -> None:
        asked = Asked(remembered=(SERVER4,))
        asked.is_at(WIFI)
        asked.hears(SILENT)
        assert asked.sees(WIFI) == (SERVER4,)
        asked.waits()
        asked.hears(zone(None))
        assert asked.sees(WIFI) == (SERVER4,)

    def test_of_names_that_are_not_configured_any_more_nothing_is_known(self) -> None:
        lookups = Lookups((), ("other.example.org",), LinkChoice(), {NAME: (SERVER4,)})
        assert lookups.servers.everywhere == ()
        assert lookups.remembered == {"other.example.org": ()}

    def test_so_many_addresses_and_no_more(self) -> None:
        asked = Asked()
        asked.is_at(WIFI)
        many = tuple(ip_address(f"198.51.100.{n}") for n in range(200))
        asked.hears({(NAME, 4): many, (NAME, 6): ()})
        assert asked.sees(WIFI) == many[:KEPT]

    def test_what_another_network_said_is_forgotten_but_remembered(self) -> None:
        asked = Asked()
        asked.is_at(WIFI6)
        asked.hears(zone(prefix=PREFIX))
        asked.is_at(ELSEWHERE6)
        assert asked.sees(WIFI6) == (SERVER4,), "the translation was of the former network"

    def test_an_answer_for_the_former_network_is_not_this_ones(self) -> None:
        asked = Asked(SERVER4, names=())
        asked.is_at(WIFI6)
        (question,) = asked.asks()
        asked.is_at(ELSEWHERE6)
        asked.is_told(question, zone(prefix=PREFIX))
        assert asked.sees(WIFI6) == (SERVER4,)

    def test_another_address_in_the_same_network_forgets_nothing(self) -> None:
        asked = Asked(SERVER4, names=())
        asked.is_at(WIFI6)
        asked.hears(zone(prefix=PREFIX))
        asked.is_at(WIFI6, replace(WIFI6, pop="2001:db8:66::3"))
        assert asked.sees(WIFI6) == (SERVER4, translated(SERVER4))


class TestTranslation:
    def test_an_ipv4_address_leads_somewhere_without_ipv4(self) -> None:
        asked = Asked(SERVER4, names=())
        asked.is_at(WIFI, WIFI6)
        asked.hears(zone(prefix=PREFIX))
        assert asked.sees(WIFI6) == (SERVER4, translated(SERVER4))
        assert asked.sees(WIFI) == (SERVER4,), "there it needs none"

    def test_the_servers_own_ipv6_address_comes_before_a_translation(self) -> None:
        asked = Asked(SERVER4, SERVER6, names=())
        asked.is_at(WIFI6)
        asked.hears(zone(prefix=PREFIX))
        assert asked.sees(WIFI6) == (SERVER4, SERVER6, translated(SERVER4))

    def test_where_ipv4_has_a_way_out_nothing_is_translated(self) -> None:
        asked = Asked(SERVER4)
        asked.is_at(LTE, LTE6)
        asked.hears(zone(prefix=PREFIX))
        assert asked.sees(LTE) == (SERVER4,)

    def test_what_a_network_made_is_not_remembered(self) -> None:
        asked = Asked()
        asked.is_at(WIFI6)
        questions = asked.asks()
        script = zone(prefix=PREFIX)
        names = [q for q in questions if q.topic.name == NAME]
        (prefixes,) = (q for q in questions if q.topic.name == ASKED_NAME)
        for question in names:
            asked.is_told(question, script)
        assert translated(SERVER4) in asked.sees(WIFI6), "it can be used at once"
        assert asked.lookups.remembered[NAME] == ()
        asked.is_told(prefixes, script)
        assert asked.lookups.remembered[NAME] == (SERVER4,)
        assert asked.sees(WIFI6) == (SERVER4, translated(SERVER4))

    def test_a_network_without_a_translator_says_so(self) -> None:
        asked = Asked(SERVER4)
        asked.is_at(WIFI6)
        asked.hears(zone(server6=SERVER6))
        assert asked.sees(WIFI6) == (SERVER4, SERVER6)
        assert asked.lookups.remembered[NAME] == (SERVER6, SERVER4)


places = strategies.lists(
    strategies.sampled_from((WIFI, WIFI2, LTE, LTE6, WIFI6, ELSEWHERE6)),
    max_size=4,
    unique_by=lambda place: (place.index, place.pop),
).map(tuple)
scripts = strategies.builds(
    zone,
    strategies.sampled_from((SERVER4, NEW_SERVER, None)),
    strategies.sampled_from((SERVER6, None)),
    strategies.sampled_from((PREFIX, OTHER_PREFIX, None)),
)


class LookupsInAnyWorld(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.asked = Asked(SERVER4)
        self.questions: list[tuple[Question, Script]] = []

    @rule(network=places)
    def the_network_changes(self, network: tuple[Place, ...]) -> None:
        self.asked.is_at(*network)

    @rule(seconds=strategies.sampled_from((0.5, 5.0, 70.0, 4000.0)))
    def time_goes_by(self, seconds: float) -> None:
        self.asked.now += seconds

    @rule(works=strategies.booleans())
    def the_way_works_or_not(self, works: bool) -> None:
        self.asked.works = works

    @rule(script=scripts)
    def something_is_asked(self, script: Script) -> None:
        self.questions += [(question, script) for question in self.asked.asks()]

    @rule(number=strategies.integers(0, 20), silent=strategies.booleans())
    def somebody_answers(self, number: int, silent: bool) -> None:
        if self.questions:
            question, script = self.questions.pop(number % len(self.questions))
            self.asked.is_told(question, SILENT if silent else script)

    @invariant()
    def what_the_operator_wrote_is_always_tried(self) -> None:
        for place in (WIFI, WIFI2, LTE, WIFI6):
            assert self.asked.sees(place)[0] == SERVER4

    @invariant()
    def what_is_known_is_bounded(self) -> None:
        for place in (WIFI, WIFI2, LTE, WIFI6):
            assert len(self.asked.sees(place)) <= 2 * (1 + 3 * KEPT)
        assert len(self.asked.lookups.remembered[NAME]) <= KEPT

    @invariant()
    def there_is_always_a_next_question_or_one_under_way(self) -> None:
        lookups = self.asked.lookups
        for index, network in lookups._networks.items():
            for known in network.known.values() if network.here else ():
                assert known.asking or lookups.deadline(works=True) is not None, index


TestLookupsInAnyWorld = LookupsInAnyWorld.TestCase
