"""Does to the links of a running lab what a roam says."""

import threading

from orchestrator.lab.nat import Nat
from orchestrator.wire.control import Refused, Verb
from tests.scenarios.roaming import FLAP, Kind, Roam
from tests.scenarios.world import World


class Traveller:
    """Does to the world's links what a roam says."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._nat = {"wifi": Nat(world.lab.host("ap1"), "wan0")}
        self._pause = threading.Event()

    def goes(self, roam: Roam) -> None:
        lab, link = self._world.lab, self._world.lab.link(roam.link)
        match roam.kind:
            case Kind.BREAK:
                lab.roam(roam.link, *roam.addresses)
            case Kind.JOIN:
                link.attach(*roam.addresses)
            case Kind.LEAVE:
                link.detach()
            case Kind.ADDRESS | Kind.FAMILY:
                link.readdress(*roam.addresses)
            case Kind.PLANNED:
                self._is_asked_for(link.device)
            case Kind.FLAP | Kind.RETURN:
                self._is_away(roam)
            case Kind.SILENCE:
                link.cut()
                self._pause.wait(roam.lasts)
                link.mend()
            case Kind.REBIND:
                self._nat[roam.link].rebind()
        self._pause.wait(roam.pause)

    def _is_away(self, roam: Roam) -> None:
        link = self._world.lab.link(roam.link)
        addresses = [str(address.ip) for address in link.addresses]
        for _ in range(roam.times):
            link.detach()
            self._pause.wait(roam.lasts or FLAP)
            link.attach(*addresses)
            self._pause.wait(FLAP if roam.kind is Kind.FLAP else 0)

    def _is_asked_for(self, device: str) -> None:
        try:
            self._world.endpoint.daemon.ask(Verb.ROAM, device)
        except Refused:
            return  # it is not usable at this moment, which the operator is told
