"""What an answer of a receiver means. Pure: no clock, no chance and no database of its own."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from signer.retry_after import asked_seconds

FIRST_SECONDS = 5
TRY_FOR = timedelta(hours=24)
# What a receiver asks for is kept to, up to this: a slip of its clock must not silence it for a year.
RETRY_AFTER_MAX_SECONDS = 3600
A_LIFETIME_SECONDS = 999_999_999
PAUSE_MAX_SECONDS = 300
# So many doublings are more than a day.
DOUBLINGS_MAX = 15
# Of these it is not the event that the receiver has trouble with.
AWAY = frozenset({408, 425, 429, 502, 503, 504})
GONE = 410


@dataclass(frozen=True)
class Answer:
    """What came back: a status, or in words why there is none."""

    status: int | None = None
    error: str = ""
    retry_after_seconds: float = 0

    @property
    def is_taken(self) -> bool:
        """Whether the receiver has the event."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_away(self) -> bool:
        """Whether nothing else could be delivered there now either."""
        return self.status is None or self.status in AWAY

    @property
    def words(self) -> str:
        """What went wrong, for people. Nothing that the receiver has written."""
        if self.status is None or self.is_taken:
            return self.error
        if 300 <= self.status < 400:
            return f"it answered {self.status}, and redirects are not followed"
        return f"it answered {self.status}"


class Outcome(Enum):
    """What becomes of a delivery."""

    DELIVERED = "delivered"
    AGAIN = "again"
    DEAD = "dead"
    GONE = "gone"  # the receiver wants nothing more, ever


@dataclass(frozen=True)
class Verdict:
    """What becomes of a delivery, and when it is sent again."""

    outcome: Outcome
    next_at: datetime | None = None


def judge(
    answer: Answer, attempts: int, failing_since: datetime | None, now: datetime, spread: float
) -> Verdict:
    """Return what becomes of a delivery.

    attempts: how often it was sent before. failing_since: when it first failed. spread: between 0.8 and 1.2, by chance,
    so that what failed together doesn't come back together. The last attempt is a day after the first that failed.
    """
    if answer.is_taken:
        return Verdict(Outcome.DELIVERED)
    if answer.status == GONE:
        return Verdict(Outcome.GONE)
    given_up_at = (failing_since or now) + TRY_FOR
    if now >= given_up_at:
        return Verdict(Outcome.DEAD)
    seconds = max(_doubled(attempts) * spread, _asked_for(answer))
    return Verdict(Outcome.AGAIN, min(now + timedelta(seconds=seconds), given_up_at))


def paused_until(answer: Answer, failures: int, now: datetime) -> datetime:
    """Return until when a receiver is left alone that wasn't there `failures` times in a row before.

    Not as long as a delivery waits: one of them finds out soon whether it is back, and the others are not aged by it.
    """
    seconds = max(min(_doubled(failures), PAUSE_MAX_SECONDS), _asked_for(answer))
    return now + timedelta(seconds=seconds)


def _doubled(times: int) -> int:
    return FIRST_SECONDS * int(2 ** min(times, DOUBLINGS_MAX))


def _asked_for(answer: Answer) -> float:
    return min(answer.retry_after_seconds, RETRY_AFTER_MAX_SECONDS)


def retry_after_seconds(header: str | None, now: datetime) -> float:
    """Return how long the header Retry-After asks to wait, 0 where it says nothing that can be understood."""
    return min(asked_seconds(header, now) or 0, A_LIFETIME_SECONDS)
