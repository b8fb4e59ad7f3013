"""How the idle benchmark counts."""

from pathlib import Path

from tests.benchmarks.idle import an_hour, wakeups


def test_the_wakeups_of_all_threads_count(tmp_path: Path) -> None:
    for thread, (slept, preempted) in {"7": (11, 5), "9": (31, 0)}.items():
        folder = tmp_path / "7" / "task" / thread
        folder.mkdir(parents=True)
        (folder / "status").write_text(
            f"Name:\tx\nvoluntary_ctxt_switches:\t{slept}\n"
            f"nonvoluntary_ctxt_switches:\t{preempted}\n"
        )
    assert wakeups(7, tmp_path) == 42


def test_what_was_counted_is_scaled_to_an_hour() -> None:
    before = {"wifi": {"packets": 100}, "wakeups": {"endpoint": 7}}
    after = {"wifi": {"packets": 116}, "wakeups": {"endpoint": 17}}
    assert an_hour(before, after, 100.0) == {
        "wifi": {"packets": 576},
        "wakeups": {"endpoint": 360},
    }
