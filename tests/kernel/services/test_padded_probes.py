"""Probes that ask for a size, on real sockets: both ends on one loopback, the path."""

import asyncio
import contextlib
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from orchestrator.core.endpoint_state import SERVICE
from orchestrator.core.mobility_events import ProbeAnswered, SendProbe
from orchestrator.core.quantities import IPAddress, Spi
from orchestrator.core.session_events import AnswerProbe, Heard, HeardWarm
from orchestrator.services.journal import Journal
from orchestrator.services.probes import EndpointProbes, ServerProbes
from tests.kernel.netns import Namespace

PATIENCE = 20.0
AGAIN = 0.5
SPI = Spi(0xC0FFEE01)
MTU = 1380
VIPS: dict[int, IPAddress] = {4: ip_address("10.99.0.2"), 6: ip_address("fd00:99::2")}
HEADERS = {4: 28, 6: 48}
SMALL = 24


@pytest.fixture(params=[4, 6])
def version(request: pytest.FixtureRequest, network_namespace: Namespace) -> int:
    found: int = request.param
    network_namespace.ip(
        f"link set lo mtu {MTU}",
        f"addr add {VIPS[found]} dev lo",
        f"addr add {SERVICE[found]} dev lo",
    )
    return found


def no_copies(_: IPAddress, octets: bytes) -> None:
    raise AssertionError(octets)


async def asked(
    version: int, order: SendProbe, heard: Callable[[ServerProbes, Heard | HeardWarm], None]
) -> int | None:
    """The number of the answer; None: the kernel refused to send it. Raises TimeoutError."""
    answers: asyncio.Queue[ProbeAnswered] = asyncio.Queue()
    journal = Journal()
    server = ServerProbes(lambda probe: heard(server, probe), no_copies, no_copies, journal)
    endpoint = EndpointProbes(answers.put_nowait, no_copies, journal)
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                # A new IPv6 address may be bound and routed a moment later.
                server.bind([SERVICE[version]])
                endpoint.bind([VIPS[version]])
                if not endpoint.send(order):
                    return None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN):
                        return (await answers.get()).sequence
    finally:
        endpoint.close()
        server.close()
        assert not journal.counters


@pytest.mark.parametrize("size", [1164, MTU])
def test_the_answer_is_as_long_as_the_question(version: int, size: int) -> None:
    lengths: set[int] = set()

    def answer(server: ServerProbes, probe: Heard | HeardWarm) -> None:
        assert isinstance(probe, HeardWarm)
        lengths.add(HEADERS[version] + SMALL + probe.padding)
        server.answer(AnswerProbe(probe))

    order = SendProbe(7, 1, SPI, size=size)
    assert asyncio.run(asked(version, order, answer)) == 7
    assert lengths == {size}


def test_what_the_way_does_not_take_is_not_sent(version: int) -> None:
    order = SendProbe(7, 1, SPI, size=MTU + 1)
    assert asyncio.run(asked(version, order, lambda _server, _probe: None)) is None


def test_the_limit_is_told_with_the_traffic(version: int) -> None:
    limits: set[int] = set()

    def answer(server: ServerProbes, probe: Heard | HeardWarm) -> None:
        assert isinstance(probe, Heard)
        limits.add(probe.limit)
        server.answer(AnswerProbe(probe))

    order = SendProbe(8, 1, SPI, limit=1218)
    assert asyncio.run(asked(version, order, answer)) == 8
    assert limits == {1218}
