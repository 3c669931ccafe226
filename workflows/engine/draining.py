"""Whether this worker is being stopped: it then takes up no further run, and lets go of its own at their next step."""

from multiprocessing.sharedctypes import RawValue

# Shared with the children that a prefork worker has: only their parent is told to stop.
_draining = RawValue("b", 0)


def begin() -> None:
    """Take up nothing more. To be called when the worker process is told to stop."""
    _draining.value = 1


def end() -> None:
    """Work again; for tests."""
    _draining.value = 0


def is_draining() -> bool:
    return bool(_draining.value)
