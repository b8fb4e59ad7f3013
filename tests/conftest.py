"""What all tests stand on: signals that arrive, whoever started the tests."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores SIGINT for what it starts in the background, and programs that we start
    # would inherit that: a test that interrupts one would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
