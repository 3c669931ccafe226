"""Tests of workflows, in the test's own process: no Redis, no worker, no waiting; on the database Django is on.

    with engine() as t:
        run = t.start(Payout, PayoutInput(account=7, amount=100))
        t.run(run)                       # as far as it goes
        t.advance(hours=24)              # timers that come due on the way are carried out, in their order
        t.answer(run, "pay", receipt)    # end what a step waits for
        assert t.run(run).state == "SUCCEEDED"

    crash_everywhere(Payout, PayoutInput(account=7, amount=100), invariant=paid_once, answers={"pay": receipt})

See docs/testing-workflows.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflows.testing.crashes import Crashed
    from workflows.testing.everywhere import crash_everywhere
    from workflows.testing.inprocess import Engine, engine
    from workflows.testing.waits import PendingWait

# These need Django's models, which are not loaded yet when pytest reads its plugins.
_LAZY = {
    "Crashed": "workflows.testing.crashes",
    "Engine": "workflows.testing.inprocess",
    "PendingWait": "workflows.testing.waits",
    "crash_everywhere": "workflows.testing.everywhere",
    "engine": "workflows.testing.inprocess",
}

__all__ = ["Crashed", "Engine", "PendingWait", "crash_everywhere", "engine"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
