"""Threads for asking a second endpoint while the first one is asked. They touch no database.

Each endpoint has its own few, so one that hangs takes none from the others; and they do not hold up the process's end.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

# More calls than this at once, and unanswered: it is not keeping up, and another one would not help.
SIZE = 8


class Crew:
    """Runs work beside the caller, in at most `SIZE` kept threads."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._busy = 0

    def submit(self, work: Callable[[], Any]) -> "Future[Any] | None":
        """Begin with the work now; None when all threads are busy."""
        with self._lock:
            if self._busy == SIZE:
                return None
            self._busy += 1
            if self._busy > self._threads:
                self._threads += 1
                threading.Thread(target=self._run, name="rpc", daemon=True).start()
        future: Future[Any] = Future()
        self._work.put((work, future))
        return future

    def _run(self) -> None:
        while True:
            work, future = self._work.get()
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - it is the waiting thread's
                self._free()
                future.set_exception(error)
            else:
                self._free()
                future.set_result(result)

    def _free(self) -> None:
        with self._lock:
            self._busy -= 1
