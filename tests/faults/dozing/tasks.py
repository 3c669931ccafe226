"""The slow task."""

import time
from pathlib import Path

from celery import shared_task


@shared_task(name="tests.doze")
def doze(file: str, seconds: float) -> None:
    """Note in a file that the task has begun and, `seconds` later, that it has ended."""
    with Path(file).open("a") as notes:
        notes.write("begun\n")
    time.sleep(seconds)
    with Path(file).open("a") as notes:
        notes.write("ended\n")
