"""Takes TCP connections of endpoints and peers, dials the other side, and lets the pump run.

What it does when it cannot do as asked:

- no room, or an address that makes no sense: RST at once, counted as refused;
- the other side refuses, is unreachable or does not answer in time: RST at once, counted as a
  dial failure of that kind. (The SYN was answered before the other side could be asked, so the
  opener sees an established connection that is reset; TCP has no other way to say it then.)
- no descriptor or no memory for one more: the listener rests for a moment, and connections wait
  in its backlog.
"""

import asyncio
import contextlib
import errno
import socket
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from orchestrator.adapters import clock
from orchestrator.adapters.inject import Injector
from orchestrator.adapters.transparent import (
    accept,
    awaits_window,
    backoff,
    dial,
    dial_failure,
    first_unacknowledged,
    first_unreceived,
    in_flight,
    listen,
    probe_window,
    reset,
    tune,
)
from orchestrator.core.errors import KernelError
from orchestrator.core.flows import (
    LARGEST_QUEUE,
    UNCONFIGURED,
    DialFailure,
    FlowDirection,
    FlowEnded,
    FlowEvent,
    FlowOpened,
    FlowRecord,
    FlowRefused,
    LegTuning,
    ListenerKey,
    ProxyCounters,
    ProxySettings,
    Refusal,
    SocketAddress,
    SourcePolicy,
    admit,
    tunings,
)
from orchestrator.core.kernel import MARK_TO_SENDERS
from orchestrator.core.quantities import Instant, IPAddress, Seconds
from orchestrator.core.relay import Relay
from orchestrator.core.relay_events import LEGS, Leg, Outcome, Phase
from orchestrator.services.proxy_flow import Ends, Entry, Flow
from orchestrator.services.proxy_keeping import Keeping
from orchestrator.services.proxy_pump import Pump
from orchestrator.services.senders import FEW_STEPS, repeat_ends, tell_unreachable
from orchestrator.wire.labels import Flow as FlowAddress
from orchestrator.wire.proxy_handover import HandedFlow
from orchestrator.wire.segments import TCP

ACCEPTS_PER_TURN: Final = 64
"""Then the flows that stand have their turn: a flood of SYNs does not starve them."""
HEARD_NOTHING: Final = Seconds(0.03)
"""From a far end, while something is on its way to it: then it is not only late. At a planned
change of path acknowledgments do not cease for so long."""
REST_SECONDS: Final = 0.25
"""Of a listener, when the kernel has no descriptor or memory left."""
TICK_SECONDS: Final = 1.0
"""How late a dial may be given up, a reset delivered behind acknowledged bytes, an endpoint
known to be away, or room on the disk be used."""
ROOM_SECONDS: Final = 0.02
"""How late room in memory may be used: with a full memory a flow moves a queue each time, that
is 3 MB/s."""
ROOM_REST: Final = 10
"""To look for room takes a microsecond for each flow: a tenth of the time, at most."""


class Engine:
    """Belongs to one running event loop. `on_event` must return quickly."""

    def __init__(self, capacity: int, on_event: Callable[[FlowEvent], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._capacity = capacity
        self._on_event = on_event
        self._settings = UNCONFIGURED
        self._shares = tunings(self._settings)
        self._keeping = Keeping()
        self._pump = Pump(LARGEST_QUEUE, self._keeping, self._connected, self._over)
        self._loop.add_reader(self._pump.fileno(), self._turn)
        self._listeners: dict[ListenerKey, socket.socket] = {}
        self._entries: dict[Flow, Entry] = {}
        self._of_vip: dict[IPAddress, dict[Flow, Entry]] = {}
        self._injector = Injector(MARK_TO_SENDERS)
        self._to_endpoints = Injector()
        self._dialing: dict[Flow, Entry] = {}
        self._accepted = 0
        self._octets = [0, 0]
        """of flows that are over, by source leg"""
        self._refused: Counter[Refusal] = Counter()
        self._dial_failures: Counter[DialFailure] = Counter()
        self._ended: Counter[Outcome] = Counter()
        self._ticking = self._loop.call_later(TICK_SECONDS, self._tick)
        self._making_room: asyncio.TimerHandle | None = None
        self._stopped = False

    def configure(self, settings: ProxySettings) -> None:
        """New flows follow `settings`; old ones go on. Raises KernelError, nothing changed."""
        shares = tunings(settings)
        wanted: dict[ListenerKey, LegTuning] = {}
        for version in {pool.version for pool in settings.pools}:
            ports = settings.ports
            inward = ListenerKey(FlowDirection.FROM_ENDPOINT, version, ports.from_endpoints)
            outward = ListenerKey(FlowDirection.TO_ENDPOINT, version, ports.to_endpoints)
            wanted |= {inward: shares.mobile, outward: shares.fixed}
        opened: dict[ListenerKey, socket.socket] = {}
        try:
            for key in wanted.keys() - self._listeners.keys():
                opened[key] = listen(key.version, key.port, wanted[key])
        except KernelError:
            for sock in opened.values():
                sock.close()
            raise
        self._settings, self._shares = settings, shares
        self._keeping.configure(settings)
        for key in self._listeners.keys() - wanted.keys():
            self._stop_listener(key)
        for key, sock in self._listeners.items():
            tune(sock, wanted[key])
        self._listen(opened)

    def close(self) -> int:
        """Stops everything, resets every flow; how many there were."""
        flows = list(self._entries)
        for flow in flows:
            self._pump.abort(flow)
        self._stop()
        return len(flows)

    def _stop(self) -> None:
        self._stopped = True
        for key in list(self._listeners):
            self._stop_listener(key)
        self._ticking.cancel()
        if self._making_room is not None:
            self._making_room.cancel()
        self._loop.remove_reader(self._pump.fileno())
        self._pump.close()
        self._injector.close()
        self._to_endpoints.close()

    @property
    def open_flows(self) -> int:
        return len(self._entries)

    def flows(self) -> Iterator[FlowRecord]:
        """A record of every flow that stands when it is reached."""
        for entry in list(self._entries.values()):
            if not entry.flow.over:
                yield entry.record()

    def counters(self, events_lost: int) -> ProxyCounters:
        moved = [flow.relay.moved for flow in self._entries]
        return ProxyCounters(
            open=len(self._entries),
            capacity=min(self._capacity, self._settings.flows),
            accepted=self._accepted,
            to_peer=self._octets[Leg.INNER] + sum(of(Leg.INNER) for of in moved),
            to_endpoint=self._octets[Leg.OUTER] + sum(of(Leg.OUTER) for of in moved),
            refused=tuple((reason, self._refused[reason]) for reason in Refusal),
            dial_failures=tuple((kind, self._dial_failures[kind]) for kind in DialFailure),
            ended=tuple((outcome, self._ended[outcome]) for outcome in Outcome),
            events_lost=events_lost,
            memory=self._keeping.in_memory(),
            disk=self._keeping.on_disk(),
            disk_failures=self._keeping.failures,
            disk_lost=self._keeping.lost,
            disk_problem=self._keeping.problem,
        )

    def resume(self, vip: IPAddress) -> Iterator[tuple[SocketAddress, SocketAddress]]:
        """The endpoint can be reached again: whatever waits for it is sent anew, at once.

        Of each flow whose timer had backed off, the peer's and the virtual address.
        """
        for entry in tuple(self._of_vip.get(vip, {}).values()):
            inner = entry.flow.sockets[Leg.INNER]
            if entry.flow.over or entry.flow in self._dialing:
                continue
            with contextlib.suppress(OSError, KernelError):  # it ends just now; no way to it
                if steps := backoff(inner):
                    sequence = first_unacknowledged(inner)
                    back = _flow(entry.peer, entry.vip)
                    tell_unreachable(self._injector.send, back, sequence, steps)
                    yield entry.peer, entry.vip
                elif awaits_window(inner):
                    probe_window(inner)
                elif sent := in_flight(inner, HEARD_NOTHING):
                    repeat_ends(self._to_endpoints.send, _flow(entry.peer, entry.vip), sent)

    def restart(self, flows: Collection[tuple[SocketAddress, SocketAddress]]) -> int:
        """The endpoint's sender of each of these (VIP and peer) is told that what it waits for
        was lost, in the name of the peer: it sends that anew. How many of them there are.

        What the endpoint waits for is what the inner leg has not received.
        """
        wanted, hosts = frozenset(flows), {vip.host for vip, _ in flows}
        found = 0
        for entry in [each for host in hosts for each in self._of_vip.get(host, {}).values()]:
            standing = not entry.flow.over and entry.flow not in self._dialing
            if not standing or (entry.vip, entry.peer) not in wanted:
                continue
            with contextlib.suppress(OSError, KernelError):  # it ends just now; no way to it
                sequence = first_unreceived(entry.flow.sockets[Leg.INNER])
                there = _flow(entry.vip, entry.peer)
                tell_unreachable(self._to_endpoints.send, there, sequence, FEW_STEPS)
                found += 1
        return found

    def end_flows(self, vips: Container[IPAddress]) -> int:
        """Resets what these endpoints have with anybody, and with each other; how many."""
        ended = [
            entry.flow
            for entry in self._entries.values()
            if not entry.flow.over and (entry.vip.host in vips or entry.peer.host in vips)
        ]
        for flow in ended:
            self._pump.abort(flow)
        return len(ended)

    # ---- from one worker to the next

    @property
    def settings(self) -> ProxySettings:
        return self._settings

    @property
    def listeners(self) -> Mapping[ListenerKey, socket.socket]:
        return self._listeners

    def handed(self) -> Iterator[HandedFlow]:
        """Every flow as it stands, for another worker. Nothing may move meanwhile."""
        return (entry.handed() for entry in self._entries.values())

    def ends(self) -> Iterator[Ends]:
        """What every flow has of the kernel's, in the order of `handed`."""
        return (flow.ends for flow in self._entries)

    def let_go(self) -> None:
        """Stops everything, for another process has it all: nothing is reset or ended."""
        self._stop()
        for ends in self.ends():
            ends.close()
        self._entries.clear()

    def adopt(
        self,
        settings: ProxySettings,
        counters: ProxyCounters,
        listeners: Mapping[ListenerKey, socket.socket],
        flows: Sequence[tuple[HandedFlow, Ends]],
    ) -> None:
        """Goes on with what another worker had; nothing moves before the loop's next turn.

        Raises OSError when the kernel has no room to watch a flow; `let_go` then.
        """
        self._settings, self._shares = settings, tunings(settings)
        self._keeping.configure(settings)
        self._keeping.take_over(counters)
        self._accepted = counters.accepted
        self._octets = [counters.to_peer, counters.to_endpoint]
        self._refused.update(dict(counters.refused))
        self._dial_failures.update(dict(counters.dial_failures))
        self._ended.update(dict(counters.ended))
        for handed, ends in flows:
            entry = Entry.restored(handed, ends)
            flow = entry.flow
            self._enter(entry)
            self._keeping.restore(flow)
            self._pump.adopt(flow)
            for leg in LEGS:
                self._octets[leg] -= flow.relay.moved(leg)
        self._listen(listeners)
        self._loop.call_soon(self._turn)

    # ---- newcomers

    def _accept(self, listener: socket.socket, direction: FlowDirection) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                taken = accept(listener)
            except OSError:
                self._refused[Refusal.NO_DESCRIPTOR] += 1
                self._rest(listener, direction)
                return
            if taken is None:
                return
            sock, client, destination = taken
            if direction is FlowDirection.FROM_ENDPOINT:
                self._begin(sock, client, destination, direction)
            else:
                self._begin(sock, destination, client, direction)

    def _rest(self, listener: socket.socket, direction: FlowDirection) -> None:
        self._pump.unwatch(listener)

        def resume() -> None:
            if listener in self._listeners.values():
                self._pump.watch(listener, partial(self._accept, listener, direction))

        self._loop.call_later(REST_SECONDS, resume)

    def _begin(
        self,
        sock: socket.socket,
        vip: SocketAddress,
        peer: SocketAddress,
        direction: FlowDirection,
    ) -> None:
        settings = self._settings
        reason = admit(
            settings,
            vip.host,
            peer.host,
            of_vip=len(self._of_vip.get(vip.host, ())),
            in_all=len(self._entries),
            capacity=self._capacity,
        )
        if reason is not None:
            self._refused[reason] += 1
            reset(sock)
            self._on_event(FlowRefused(vip, peer, direction, reason))
            return
        self._accepted += 1
        now = clock.now()
        flow = self._dial(sock, vip, peer, direction)
        if isinstance(flow, DialFailure):
            self._dial_failures[flow] += 1
            self._ended[Outcome.DIAL_FAILED] += 1
            reset(sock)
            record = FlowRecord(vip, peer, direction, now, Phase.OVER, 0, 0, 0, 0)
            self._on_event(FlowEnded(record, Outcome.DIAL_FAILED, flow))
            return
        mobile = flow.relay.dialled in flow.relay.patient
        patience = settings.dial_vip_seconds if mobile else settings.dial_seconds
        entry = Entry(flow, vip, peer, direction, now, Instant(now + patience))
        self._enter(entry)
        self._on_event(FlowOpened(entry.outline()))
        try:
            self._pump.add(flow)
        except OSError:
            self._refused[Refusal.NO_DESCRIPTOR] += 1
            self._pump.abort(flow)

    def _enter(self, entry: Entry) -> None:
        self._entries[entry.flow] = entry
        self._keeping.enter(entry.flow, entry.vip.host)
        if entry.flow.connecting:
            self._dialing[entry.flow] = entry
        self._of_vip.setdefault(entry.vip.host, {})[entry.flow] = entry

    def _dial(
        self,
        accepted: socket.socket,
        vip: SocketAddress,
        peer: SocketAddress,
        direction: FlowDirection,
    ) -> Flow | DialFailure:
        shares, between_endpoints = self._shares, self._settings.covers(peer.host)
        patient = frozenset(Leg) if between_endpoints else frozenset({Leg.INNER})
        if between_endpoints:
            tune(accepted, shares.mobile_pair)
        if direction is FlowDirection.TO_ENDPOINT:
            inner = dial(vip, peer, shares.mobile_pair if between_endpoints else shares.mobile)
            if isinstance(inner, DialFailure):
                return inner
            return Flow(Relay(Leg.INNER, shares.queue, patient), inner, accepted)
        source = vip if self._settings.source is SourcePolicy.VIP else None
        outer = dial(peer, source, shares.mobile_pair if between_endpoints else shares.fixed)
        if isinstance(outer, DialFailure):
            return outer
        return Flow(Relay(Leg.OUTER, shares.queue, patient), accepted, outer)

    # ---- the pump

    def _turn(self) -> None:
        if self._stopped:
            return
        if self._pump.turn():
            self._loop.call_soon(self._turn)
        if self._keeping.memory.waiting and self._making_room is None:
            self._making_room = self._loop.call_later(ROOM_SECONDS, self._make_room)

    def _make_room(self) -> None:
        """Some of those that wait for memory go on; the rest waits for another round."""
        self._making_room = None
        began = clock.now()
        self._pump.make_room()
        pause = max(ROOM_SECONDS, ROOM_REST * (clock.now() - began))
        if self._keeping.memory.waiting:
            self._making_room = self._loop.call_later(pause, self._make_room)
        self._turn()

    def _connected(self, flow: Flow) -> None:
        self._dialing.pop(flow, None)

    def _over(self, flow: Flow) -> None:
        entry = self._entries.pop(flow)
        self._keeping.leave(flow)
        self._dialing.pop(flow, None)
        of_vip = self._of_vip[entry.vip.host]
        del of_vip[flow]
        if not of_vip:
            del self._of_vip[entry.vip.host]
        outcome = flow.relay.outcome or Outcome.ABORTED
        failure = dial_failure(flow.dial_errno) if flow.dial_errno else None
        self._ended[outcome] += 1
        if failure is not None:
            self._dial_failures[failure] += 1
        for leg in LEGS:
            self._octets[leg] += flow.relay.moved(leg)
        self._on_event(FlowEnded(entry.outline(), outcome, failure))

    def _tick(self) -> None:
        now = clock.now()
        for flow, entry in list(self._dialing.items()):
            if entry.deadline <= now:
                self._pump.fail_dial(flow, errno.ETIMEDOUT)
        self._pump.look_after_watched()
        self._keeping.look_for_folder()
        self._pump.look_after_stuck()
        self._pump.look_after_pipes()
        self._pump.make_room_on_disk()
        self._turn()
        self._ticking = self._loop.call_later(TICK_SECONDS, self._tick)

    def _listen(self, listeners: Mapping[ListenerKey, socket.socket]) -> None:
        for key, sock in listeners.items():
            self._listeners[key] = sock
            self._pump.watch(sock, partial(self._accept, sock, key.direction))

    def _stop_listener(self, key: ListenerKey) -> None:
        sock = self._listeners.pop(key)
        self._pump.unwatch(sock)
        sock.close()


def _flow(source: SocketAddress, destination: SocketAddress) -> FlowAddress:
    ends = source.host.packed, source.port, destination.host.packed, destination.port
    return FlowAddress(TCP, *ends)
