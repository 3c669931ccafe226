"""What a waiting run waits for, and from when on there may be something to do. Pure."""

from datetime import datetime

from workflows.models import Wait
from workflows.states import Join, WaitingFor, WaitState


def when_to_look(waits: list[Wait], at: datetime) -> tuple[WaitingFor, datetime | None]:
    """Return what a run waits for, and from when on it should be looked at again if nothing wakes it before."""
    pending = [wait for wait in waits if wait.state == WaitState.PENDING]
    if not pending:
        return WaitingFor.COMMAND, at
    wants_any = pending[0].join == Join.ANY
    if wants_any and any(wait.state == WaitState.DONE for wait in waits):
        return WaitingFor.COMMAND, at
    dues = [wait.due_at for wait in pending if wait.due_at is not None]
    if all(wait.kind == "sleep" for wait in pending):
        return WaitingFor.SLEEP, (min if wants_any else max)(dues, default=at)
    timeouts = [
        wait.due_at for wait in pending if wait.due_at is not None and (wants_any or wait.kind != "sleep")
    ]
    return WaitingFor.COMMAND, min(timeouts, default=None)
