"""Named places where a process may be made to die or freeze, to prove that nothing is lost there.

Inert unless `DALP_FAULT` is set, as `name=exit` (die as by kill -9), `name=stop` (freeze as by SIGSTOP) or
`name=exit@3` (the third time it is reached); several are separated by commas. `workflows.testing` watches them instead,
and has a worker die in the process of the test.
"""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Fault:
    action: str
    countdown: int


def _parse(text: str) -> dict[str, _Fault]:
    faults = {}
    for part in filter(None, text.split(",")):
        name, _, how = part.partition("=")
        action, _, count = how.partition("@")
        if action not in {"exit", "stop"}:
            raise ValueError(f"DALP_FAULT: {part!r} is not name=exit or name=stop")
        faults[name] = _Fault(action, int(count or 1))
    return faults


class Crashpoints:
    """The register of crash points; calling it marks that one is reached."""

    def __init__(self, armed: str) -> None:
        self.names: dict[str, str] = {}
        self._armed = _parse(armed)
        self._lock = threading.Lock()
        self.watcher: Callable[[str], None] | None = None  # is told of every point that is reached

    def register(self, name: str, where: str) -> None:
        """Announce a crash point, so that a sweep over all of them can be written."""
        self.names[name] = where

    def __call__(self, name: str) -> None:
        if self.watcher is not None:
            self.watcher(name)
        if not self._armed:
            return
        fault = self._armed.get(name)
        if fault is None:
            return
        with self._lock:
            fault.countdown -= 1
            strikes = fault.countdown == 0
        if strikes:
            self._strike(fault)

    @staticmethod
    def _strike(fault: _Fault) -> None:
        if fault.action == "stop":
            # To this thread: sent to the process, another thread may take it and this one runs on for a moment.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        else:
            os._exit(137)


crashpoint = Crashpoints(os.environ.get("DALP_FAULT", ""))
