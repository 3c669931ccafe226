"""Keeping a step from running for ever: an exception in its thread first, the end of its process if that doesn't help."""

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from django.conf import settings

from workflows.errors import StepTimeoutError

log = structlog.get_logger()


@dataclass(eq=False)
class _Limit:
    thread: int
    step: str
    interrupt_at: float
    interrupted: bool = False


class _Watch:
    """The thread that looks at the clock for all the others of this process."""

    def __init__(self) -> None:
        self.may_kill = False
        self._limits: set[_Limit] = set()
        self._lock = threading.Lock()
        self._pid = 0  # threads do not survive a fork

    def add(self, limit: _Limit) -> None:
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._limits = os.getpid(), set()
                threading.Thread(target=self._run, name="step-watch", daemon=True).start()
            self._limits.add(limit)

    def remove(self, limit: _Limit) -> None:
        with self._lock:
            self._limits.discard(limit)

    def _run(self) -> None:
        while True:
            time.sleep(0.2)
            with self._lock:
                for limit in self._limits:
                    self._look_at(limit)

    def _look_at(self, limit: _Limit) -> None:
        late = time.monotonic() - limit.interrupt_at
        if late < 0:
            return
        if not limit.interrupted:
            limit.interrupted = True
            # Takes effect at the thread's next instruction of Python: not within a call that blocks.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(limit.thread), ctypes.py_object(StepTimeoutError)
            )
        elif late > settings.WORKFLOWS["kill_after_seconds"] and self.may_kill:
            log.error("step_killed", step=limit.step)
            os._exit(137)


_watch = _Watch()


def allow_killing() -> None:
    """Let a step that doesn't react end this process. For workers: their runs are found by their leases."""
    _watch.may_kill = True


@contextmanager
def time_limit(seconds: float, step: str) -> Iterator[None]:
    """Raise StepTimeoutError in the block when it takes longer than so many seconds."""
    limit = _Limit(threading.get_ident(), step, time.monotonic() + seconds)
    _watch.add(limit)
    try:
        yield
    except StepTimeoutError:
        raise StepTimeoutError(f"{step} took longer than {seconds:g} s") from None
    finally:
        try:
            _watch.remove(limit)
        except StepTimeoutError:  # it comes only now; a limit that stayed behind would have the worker killed
            _watch.remove(limit)
            raise
        if limit.interrupted:
            # The exception may still be on its way; it must not strike what comes after the step.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(limit.thread), None)
