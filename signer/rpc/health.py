"""What this process knows of an endpoint beside its row: how it answers, until when it is left alone.

The row is what processes share, and is written on a change of state alone; this is what lies between two writes. Any
thread may report here; what has to be written waits in `unwritten` for a thread that may use the database.
"""

import os
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from signer.rpc.breaker import Pause
from signer.rpc.crew import Crew
from signer.rpc.transport import Node

# A latency is the mean of about so many last answers.
LATENCY_WEIGHT = 0.3
# Waiting longer than this is slow, however slow the endpoint usually is.
PATIENCE_SECONDS_MAX = 3.0
# Looks at a head that lie further apart say nothing about how long it stood still.
LOOK_SECONDS_MAX = 30.0


@dataclass(eq=False)
class Health:
    """One endpoint, as this process has met it. Instants are of `time.monotonic`."""

    failures: int = 0  # one after the other
    proven_at: float | None = None  # when it last said that it serves the registered chain
    pause: Pause | None = None  # in force, or over and not yet decided by a probe
    paused_until: float = 0.0
    head_number: int | None = None
    head_moved_at: float = 0.0
    head_asked_at: float = 0.0
    written_at: float = 0.0  # head and latency
    latencies: dict[float, float] = field(
        default_factory=dict
    )  # seconds, by the methods' share of the time-out
    unwritten: deque[Pause | int] = field(default_factory=deque)  # pauses, and sizes of batches
    crew: Crew = field(default_factory=Crew)
    _node: Node | None = None

    def node(self, url: str) -> Node:
        """Return the way there, made once: its connections are kept."""
        if self._node is None:
            self._node = Node(url)
        return self._node

    def take_unwritten(self) -> Iterator[Pause | int]:
        """Take what has to be written, one by one: several threads may be at it."""
        while self.unwritten:
            try:
                yield self.unwritten.popleft()
            except IndexError:  # another was faster
                return

    def is_usable(self) -> bool:
        return self.pause is None

    def is_paused(self, now: float) -> bool:
        """Return whether it must not even be asked whether it works again."""
        return self.pause is not None and now < self.paused_until

    def answered(self, seconds: float, share: float) -> None:
        self.failures = 0
        before = self.latencies.get(share, seconds)
        self.latencies[share] = before + LATENCY_WEIGHT * (seconds - before)

    def waited_in_vain(self, seconds: float, share: float) -> None:
        """Learn from an answer that was not waited for: it would have taken at least so long."""
        self.latencies[share] = max(self.latencies.get(share, 0.0), seconds)

    def failed(self) -> int:
        """Return how many failures there were one after the other."""
        self.failures += 1
        return self.failures

    def set_pause(self, pause: Pause | None, now: float) -> None:
        """Be as the endpoint's row says."""
        self.pause = pause
        self.paused_until = 0.0 if pause is None else now + pause.seconds
        if pause is not None:
            self.proven_at = None
        self.failures = 0 if pause is not None else self.failures

    def begin_pause(self, pause: Pause, now: float) -> None:
        self.set_pause(pause, now)
        self.unwritten.append(pause)

    def saw_head(self, number: int, now: float) -> bool:
        """Take note of a head; return whether it has moved."""
        # Nobody looked for a while: that it stands where it stood then does not mean that it stood still.
        is_news = now - self.head_asked_at > LOOK_SECONDS_MAX or self.head_number is None
        moved = self.head_number is None or number > self.head_number
        self.head_asked_at = now
        self.head_number = number
        if moved or is_news:
            self.head_moved_at = now
        return moved

    def latency(self) -> float | None:
        """Return about how many seconds an ordinary answer takes, None when there was none."""
        return min(self.latencies.values(), default=None)

    def patience(self, share: float, hedge_seconds: float) -> float:
        """Return how long an answer may take before somebody else is asked, or told."""
        usual = 3 * self.latencies.get(share, 0.0)
        return max(hedge_seconds, min(usual, PATIENCE_SECONDS_MAX))


_known: dict[tuple[int, str], Health] = {}
_lock = threading.Lock()
# Threads do not survive a fork.
os.register_at_fork(after_in_child=_known.clear)


def of(pk: int, url: str) -> Health:
    """Return what is known of the endpoint of this row; another URL in the row is another endpoint."""
    with _lock:
        return _known.setdefault((pk, url), Health())
