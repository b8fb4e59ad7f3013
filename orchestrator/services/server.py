"""The mobility server daemon: neighbours around the deciding machine of `core.sessions`.

An endpoint that authenticated has an SA, and nothing else: only when its lease says which
virtual address its identity may use does its session get policies (`_admit`).
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from orchestrator import __version__
from orchestrator.adapters import clock
from orchestrator.adapters.charon import Charon
from orchestrator.adapters.leases import LeaseStore
from orchestrator.adapters.rtnetlink import Rtnetlink
from orchestrator.adapters.xfrm import Xfrm
from orchestrator.config.server import ServerConfig
from orchestrator.core import leases
from orchestrator.core.endpoint_state import SERVICE
from orchestrator.core.errors import CharonError
from orchestrator.core.firewall import server_ruleset
from orchestrator.core.ike import CharonUp, IkeEvent, Tunnel, TunnelUp
from orchestrator.core.kernel import TUN_SERVER
from orchestrator.core.quantities import IPAddress
from orchestrator.core.server_state import ServerState, server_objects
from orchestrator.core.sessions import (
    Admitted,
    AnswerProbe,
    ApplySession,
    Effect,
    Event,
    Heard,
    MappingChanged,
    Release,
    Remembered,
    Session,
    Sessions,
    SessionState,
    StateMoved,
    Tell,
    Terminate,
    Tick,
)
from orchestrator.services import ike
from orchestrator.services.driver import Driver
from orchestrator.services.hold import Holder
from orchestrator.services.journal import Journal
from orchestrator.services.probes import ServerProbes
from orchestrator.services.reconciler import Reconciler
