"""The internet checksum (RFC 1071), written anew for the tests: the product has its own."""


def checksum(octets: bytes) -> int:
    """Of octets whose checksum field is zero; of those with the right one it is 0."""
    padded = octets + bytes(len(octets) % 2)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
