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
    # READY -> RUNNING: a worker claimed it. COMPENSATING, CANCELLED: cancelled or killed before that.
    R.READY: frozenset({R.RUNNING, R.PAUSED, R.COMPENSATING, R.DEAD_LETTER, R.FAILED, R.CANCELLED}),
    # RUNNING -> RUNNING: another worker took over an expired lease. READY: the slice is used up, or the queue changes.
    # WAITING: a command, a timer, a retry. COMPENSATING: a permanent failure or a cancellation.
    R.RUNNING: frozenset(
        {
            R.RUNNING,
            R.READY,
            R.WAITING,
            R.PAUSED,
            R.COMPENSATING,
            R.DEAD_LETTER,
            R.SUCCEEDED,
            R.FAILED,
            R.CANCELLED,
        }
    ),
    # WAITING -> READY: its key was handed to it. RUNNING: its wake-up instant came and a worker claimed it.
    R.WAITING: frozenset(
        {R.READY, R.RUNNING, R.PAUSED, R.COMPENSATING, R.DEAD_LETTER, R.FAILED, R.CANCELLED}
    ),
    # PAUSED -> where it was, when somebody resumes it.
    R.PAUSED: frozenset({R.READY, R.WAITING, R.COMPENSATING, R.FAILED, R.CANCELLED}),
    # COMPENSATING -> COMPENSATING: also while an undo waits. DEAD_LETTER: an undo failed for good.
    R.COMPENSATING: frozenset(
        {R.COMPENSATING, R.PAUSED, R.COMPENSATED, R.DEAD_LETTER, R.FAILED, R.CANCELLED}
    ),
    # DEAD_LETTER -> by a person's decision: replayed, completed, skipped (READY, or WAITING behind a key; SUCCEEDED behind
    # the last step), undone, ended.
    R.DEAD_LETTER: frozenset(
        {R.READY, R.WAITING, R.COMPENSATING, R.SUCCEEDED, R.FAILED, R.COMPENSATED, R.CANCELLED}
    ),
    R.SUCCEEDED: frozenset(),
    R.COMPENSATED: frozenset(),
    R.FAILED: frozenset(),
    R.CANCELLED: frozenset(),
}

TERMINAL = frozenset({R.SUCCEEDED, R.COMPENSATED, R.FAILED, R.CANCELLED})
# A worker may claim a run in these, once its wake-up instant has come.
CLAIMABLE = frozenset({R.READY, R.RUNNING, R.WAITING, R.COMPENSATING})
# A run that a worker holds is in one of these.
HELD = frozenset({R.RUNNING, R.COMPENSATING})


class StepState(TextChoices):
    PENDING = "PENDING"  # will run (again) at the next claim
    RUNNING = "RUNNING"  # its body may be executing
    WAITING = "WAITING"  # for its commands, its branches, or its next attempt
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"  # its condition said no, a person decided so, or a sibling had failed
    UNDOING = "UNDOING"
    UNDONE = "UNDONE"


class WaitState(TextChoices):
    PENDING = "PENDING"
    DONE = "DONE"
    FAILED = "FAILED"
    WITHDRAWN = "WITHDRAWN"  # nobody needs it any more


class Join(TextChoices):
    """How a step asked for its commands, and so what it gets for them."""

    ALONE = "alone"
    ALL = "all"
    ANY = "any"


class WaitingFor(TextChoices):
    """Why a run is not running: one word for the row, a sentence in the console."""

    NOTHING = ""
    COMMAND = "command"
    SLEEP = "sleep"
    BRANCHES = "branches"
    RETRY = "retry"
    KEY = "key"


# The attempt goes on when the run is taken up again after these; after anything else another one begins.
RESUMING = frozenset({WaitingFor.COMMAND, WaitingFor.SLEEP, WaitingFor.BRANCHES})


class Control(TextChoices):
    """What somebody asked of a run while a worker held it; that worker obeys at its next commit."""

    NONE = ""
    YIELD = "yield"  # let go, and be claimed again by whoever may
    PAUSE = "pause"
    CANCEL = "cancel"  # stays: the run then ends CANCELLED
    COMPENSATE = "compensate"


class DeadLetterState(TextChoices):
    OPEN = "OPEN"
    RESOLVED = "RESOLVED"


class DeadLetterReason(TextChoices):
    RETRIES_EXHAUSTED = "retries_exhausted"
    UNCERTAIN = "uncertain"  # an at_most_once step was cut off; nobody knows whether it happened
    CRASH_LOOP = "crash_loop"  # workers keep dying on it
    DEFINITION_CHANGED = "definition_changed"
    BAD_OUTPUT = "bad_output"
    BAD_STATE = "bad_state"  # of a virtual object: its model cannot read it
    COMPENSATION_FAILED = "compensation_failed"
    RUN_MISSING = "run_missing"  # a child or branch that it waits for is not in the database any more
