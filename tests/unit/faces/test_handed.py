"""Sockets handed to a daemon by who signs in, over a real control socket."""

import asyncio
import socket
from pathlib import Path

import pytest

from orchestrator.faces import client
from orchestrator.wire.control import Refused, Verb
from tests.unit.faces.served import FakeDaemon, as_root, ask, serving
from tests.unit.faces.waiting import run, until


def test_a_refusal_is_an_answer(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder):
            answer = await ask(folder, Verb.PORTAL, "wlan9")
            assert answer["error"] == "no usable path over wlan9"

    run(story())


@as_root
def test_sockets_of_this_host_itself_are_refused(folder: Path) -> None:
    def try_it() -> None:
        with (
            socket.socket() as listener,
            client.sign_in(folder / "control.sock", "wlan0") as way,
        ):
            assert way.terms == {"event": "granted"}
            listener.listen()
            way.open([listener])

    async def story() -> None:
        daemon = FakeDaemon()
        async with serving(folder, daemon) as control:
            with pytest.raises(Refused, match="kept apart"):
                await asyncio.to_thread(try_it)
            await until(lambda: daemon.roamed == ["wlan0"])
            assert control.counters.malformed == 1

    run(story())


def test_a_client_that_hands_nothing_over_is_let_go(folder: Path) -> None:
    async def story() -> None:
        daemon = FakeDaemon()
        async with serving(folder, daemon):
            await ask(folder, Verb.PORTAL, "wlan0")
            await until(lambda: daemon.roamed == ["wlan0"])

    run(story())
