"""What else this machine does: it decides the figures, and the load average still counts the peer measured before."""

import time
from pathlib import Path


def busy_share(seconds: float = 0.5) -> float:
    """Return which share of the processors' time is used during the next `seconds`, 0 to 1."""
    idle_before, total_before = _ticks()
    time.sleep(seconds)
    idle, total = _ticks()
    return 1 - (idle - idle_before) / max(total - total_before, 1)


def _ticks() -> tuple[int, int]:
    """Return how much time was idle, and how much there was: the first line of /proc/stat, see proc(5)."""
    user, nice, system, idle, iowait, *rest = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return idle + iowait, user + nice + system + idle + iowait + sum(rest)
