"""Waits for devices."""

from tests.kernel.netns import run

_LOOKS = 200


def wait_until_awake(name: str) -> None:
    """Returns when packets get into a TUN that was just opened.

    The kernel's linkwatch lets them in some time after the carrier is back, and until then
    drops them without a word.
    """
    for _ in range(_LOOKS):
        if "state DOWN" not in run(f"ip link show {name}"):
            return
    raise TimeoutError(f"{name} stays down")
