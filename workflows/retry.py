"""When a failed step is tried again."""

import random
from dataclasses import dataclass

# An exception that nobody foresaw is probably a bug: a few tries, then a person.
UNKNOWN_ERROR_ATTEMPTS_MAX = 3


@dataclass(frozen=True)
class Retry:
    """When a step is tried again: after `first` seconds, then `factor` times longer each time, at most `cap` seconds.

    jitter: each delay is changed by up to this share of itself, so that what failed together isn't tried together.
    stop_on: exceptions, by class or by code, that no further try can help: the step has failed for good.
    within: seconds after the beginning of the first attempt in which another may still begin.
    """

    attempts: int = 5
    first: float = 1.0
    factor: float = 2.0
    cap: float = 60.0
    jitter: float = 0.1
    stop_on: tuple[type[Exception] | str, ...] = ()
    within: float | None = None

    def __post_init__(self) -> None:
        if (
            self.attempts < 1
            or self.first < 0
            or self.factor < 1
            or self.cap < 0
            or not 0 <= self.jitter <= 1
        ):
            raise ValueError(f"{self}: attempts >= 1, first >= 0, factor >= 1, cap >= 0, 0 <= jitter <= 1")

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after the attempt of this number, counted from 1."""
        plain = min(self.cap, self.first * self.factor ** min(attempt - 1, 64))
        spread = random.uniform(-self.jitter, self.jitter)  # noqa: S311 - not a secret
        return plain * (1 + spread)

    def stops_on(self, error: Exception) -> bool:
        """Tell whether this error is one that no further try can help."""
        code = getattr(error, "code", None)
        return any(
            isinstance(error, each) if isinstance(each, type) else code == each for each in self.stop_on
        )
