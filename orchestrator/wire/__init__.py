"""Codecs: octets from outside become values, or PeerError; values become octets."""
