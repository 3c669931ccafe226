"""Noting the messages that the broker delivered a second time, for the count of faults that struck."""

from typing import Any

import structlog
from celery import signals

log = structlog.get_logger()


def note_redeliveries() -> None:
    """Have this process log each message that says of itself that it was delivered before."""
    signals.task_prerun.connect(_note, weak=False)


def _note(task: Any = None, **_: Any) -> None:
    if task is None or task.name != "workflows.advance":
        return
    if (task.request.delivery_info or {}).get("redelivered"):
        log.info("redelivered", message=task.request.id)
