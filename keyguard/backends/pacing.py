"""How often a custody is asked, and when not: its rate limit is kept to, and what it says of waiting is heeded.

Upholds: one HTTP attempt is one call of `attempt`, so that each is signed afresh; a request that may have been done is
never repeated here; nobody waits longer than their own time. Per process: the rates of several processes add up.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Any

import structlog
from pydantic_core import from_json

from keyguard.errors import (
    CustodyBusyError,
    CustodyClockError,
    CustodyDeniesError,
    CustodyUnreachableError,
)

log = structlog.get_logger("keyguard")

LONGEST_HOLD_SECONDS = 300.0
DENIED_SECONDS = 30.0
SKEWED_SECONDS = 60.0
MOST_SKEW_SECONDS = 20.0  # a token of theirs is good for 30
FIRST_BACKOFF_SECONDS = 0.2
MAX_ANSWER_BYTES = 4 * 1024 * 1024


def parsed_json(data: bytes) -> Any:
    """Return the value in JSON that others have sent. Raises ValueError.

    Not with `json`: eth-account's libraries raise Python's recursion limit so far that a deeply nested list would end the
    process.
    """
    return from_json(data, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. Header names are in lower case."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    def json(self) -> dict[str, Any]:
        """Return the object in the body. Raises CustodyUnreachableError when it holds none."""
        found = self._parsed()
        if not isinstance(found, dict):
            raise CustodyUnreachableError(f"the custody answered {self.status} without a JSON object")
        return found

    def json_list(self) -> list[dict[str, Any]]:
        """Return the objects in the body's list. Raises CustodyUnreachableError when it holds none."""
        found = self._parsed()
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise CustodyUnreachableError(
                f"the custody answered {self.status} without a list of JSON objects"
            )
        return found

    def _parsed(self) -> Any:
        if len(self.body) > MAX_ANSWER_BYTES:
            return None
        try:
            return parsed_json(self.body)
        except ValueError:
            return None

    def is_denial_of_existence(self) -> bool:
        """Tell whether the service itself says that there is no such thing; a proxy's 404 says nothing."""
        if self.status != 404:
            return False
        try:
            found = self.json()
        except CustodyUnreachableError:
            return False
        return "message" in found or "error" in found

    def retry_after_seconds(self) -> float | None:
        """Return what the header says, in seconds, None when it is not there or not understood."""
        text = self.headers.get("retry-after", "")
        try:
            seconds = float(text)
        except ValueError:
            try:
                seconds = parsedate_to_datetime(text).timestamp() - time.time()
            except (TypeError, ValueError):
                return None
        # `not (a <= b)` is for NaN.
        return 0.0 if not seconds >= 0 else min(seconds, LONGEST_HOLD_SECONDS)

    def skew_seconds(self) -> float:
        """Return how far our clock is ahead of the service's, 0 when it doesn't say."""
        try:
            return time.time() - parsedate_to_datetime(self.headers.get("date", "")).timestamp()
        except (TypeError, ValueError):
            return 0.0


class Pace:
    """When the next request may leave this process."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second
        self._next = 0.0
        self._held_until = 0.0
        self._why: CustodyUnreachableError = CustodyBusyError()
        self._lock = Lock()

    def wait(self, deadline: float) -> None:
        """Return when a request may leave. Raises at once when that is not before the deadline (monotonic)."""
        with self._lock:
            now = time.monotonic()
            if self._held_until > now and (
                self._held_until >= deadline or not isinstance(self._why, CustodyBusyError)
            ):
                raise type(self._why)(self._why.message)
            start = max(self._next, self._held_until, now)
            if start >= deadline:
                raise CustodyBusyError(f"{start - now:.1f} s until this process may ask again")
            self._next = start + self._interval
        if start > now:
            time.sleep(start - now)

    def hold(self, seconds: float, why: CustodyUnreachableError) -> None:
        """Let nothing leave for so long; whoever cannot wait is told why."""
        with self._lock:
            until = time.monotonic() + seconds
            if until > self._held_until:
                self._held_until, self._why = until, why


def deadline_of(timeout_seconds: float) -> float:
    """Return when the time is up, on the monotonic clock."""
    return time.monotonic() + timeout_seconds


def ask(
    attempt: Callable[[float], Answer],
    pace: Pace,
    deadline: float,
    *,
    may_repeat: bool,
    name: str,
    judges_401: bool = False,
) -> Answer:
    """Return the service's answer to a request, which is neither 429, 401, 403 nor 5xx.

    attempt: sends it once, signed afresh, within the seconds that it is given. may_repeat: whether it does no harm
    twice; one that does is repeated after 429 alone, which says that it was not done. judges_401: return a 401, for
    which the caller has an explanation of its own.
    Raises CustodyUnreachableError: then it may have been done.
    """
    backoff = FIRST_BACKOFF_SECONDS
    while True:
        pace.wait(deadline)
        answer = attempt(max(deadline - time.monotonic(), 0.05))
        if answer.status == 429:
            seconds = answer.retry_after_seconds()
            log.warning("custody_busy", custody=name, retry_after_seconds=seconds)
            # Together with the interval: some say 0.
            pace.hold(max(seconds or 0.0, backoff), CustodyBusyError())
        elif answer.status == 401 and judges_401:
            return answer
        elif answer.status in (401, 403):
            raise denied(answer, pace, name)
        elif answer.status >= 500:
            if not may_repeat:
                raise CustodyUnreachableError(
                    f"{name} answered {answer.status}; it may have taken the request"
                )
            pace.hold(
                max(answer.retry_after_seconds() or 0.0, backoff),
                CustodyBusyError(f"{name} answered {answer.status}"),
            )
        else:
            return answer
        backoff *= 2


def denied(answer: Answer, pace: Pace, name: str) -> CustodyUnreachableError:
    """Return why a request was not let in; nothing is asked for a while, for asking again would change nothing."""
    skew = answer.skew_seconds()
    if answer.status == 401 and abs(skew) > MOST_SKEW_SECONDS:
        error: CustodyUnreachableError = CustodyClockError(
            f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} {name}'s, which refuses "
            "what we sign"
        )
        log.error("custody_clock_skew", custody=name, skew_seconds=round(skew))
        pace.hold(SKEWED_SECONDS, error)
        return error
    error = CustodyDeniesError(
        f"{name} answered {answer.status}: it does not accept our credentials for this"
    )
    log.error("custody_denies", custody=name, status=answer.status)
    if answer.status == 401:
        pace.hold(DENIED_SECONDS, error)
    return error
