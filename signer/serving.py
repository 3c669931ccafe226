"""The worker's side of a queue for each chain: to serve those that exist, and those that come. Imported by workers only."""

from importlib import import_module
from typing import Any

import structlog
from celery.worker.control import control_command
from django.db import DatabaseError
from kombu.entity import Queue

from signer import routing

log = structlog.get_logger()

_serves = {"all": True}


def begin(app: Any, *, explicit: bool) -> None:
    """Serve the queues of all registered chains, unless the worker was told which ones to serve.

    To be called before the worker begins to consume.
    """
    # web3 takes half a second to load: here once, not in each child, while the first transaction waits for it.
    import_module("signer.rpc.provider")
    _serves["all"] = not explicit
    if explicit:
        return
    try:
        names = routing.queues()
    except DatabaseError as error:  # the sweep's announcement brings them
        log.warning("chains_not_read", error=type(error).__name__)
        return
    for name in names:
        app.amqp.queues.select_add(Queue(name, routing_key=name))  # type: ignore[no-untyped-call]


@control_command(args=[("chain_ids", list)])
def serve_chains(state: Any, chain_ids: list[int]) -> dict[str, Any]:
    """Serve the queues of these chains too, unless the worker was told which ones to serve."""
    if not _serves["all"]:
        return {"ok": "serves the queues it was started for"}
    consumer = state.consumer
    for name in map(routing.queue_of, chain_ids):
        if not consumer.task_consumer.consuming_from(name):
            consumer.call_soon(consumer.add_task_queue, name)
    return {"ok": f"serves {len(chain_ids)} chains"}
