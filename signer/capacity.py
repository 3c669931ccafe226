"""How many transactions of one address may be in flight, decided from numbers alone.

A pool guarantees 16 places to an address and may have more. So a lane begins with the chain's limit, halves it when a
node has no room, and asks for a little more each time the lane was full and everything was taken.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What the chain allows: where a lane begins, and how far it may go."""

    start: int
    most: int

    @classmethod
    def of(cls, start: int, adaptive: int | None) -> "Limits":
        return cls(start, max(start, adaptive or 0))


def current(cap: int | None, limits: Limits, delegated: bool) -> int:
    """Return how many may be in flight now.

    delegated: the address has code by EIP-7702; geth's pool then holds one transaction of it.
    """
    if delegated:
        return 1
    return limits.start if cap is None else max(1, min(cap, limits.most))


def lowered(cap: int | None, limits: Limits) -> int:
    """Return the cap after a pool had no room."""
    return max(1, current(cap, limits, False) // 2)


def raised(cap: int | None, limits: Limits) -> int:
    """Return the cap after the lane was full and the node took all of it."""
    now = current(cap, limits, False)
    return min(limits.most, now + max(1, now // 4))
