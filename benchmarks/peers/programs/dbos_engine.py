"""DBOS in one process: the workflow, and the engine that runs it.

The functions are plain, not coroutines: DBOS hands each database call of a coroutine to a thread, which is slower here.
"""

from collections.abc import Callable

from dbos import DBOS

APPLICATION = "ten-steps"
WORKFLOW = "ten_steps"
QUEUE = "ten-steps"


def define(steps: int) -> Callable[[], None]:
    """Register the workflow and return it."""

    @DBOS.step()
    def nothing() -> None:
        """Do nothing."""

    @DBOS.workflow(name=WORKFLOW)
    def ten_steps() -> None:
        for _ in range(steps):
            nothing()

    return ten_steps


def prepare(url: str) -> None:
    """Create the tables and the queue, before several processes would do so at once."""
    launch(url, "preparation", queues=[])
    # The fastest of what was tried. By default a worker looks once a second and takes all that there is: whoever
    # looks first has everything, and the other worker nothing.
    DBOS.register_queue(QUEUE, worker_concurrency=20, polling_interval_sec=0.1)
    DBOS.destroy()


def launch(url: str, executor: str, *, queues: list[str]) -> None:
    """Start the engine in this process. `executor` must differ in each: DBOS tells them apart by it."""
    DBOS(
        config={
            "name": APPLICATION,
            "system_database_url": url,
            "executor_id": executor,
            "log_level": "WARNING",
        }
    )
    # Without a list it would poll every queue that the database knows.
    DBOS.listen_queues(queues)
    DBOS.launch()
