"""What is told is counted: by event, by reason, and by how long it took."""

from orchestrator.services.journal import MOST_WORDS, OTHER, Journal


def test_an_event_counts_once_and_for_each_of_its_reasons() -> None:
    journal = Journal()
    journal.tell("moving", ("link-up", "negotiated"))
    journal.tell("moving", ("link-up",))
    journal.count("foreign-packet")
    assert journal.counters == {"moving": 2, "foreign-packet": 1}
    assert journal.reasons == {("moving", "link-up"): 2, ("moving", "negotiated"): 1}


def test_what_took_a_time_is_measured() -> None:
    journal = Journal()
    journal.tell("attached", fields={"elapsed_ms": 20.0})
    journal.tell("attached", fields={"elapsed_ms": 0.0})
    journal.tell("attached")
    assert set(journal.durations) == {"attached"}
    found = journal.durations["attached"].distribution()
    assert (found.buckets[-1], found.sum) == ((None, 2), 0.02)


def test_words_without_end_are_counted_as_others() -> None:
    journal = Journal()
    for number in range(2 * MOST_WORDS):
        journal.tell(f"event {number}", (f"reason {number}",))
    assert len(journal.counters) == len(journal.reasons) == MOST_WORDS + 1
    assert journal.counters[OTHER] == journal.reasons[OTHER, OTHER] == MOST_WORDS
