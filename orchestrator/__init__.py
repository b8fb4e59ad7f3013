"""Keeps a Linux device connected, securely, while it moves.

News enters as an event; acts leave as effects; one caller joins them; everything we
put into the kernel has our name on it and an inverse. `docs/architecture.md` is the map.
"""

__version__ = "0.1.0"
