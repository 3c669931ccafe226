"""Identifiers that sort by the time they were made."""

import os
import time
import uuid


def uuid7() -> uuid.UUID:
    """Return a UUID version 7: 48 bits of milliseconds, 12 of their fraction, then randomness.

    Rows inserted one after the other land side by side in the index, and a list of them reads oldest to newest: the
    fraction tells those of one process apart that are made within a millisecond, such as the items of a list.
    Source: RFC 9562, sections 5.7 and 6.2, method 3.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    random = int.from_bytes(os.urandom(8), "big") & 0x3FFF_FFFF_FFFF_FFFF
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | (rest * 4096 // 1_000_000) << 64
    return uuid.UUID(int=value | 0x2 << 62 | random)
