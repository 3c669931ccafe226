"""The states of a run, a step, a wait and a dead letter, and which may follow which."""

from django.db.models import TextChoices


class RunState(TextChoices):
    READY = "READY"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    PAUSED = "PAUSED"
    COMPENSATING = "COMPENSATING"
    DEAD_LETTER = "DEAD_LETTER"
    SUCCEEDED = "SUCCEEDED"
    COMPENSATED = "COMPENSATED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


R = RunState

RUN_TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    # READY -> RUNNING: a worker claimed it.
    R.READY: frozenset({R.RUNNING}),
    # RUNNING -> RUNNING: another worker took over an expired lease. READY: the slice is used up, or the queue changes.
    # WAITING: a command, a timer, a retry. COMPENSATING: a permanent failure with something to undo; FAILED: with nothing.
    R.RUNNING: frozenset(
        {R.RUNNING, R.READY, R.WAITING, R.COMPENSATING, R.DEAD_LETTER, R.SUCCEEDED, R.FAILED}
    ),
    # WAITING -> READY: its key was handed to it. RUNNING: its wake-up instant came and a worker claimed it.
    R.WAITING: frozenset({R.READY, R.RUNNING}),
    R.PAUSED: frozenset(),
    # COMPENSATING -> COMPENSATING: also while an undo waits. DEAD_LETTER: an undo failed for good.
    R.COMPENSATING: frozenset({R.COMPENSATING, R.COMPENSATED, R.DEAD_LETTER}),
    # DEAD_LETTER -> READY, COMPENSATING: a person replayed it.
    R.DEAD_LETTER: frozenset({R.READY, R.COMPENSATING}),
    R.SUCCEEDED: frozenset(),
    R.COMPENSATED: frozenset(),
    R.FAILED: frozenset(),
    R.CANCELLED: frozenset(),
}

TERMINAL = frozenset({R.SUCCEEDED, R.COMPENSATED, R.FAILED, R.CANCELLED})
# A worker may claim a run in these, once its wake-up instant has come.
CLAIMABLE = frozenset({R.READY, R.RUNNING, R.WAITING, R.COMPENSATING})


class StepState(TextChoices):
    PENDING = "PENDING"  # will run (again) at the next claim
    RUNNING = "RUNNING"  # its body may be executing; found so at a claim, the worker died in it
    WAITING = "WAITING"  # for its commands, or for its next attempt
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    UNDOING = "UNDOING"
    UNDONE = "UNDONE"


class WaitState(TextChoices):
    PENDING = "PENDING"
    DONE = "DONE"
    FAILED = "FAILED"


class WaitingFor(TextChoices):
    """Why a run is not running: one word for the row, a sentence in the console."""

    NOTHING = ""
    COMMAND = "command"
    SLEEP = "sleep"
    RETRY = "retry"
    KEY = "key"


class DeadLetterState(TextChoices):
    OPEN = "OPEN"
    RESOLVED = "RESOLVED"


class DeadLetterReason(TextChoices):
    RETRIES_EXHAUSTED = "retries_exhausted"
    UNCERTAIN = "uncertain"  # an at_most_once step was cut off; nobody knows whether it happened
    CRASH_LOOP = "crash_loop"  # workers keep dying on it
    DEFINITION_CHANGED = "definition_changed"
    BAD_OUTPUT = "bad_output"
    COMPENSATION_FAILED = "compensation_failed"
