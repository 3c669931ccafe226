"""Doing one thing in several threads at the same moment."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.db import connections


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """Call from that many threads at the same moment, each with its own connection; return what they returned.

    What one of them raised is raised here.
    """
    barrier = threading.Barrier(count)

    def work(number: int) -> Any:
        barrier.wait(30)
        try:
            return call(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))
