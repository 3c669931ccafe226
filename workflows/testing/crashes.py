"""A worker's death, played in the test's process.

Upholds: as far as the database can tell the worker died. The exception passes through everything that catches ordinary
ones, open transactions roll back, and whatever a `finally` still tries to write is refused. Does not uphold: what else
a `finally` does happens, as it wouldn't after a kill -9.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.apps import apps

from workflows import clock
from workflows.crashpoints import crashpoint
from workflows.engine import claiming
from workflows.leases import Leased

_ROLLBACK = ("ROLLBACK TO SAVEPOINT", "RELEASE SAVEPOINT")


class Crashed(BaseException):
    """The process died at a crash point."""


class Crashes:
    """Counts how often each crash point is reached, and has the process die at the one that is armed."""

    def __init__(self) -> None:
        self.reached: Counter[str] = Counter()
        self.died_at = ""
        self._armed, self._left = "", 0
        self._thread = threading.get_ident()

    def arm(self, point: str, at: int = 1) -> None:
        if point not in crashpoint.names:
            raise LookupError(f"no crash point {point!r}; there are {', '.join(sorted(crashpoint.names))}")
        self._armed, self._left = point, at

    def disarm(self) -> None:
        self._armed = ""

    def watch(self, point: str) -> None:
        """Be told that a crash point is reached."""
        if threading.get_ident() != self._thread:
            return
        self._stay_dead()
        self.reached[point] += 1
        if point == self._armed:
            self._left -= 1
            if self._left == 0:
                self.died_at = f"{point}, reached for the {_ordinal(self.reached[point])} time"
                self._stay_dead()

    def refuse(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        """Let no statement of the dead reach the database but the end of their transactions."""
        if not sql.startswith(_ROLLBACK):
            self._stay_dead()
        return execute(sql, params, many, context)

    def _stay_dead(self) -> None:
        if self.died_at:
            raise Crashed(f"the worker died at {self.died_at}")

    @contextmanager
    def crash(self, point: str, at: int) -> Iterator[None]:
        """Have the process die in the block; afterwards others may take over what it held."""
        before = self.reached[point]
        self.arm(point, at)
        try:
            yield
        except Crashed:
            pass
        finally:
            self.disarm()
            died = self.bury()
        if not died:
            times = self.reached[point] - before
            raise AssertionError(f"nothing crashed: {point} was reached {times} times, not {at}")

    def bury(self) -> bool:
        """Let go of what the dead process held, as its leases would; return whether one has died."""
        died, self.died_at = bool(self.died_at), ""
        if died:
            expire_leases()
            claiming._renew_owner()  # the next one is another worker
        return died


def expire_leases() -> None:
    """Let every lease that is held run out, of runs and of whatever else is leased, without moving the clock."""
    over = clock.in_seconds(-1)
    for model in apps.get_models():
        if issubclass(model, Leased):
            held = model._default_manager.filter(lease_until__gte=over)
            held.update(lease_until=over)


def _ordinal(number: int) -> str:
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{suffix}"
