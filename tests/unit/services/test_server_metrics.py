"""What is said of a worker that does not answer."""

from orchestrator.services.server_metrics import proxy_metrics


def test_of_a_worker_that_does_not_answer_nothing_else_is_said() -> None:
    (up,) = proxy_metrics(None)
    assert (up.name, [sample.value for sample in up.samples]) == ("proxy_up", [0.0])
