"""Has TCP senders that have backed off send anew, at once, when their path is back.

They are told that a segment could not be delivered, until their timers have forgotten the
outage (RFC 6069): then they repeat the segment themselves, with a timestamp of now. The same
octets from our hands would have an old one.

Those that have not backed off yet cannot be told so. Of the worker's, two segments are sent
anew in their name (`repeat_ends`).
"""

from collections.abc import Callable, Collection
from typing import Final

from orchestrator.adapters.applications import tcp_sockets
from orchestrator.adapters.transparent import InFlight
from orchestrator.core.quantities import IPAddress, Seconds
from orchestrator.services.hold import Holder
from orchestrator.wire.labels import Flow
from orchestrator.wire.segments import Data, data_segment, unreachable
from orchestrator.wire.stalled import MOST

STEPS: Final = 16
"""Messages for each flow, each of which takes one step of back-off back. After 10 of them a
timer that began with 0.2 s waits for 120 s, and not longer."""
FEW_STEPS: Final = 4
"""Where each message takes the air: then a timer waits for a sixteenth of its time."""
FRESH: Final = Seconds(0.2)
"""TCP's shortest timer (TCP_RTO_MIN, include/net/tcp.h): what has been held for less may leave
as it is, as if the network had kept it."""


def tell_unreachable(
    send: Callable[[bytes], object], flow: Flow, sequence: int, steps: int = STEPS
) -> None:
    """`sequence` is that of the first octet of the flow that was not acknowledged."""
    message = unreachable(flow.source, flow.source_port, flow.destination, flow.port, sequence)
    for _ in range(steps):
        send(message)


def repeat_ends(send: Callable[[bytes], object], flow: Flow, sent: InFlight) -> None:
    """Its first and its last segment once more.

    All of it was lost with the path, and its sender would wait for a timer, of two round trips
    with their queue, before it asks for the last one (tail loss probe, RFC 8985, 7). With the
    first one the application goes on. The last one is acknowledged selectively, by which the
    sender knows what was lost (RACK), and sends it anew.
    """
    last = max(0, len(sent.octets) - sent.segment_size)
    for at in dict.fromkeys((0, last)):
        octets = sent.octets[at : at + sent.segment_size]
        sequence = (sent.sequence + at) % 2**32
        data = Data(sequence, sent.acknowledgment, sent.window, sent.time, octets)
        ends = flow.source, flow.source_port, flow.destination, flow.port
        send(data_segment(*ends, data))


def stalled_flows(vips: Collection[IPAddress]) -> list[tuple[IPAddress, list[Flow]]]:
    """Those of this host that have backed off, as many as a message takes, by their address."""
    found: dict[bytes, list[Flow]] = {vip.packed: [] for vip in vips}
    for sock in tcp_sockets(vips):
        of_vip = found[sock.flow.source]
        if sock.backed_off and len(of_vip) < MOST:
            of_vip.append(sock.flow)
    return [(vip, found[vip.packed]) for vip in vips if found[vip.packed]]


def restart_applications(holder: Holder, vips: Collection[IPAddress]) -> int:
    """The senders of an endpoint are on this host; returns how many flows begin again."""
    if not holder.held(vips).packets:
        return 0
    backed_off = {sock.flow for sock in tcp_sockets(vips) if sock.backed_off}
    stalled = holder.take_stalled(vips, backed_off)
    for label in stalled:
        if isinstance(label.flow, Flow):
            tell_unreachable(holder.to_sender, label.flow, label.sequence)
    return len(stalled)
