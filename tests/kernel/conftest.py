"""What tests against a real kernel stand on: namespaces, and probes for what it can do.

Each test has its own network namespaces; they vanish with it, and nothing of the machine's own
network is seen or touched. What a kernel lacks is found out by trying.
"""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.netns import Namespace

_ESP = (
    "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x100 mode tunnel"
    " aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128"
)


@pytest.fixture
def make_namespace() -> Iterator[Callable[[], Namespace]]:
    """Makes network namespaces with lo up, as many as the test asks for."""
    made: list[Namespace] = []

    def make() -> Namespace:
        try:
            made.append(Namespace.create())
        except PermissionError:
            pytest.skip("network namespaces take CAP_SYS_ADMIN: run as root")
        return made[-1]

    yield make
    for namespace in made:
        namespace.close()


@pytest.fixture
def network_namespace(make_namespace: Callable[[], Namespace]) -> Iterator[Namespace]:
    """The test runs in a network namespace of its own."""
    namespace = make_namespace()
    with namespace.entered():
        yield namespace


@pytest.fixture
def needs_esp(make_namespace: Callable[[], Namespace]) -> None:
    """Skips where SAs cannot be added."""
    try:
        make_namespace().run(_ESP)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this kernel lacks ESP with AES-GCM: {error.stderr.strip()}")


@pytest.fixture
def needs_netem(make_namespace: Callable[[], Namespace]) -> None:
    """Skips where links cannot be made slow."""
    try:
        make_namespace().run("tc qdisc add dev lo root netem delay 1ms")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this kernel lacks netem: {error.stderr.strip()}")


@pytest.fixture
def needs_tun() -> None:
    """Skips where there are no TUN devices."""
    if not Path("/dev/net/tun").exists():
        pytest.skip("this kernel lacks TUN devices: no /dev/net/tun")
