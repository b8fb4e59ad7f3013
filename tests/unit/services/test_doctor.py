"""What went wrong when charon was asked, as the doctor judges it."""

import asyncio
from pathlib import Path

from orchestrator.core.errors import CharonError
from orchestrator.services.doctor import _charon, in_words

VICI = Path("/run/charon.vici")


class Closed:
    """A charon whose socket is not ours."""

    def __init__(self, cause: OSError) -> None:
        self._cause = cause

    async def version(self) -> str:
        raise CharonError(f"charon does not answer at {VICI}: {self._cause}") from self._cause


def test_who_may_not_ask_is_told_apart_from_who_asks_in_vain() -> None:
    reading = asyncio.run(_charon(Closed(PermissionError(13, "Permission denied")), VICI))
    assert reading.forbidden
    assert reading.problem == f"charon does not answer at {VICI}: Permission denied"
    absent = FileNotFoundError(2, "No such file or directory")
    assert not asyncio.run(_charon(Closed(absent), VICI)).forbidden


def test_numbers_of_errors_are_left_away() -> None:
    missing = FileNotFoundError(2, "No such file or directory", "nft")
    assert in_words(str(missing)) == "No such file or directory: 'nft'"
