"""Keeping what a process holds in its memory out of files and of other processes."""

import ctypes
import resource
import sys

import structlog

log = structlog.get_logger("keyguard")

# Source: prctl(2).
PR_SET_DUMPABLE = 4


def harden() -> None:
    """Have this process, and those that it starts, leave no core dump; and let no other of its user read its memory.

    Where the system does not know how, it is said and passed over: keys sign all the same.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    except (OSError, ValueError) as error:
        log.warning("not_hardened", error=type(error).__name__)
