"""Certificates instead of a shared secret: through roams, and when they have expired."""

from pathlib import Path

import pytest

from tests.scenarios.certificates import Authority
from tests.scenarios.conversation import Conversation
from tests.scenarios.narrow import black_hole, counted
from tests.scenarios.world import PEER, World

PSK = '[auth]\nkind = "psk"\nsecret_file = "/etc/orchestrator/secret"\n'
CERTIFICATE = """\
[auth]
kind = "certificate"
certificate = "/etc/orchestrator/own.pem"
private_key = "/etc/orchestrator/own.key"
ca = ["/etc/orchestrator/ca.pem"]
"""
IDENTITIES = {"endpoint": "carol@example.org", "server": "gateway.example.org"}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def certified(cold_world: World, authority: Authority) -> World:
    """Both sides have certificates; nothing has started yet."""
    for side in cold_world.sides:
        side.daemon.config = side.daemon.config.replace(PSK, CERTIFICATE)
        assert CERTIFICATE in side.daemon.config
        side.daemon.extra_files = authority.issue(IDENTITIES[side.role])
    return cold_world


def test_certificates_through_roams_and_expired_ones(
    certified: World, authority: Authority
) -> None:
    world = certified
    world.start()
    with world.nothing_in_clear(), Conversation.open(world.endpoint.host, PEER) as talk:
        before = world.attached("wifi")
        talk.goes_on()
        world.lab.roam("lte")
        world.renewed("lte", before)
        talk.goes_on()
        talk.ends_well()
    for side, reason in (
        (world.endpoint, "authentication-failed"),
        (world.server, "certificate-not-valid"),
    ):
        good = side.daemon.extra_files
        side.start_cold(files=authority.issue(IDENTITIES[side.role], expired=True))
        if side is world.server:
            world.endpoint.start_cold(files=world.endpoint.daemon.extra_files)
        world.endpoint.wait_for("detached", reason)
        side.start_cold(files=good)
        world.attached("lte")


@pytest.fixture
def at_length(cold_world: World, authority: Authority) -> World:
    """Both sides have certificates that fit into no packet; nothing has started yet."""
    for side in cold_world.sides:
        side.daemon.config = side.daemon.config.replace(PSK, CERTIFICATE)
        side.daemon.extra_files = authority.issue(IDENTITIES[side.role], large=True)
        side.daemon.configure()
    cold_world.lab.link("wifi").attach()
    return cold_world


@pytest.mark.parametrize("size", [None, 1500])
def test_a_large_certificate_through_a_path_that_takes_no_fragments(
    at_length: World, size: int | None
) -> None:
    """As we have charon cut its messages, and the control: as it would for a link of 1500."""
    world = at_length
    extra = {} if size is None else {"charon.fragment_size": str(size)}
    with black_hole(world, "ap1"):
        for side in world.sides:
            side.start_charon(extra)
            side.start()
        if size is None:
            world.attached("wifi")
            with Conversation.open(world.endpoint.host, PEER) as talk:
                talk.goes_on()
                talk.ends_well()
            assert counted(world, "ap1", "pieces") == 0
        else:
            world.endpoint.wait_for("detached", "server-silent")
            assert counted(world, "ap1", "lost") > 0
