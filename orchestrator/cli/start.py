"""Starts a command: Ctrl-C ends it without a word until all of it is imported.

Python's own answer is a traceback through whatever was being imported. Run as a module with the
name of the command's module, whose `main` it calls, and its arguments.
"""

import signal
import sys
from importlib import import_module
from typing import NoReturn


def start(module: str) -> NoReturn:
    ours = signal.getsignal(signal.SIGINT)
    if ours is signal.default_int_handler:  # and not ignored, as in the background of a script
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    main = import_module(module).main
    signal.signal(signal.SIGINT, ours)
    sys.exit(main())


if __name__ == "__main__":
    start(sys.argv.pop(1))
