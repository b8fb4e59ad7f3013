"""What charon is asked for."""

from collections.abc import Mapping
from ipaddress import ip_address

import pytest

from orchestrator.adapters.charon import ViciMessage
from orchestrator.config.common import Keys
from orchestrator.core.mobility_events import Ask
from orchestrator.core.quantities import Seconds
from orchestrator.services import ike
from tests.unit.core.builders import WIFI, path

KEYS = Keys(ike=Seconds(60.0), child=Seconds(30.0))
AUTH: ViciMessage = {"auth": "psk"}


@pytest.mark.parametrize(
    "connection",
    [
        ike.endpoint_connection(path(WIFI), Ask.LEASED, (), AUTH, AUTH, KEYS),
        ike.leased_connection([ip_address("10.99.0.2")], AUTH, AUTH, KEYS),
        ike.newcomer_connection(["pool"], AUTH, AUTH, KEYS),
    ],
    ids=["endpoint", "leased", "newcomer"],
)
def test_keys_are_used_as_long_as_the_operator_says(connection: ViciMessage) -> None:
    assert connection["rekey_time"] == "60s"
    children = connection["children"]
    assert isinstance(children, Mapping)
    child = children[ike.CHILD]
    assert isinstance(child, Mapping)
    assert child["rekey_time"] == "30s"
