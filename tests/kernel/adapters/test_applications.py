"""Other processes' sockets: their limits, and whether what they send comes in one burst."""

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

import pytest

from orchestrator.adapters.applications import lift, restore, tcp_sockets, unpace
from tests.kernel.netns import Namespace

APPLICATION: Final = """
import array, fcntl, socket, struct, sys, termios, time
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
sock, _ = listener.accept()
if len(sys.argv) > 2:
    sock.setsockopt(socket.SOL_SOCKET, 47, struct.pack("@L", int(sys.argv[2])))
for line in sys.stdin:
    if line == "acknowledged\\n":
        left = array.array("i", [1])
        while left[0]:
            time.sleep(0.01)
            fcntl.ioctl(sock, termios.TIOCOUTQ, left)
        print("yes", flush=True)
    elif line == "rate\\n":
        print(*struct.unpack("@L", sock.getsockopt(socket.SOL_SOCKET, 47, 8)), flush=True)
    else:
        sock.send(bytes(int(line)))
"""
VIP: Final = "10.99.0.7"
OTHER: Final = "10.99.0.1"
RTT_MS: Final = 200
OUTAGE_MS: Final = 2000
WARM: Final = 40_000
"""Octets by which the application has learnt the round trip, and sent more than the ten
segments that Linux never paces."""
WINDOW: Final = 40_000
"""Octets that the window has room for by then, and that fill it by half."""
SPREAD: Final = RTT_MS / 1000 / 10
"""Seconds; what is paced takes twice as long, and what is not a few milliseconds."""
NO_LIMIT: Final = 2 ** (8 * struct.calcsize("@L")) - 1


@dataclass(frozen=True, slots=True)
class Application:
    process: subprocess.Popen[str]
    far: socket.socket
    inode: int

    def send(self, octets: int) -> float:
        """How long it took to come in, from its first octet to its last, in seconds. All is
        acknowledged then."""
        self.begin(octets)
        first = None
        while octets:
            octets -= len(self.far.recv(octets))
            first = first or time.monotonic()
        took = time.monotonic() - (first or 0.0)
        assert self._asks("acknowledged") == "yes"
        return took

    def begin(self, octets: int) -> None:
        """Sends them; nobody waits for them."""
        self._say(octets)

    def rate(self) -> int:
        """Its limit of the pacing rate, octets/s."""
        return int(self._asks("rate"))

    def _asks(self, word: str) -> str:
        self._say(word)
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def _say(self, word: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()


@pytest.fixture
def delay_ms() -> int:
    """Of the link; what takes netem. Other tests say otherwise."""
    return 0


@pytest.fixture
def link(make_namespace: Callable[[], Namespace], delay_ms: int) -> tuple[Namespace, Namespace]:
    near, far = make_namespace(), make_namespace()
    near.run(f"ip link add out0 type veth peer name in0 netns {far.path}")
    for namespace, device, address in ((near, "out0", VIP), (far, "in0", OTHER)):
        namespace.run(f"ip addr add {address}/24 dev {device}", f"ip link set {device} up")
    if delay_ms:
        far.run(f"tc qdisc add dev in0 root netem delay {delay_ms}ms")
    return near, far


@pytest.fixture
def application(
    link: tuple[Namespace, Namespace], request: pytest.FixtureRequest
) -> Iterator[Application]:
    near, far = link
    limits: list[str] = getattr(request, "param", [])
    with near.entered():
        process = subprocess.Popen(
            (sys.executable, "-c", APPLICATION, VIP, *limits),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    with process, far.entered():
        try:
            with socket.create_connection((VIP, port), 5) as sock, near.entered():
                made = Application(process, sock, 0)
                made.rate()  # it has accepted
                (found,) = tcp_sockets([ip_address(VIP)])
                yield Application(process, sock, found.inode)
        finally:
            process.kill()


def test_a_limit_is_lifted_and_put_back(application: Application) -> None:
    assert lift([application.inode]) == {application.inode: 0}
    assert restore({application.inode: 0}) == set()


@pytest.mark.usefixtures("needs_netem")
@pytest.mark.parametrize("delay_ms", [RTT_MS])
@pytest.mark.parametrize(
    ("steps", "paced"),
    [((lift,), True), ((), False), ((lift, unpace), False), ((lift, unpace, lift), True)],
    ids=["paced", "control", "not paced any more", "paced again"],
)
def test_a_window_is_spread_over_a_round_trip(
    application: Application,
    steps: tuple[Callable[[list[int]], object], ...],
    *,
    paced: bool,
) -> None:
    application.send(WARM)
    for step in steps:
        step([application.inode])
    application.send(WARM)  # the next acknowledgment tells its rate
    took = application.send(WINDOW)
    if paced:
        assert took > SPREAD
    else:
        assert took < SPREAD


def test_whoever_does_not_pace_does_again_when_its_limit_is_put_back(
    application: Application,
) -> None:
    lift([application.inode])
    assert application.rate() == NO_LIMIT
    unpace([application.inode])
    assert application.rate() == 0
    restore({application.inode: 0})
    assert application.rate() == NO_LIMIT


@pytest.mark.usefixtures("needs_netem")
@pytest.mark.parametrize("delay_ms", [OUTAGE_MS])
def test_whoever_takes_an_outage_for_its_round_trip_does_not_pace(
    link: tuple[Namespace, Namespace], application: Application
) -> None:
    limits = lift([application.inode])
    application.begin(WINDOW)
    assert application.rate() == NO_LIMIT
    assert restore(limits) == {application.inode}
    assert application.rate() == 0
    link[1].run("tc qdisc change dev in0 root netem delay 0ms")
    for _ in range(20):
        application.send(WARM)
    assert restore(limits) == set()
    assert application.rate() == NO_LIMIT


@pytest.mark.parametrize("application", [["1000000"]], indirect=True)
def test_a_rate_that_the_application_fixed_is_left_alone(application: Application) -> None:
    lift([application.inode])
    unpace([application.inode])
    restore({application.inode: 0})
    assert application.rate() == 1_000_000
