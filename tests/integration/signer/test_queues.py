"""A queue for each chain: who is sent where, and who serves it."""

from typing import Any

import pytest

from dalp.local.processes import wait_until
from dalp.local.servers import AnvilServer
from signer import register_chain, routing, sweeping
from tests.integration.signer.stage import Stage
from tests.services import Live


def served(live: Live) -> dict[str, set[str]]:
    """The queues of each worker."""
    from dalp.celery import app

    with app.connection_for_write() as broker:
        answers = app.control.inspect(timeout=1, connection=broker).active_queues() or {}
    return {worker: {queue["name"] for queue in queues} for worker, queues in answers.items()}


def test_a_task_goes_to_the_queue_of_its_chain(stage: Stage) -> None:
    from dalp.celery import app

    def queue_of(name: str, *args: Any) -> str:
        return str(app.amqp.router.route({}, name, args=args)["queue"].name)

    stage.submit()
    assert queue_of("signer.drain", str(stage.lane.pk)) == "signer.31337"
    assert queue_of("signer.watch", 31337) == "signer.31337"
    assert queue_of("signer.probe", 5) == "signer.5"
    assert queue_of("signer.sweep") == "signer"
    assert queue_of("signer.drain", "00000000-0000-0000-0000-000000000000") == "signer"


def test_what_a_watcher_reads_comes_before_any_number_of_drains(stage: Stage) -> None:
    from dalp.celery import app

    def priority(name: str, *args: Any) -> int:
        return int(app.amqp.router.route({}, name, args=args).get("priority", 0))

    stage.submit()
    assert priority("signer.watch", 31337) < priority("signer.drain", str(stage.lane.pk))


@pytest.mark.case("S24")
def test_workers_serve_chains_that_come_later_unless_they_were_told_what_to_serve(
    live: Live, anvil: AnvilServer, start_anvil: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_chain(31337, "first", [anvil.url], block_time=0.2)
    live.start_worker()
    live.start_worker(queues="signer.31337")
    second, third = start_anvil(chain_id=5), start_anvil(chain_id=6)
    register_chain(5, "second", [second.url])

    def all_serve(chain_id: int) -> bool:
        queues = served(live)
        return len(queues) == 2 and any(routing.queue_of(chain_id) in names for names in queues.values())

    wait_until(lambda: all_serve(5), 20, what="the second chain is served")
    # The message is lost; the sweep says it again.
    with monkeypatch.context() as broker:
        broker.setattr("signer.chains.announce", lambda chain_ids: None)
        register_chain(6, "third", [third.url])
    live.redis.client().delete("chains:announced")
    sweeping.sweep()
    wait_until(lambda: all_serve(6), 20, what="the third chain is served")
    [everything, some] = sorted(served(live).values(), key=len, reverse=True)
    assert {"signer", "ops", "signer.31337", "signer.5", "signer.6"} <= everything
    assert some == {"signer.31337"}
