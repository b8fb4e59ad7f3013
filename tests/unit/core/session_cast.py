"""Two endpoints, their tunnels, and a server to which one is attached."""

from ipaddress import ip_address

from orchestrator.core.absence import SessionState
from orchestrator.core.quantities import IPAddress, Reqid
from tests.unit.core.builders import LTE, WIFI, WIFI2
from tests.unit.core.server_stories import ServerStory, from_endpoint

TABLET = "tablet@example.org"
TABLET_VIP: IPAddress = ip_address("10.99.0.9")
OVER_WIFI = from_endpoint(WIFI, 1)
OVER_LTE = from_endpoint(LTE, 2)
OF_TABLET = from_endpoint(WIFI2, 3, (TABLET_VIP,), Reqid(8))


def attached() -> ServerStory:
    """A story whose laptop is attached over the Wi-Fi, its first flip heard."""
    story = ServerStory()
    story.admits(OVER_WIFI)
    story.probed(1, OVER_WIFI)
    assert story.state() is SessionState.ATTACHED
    return story
