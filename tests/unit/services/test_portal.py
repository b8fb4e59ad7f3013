"""Why nobody may sign in, in words."""

import pytest

from orchestrator.core.mobility_events import Tell
from orchestrator.core.portal_events import PortalReason
from orchestrator.services.portal import refusal


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("wlan0", "there is a tunnel over wlan0: nobody has to sign in"),
        (None, "there is a tunnel already: nobody has to sign in"),
    ],
)
def test_a_tunnel_needs_no_sign_in(link: str | None, said: str) -> None:
    told = Tell("way-refused", frozenset({PortalReason.TUNNEL_UP}), None)
    assert refusal([told], link).error == said


@pytest.mark.parametrize(
    ("link", "said"), [("wlan9", "no usable path over wlan9"), (None, "no usable path")]
)
def test_without_a_path_nobody_can(link: str | None, said: str) -> None:
    assert refusal([], link).error == said
