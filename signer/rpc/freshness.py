"""Which endpoints know less of the chain than others. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K")

# Heads are asked for at slightly different moments, and blocks travel; on fast chains that is many blocks.
LAG_BLOCKS = 3
LAG_SECONDS = 5.0
# A head that has not moved for so long belongs to a node that has stopped following, or to a chain that has stopped.
STILL_BLOCKS = 20
STILL_SECONDS_MIN = 60.0


@dataclass(frozen=True)
class Head:
    """An endpoint's newest block, and for how many seconds it has been seen to stand there."""

    number: int
    still_seconds: float = 0.0


def behind(heads: Mapping[K, Head], block_seconds: float) -> set[K]:
    """Return whose head is older than the highest by more than a few blocks, or has stood still for long."""
    highest = max((head.number for head in heads.values()), default=0)
    lag = max(LAG_BLOCKS, math.ceil(LAG_SECONDS / block_seconds))
    still = max(STILL_SECONDS_MIN, STILL_BLOCKS * block_seconds)
    return {key for key, head in heads.items() if highest - head.number > lag or head.still_seconds > still}
