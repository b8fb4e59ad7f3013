"""What an endpoint has its charon do: negotiate on a path, give that up, end an IKE_SA.

Each of them waits for charon; what comes of it is posted as news.
"""

import contextlib
from collections.abc import Callable
from functools import partial

from orchestrator.adapters.charon import Charon, NotNegotiated
from orchestrator.config.endpoint import EndpointConfig
from orchestrator.core.errors import CharonError, ConfigError
from orchestrator.core.ike import IkeFailure, Tunnel
from orchestrator.core.mobility_events import (
    AttemptAnswered,
    AttemptFailed,
    Event,
    Negotiate,
)
from orchestrator.services import ike
from orchestrator.services.credentials import Credentials
from orchestrator.services.journal import Journal


class Negotiations:
    """Of one endpoint, which has one charon."""

    def __init__(
        self, config: EndpointConfig, post: Callable[[Event], None], journal: Journal
    ) -> None:
        self._server = config.server.identity
        self._keys = config.keys
        self._post = post
        self._journal = journal
        self._charon = Charon(config.charon.socket, partial(journal.count, "malformed-ike"))
        self._credentials = Credentials(config)

    async def follow(self) -> None:
        """Posts what charon tells, for ever."""
        await ike.follow(self._charon, self._prepare, self._post)

    async def _prepare(self) -> None:
        try:
            await self._credentials.load(self._charon)
        except ConfigError as error:
            # What charon was given before stays with it.
            self._journal.tell("unreadable", fields={"detail": str(error)}, warning=True)

    async def negotiate(self, order: Negotiate) -> None:
        try:
            local, remote = self._credentials.sides(self._server)
            connection = ike.endpoint_connection(
                order.path, order.ask, order.vips, local, remote, self._keys
            )
            await self._charon.load_connection(order.connection, connection)
            outcome = await self._charon.initiate(
                order.connection, ike.CHILD, order.limit, self._answers(order.connection)
            )
        except CharonError as error:
            outcome = NotNegotiated(IkeFailure.CHARON, str(error))
        except ConfigError as error:
            outcome = NotNegotiated(IkeFailure.CREDENTIALS, str(error))
        if isinstance(outcome, NotNegotiated):
            self._post(AttemptFailed(order.connection, outcome.why, outcome.detail))
            await self.abandon(order.connection)
        with contextlib.suppress(CharonError):
            await self._charon.unload_connection(order.connection)

    def _answers(self, connection: str) -> Callable[[], None]:
        return lambda: self._post(AttemptAnswered(connection))

    async def abandon(self, connection: str) -> None:
        with contextlib.suppress(CharonError):
            await self._charon.abandon(connection)

    async def terminate(self, tunnel: Tunnel) -> None:
        """charon deletes the IKE_SA; which one a predecessor's tunnel has is not known."""
        if tunnel.ike:
            with contextlib.suppress(CharonError):
                await self._charon.terminate(tunnel.ike)
