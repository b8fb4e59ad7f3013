"""A process that does for `adapters.nftables` what the program `nft` does, many times.

libnftables ends its process where it cannot go on (mnl.c, netlink_init_error), so it has one of
its own; and to start one for each request would stop the daemon as long as a fork takes, in the
moment of a move. It reads requests from its standard input, a socket, and ends with it.
"""

import ctypes
import os
import socket
import struct
import sys
from typing import Final

REQUEST: Final = struct.Struct("=II")
"""Octets of the text that follows, and 1 if the output is to be JSON."""
ANSWER: Final = struct.Struct("=iII")
"""0 or -1, and the octets of output and complaints that follow."""
_LIBRARY: Final = "libnftables.so.1"
_JSON: Final = 1 << 4
"""NFT_CTX_OUTPUT_JSON (nftables/libnftables.h)."""


def _load() -> ctypes.CDLL:
    """libnftables(3). Raises OSError."""
    library = ctypes.CDLL(_LIBRARY)
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_ctx_output_set_flags.restype = None
    library.nft_run_cmd_from_filename.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("buffer_output", "buffer_error"):
        getattr(library, f"nft_ctx_{name}").argtypes = [ctypes.c_void_p]
    for name in ("output", "error"):
        read = getattr(library, f"nft_ctx_get_{name}_buffer")
        read.argtypes, read.restype = [ctypes.c_void_p], ctypes.c_char_p
    return library


def main() -> None:
    try:
        library = _load()
    except OSError as error:
        sys.exit(str(error))
    context = library.nft_ctx_new(0)
    library.nft_ctx_buffer_output(context)
    library.nft_ctx_buffer_error(context)
    with socket.socket(fileno=0) as asked, asked.makefile("rwb") as stream:
        while head := stream.read(REQUEST.size):
            octets, as_json = REQUEST.unpack(head)
            library.nft_ctx_output_set_flags(context, _JSON if as_json else 0)
            # Only of a file the library says in which line a fault is.
            with open(os.memfd_create("ruleset"), "wb", 0) as file:  # noqa: PTH123
                file.write(stream.read(octets))
                name = f"/proc/self/fd/{file.fileno()}"
                code = library.nft_run_cmd_from_filename(context, name.encode())
            out = library.nft_ctx_get_output_buffer(context)
            complaints = library.nft_ctx_get_error_buffer(context)
            stream.write(ANSWER.pack(code, len(out), len(complaints)) + out + complaints)
            stream.flush()


if __name__ == "__main__":
    main()
