"""An address hands over to another while its transactions are out: none of them is forgotten, none executed twice."""

import pytest

from keyguard import find_key
from keyguard.models import Key
from signer import lanes
from signer.models import Chain, Lane, Transaction
from tests.integration.signer.stage import Stage
from workflows import start_workflow
from workflows.clock import now
from workflows.engine.drive import advance
from workflows.models import Run


def state(row: Transaction) -> str:
    row.refresh_from_db()
    return row.state


def go_on(run: Run) -> Run:
    """Have the run do what it can now."""
    Run.objects.filter(pk=run.pk).update(wake_at=now())
    advance(run.pk)
    run.refresh_from_db()
    return run


@pytest.mark.case("S76")
def test_key_is_retired_when_its_sixteen_in_flight_have_ended_whichever_hash_is_mined(manual: Stage) -> None:
    Chain.objects.update(confirmations=3)
    rows = [manual.submit() for _ in range(17)]
    manual.drain()
    assert (manual.in_flight(), state(rows[16])) == (16, "QUEUED")
    old = find_key("sender")
    run, _ = start_workflow("key.rotate", {"key_id": str(old.pk), "reason": "once a year", "actor": "ann"})

    def require_waiting(in_flight: int) -> None:
        assert go_on(run).finished_at is None
        [why] = run.steps.filter(name="retire_old_key").values_list("error", flat=True)
        assert why["code"] == "TRANSACTIONS_UNDER_WAY", why
        assert str(in_flight) in why["message"]
        assert Key.objects.get(pk=old.pk).state == "ACTIVE"

    require_waiting(17)
    new = find_key("sender")
    manual.fund(new.address)
    behind = manual.submit()
    assert (behind.lane.address, new.address != old.address) == (new.address, True)
    # The old key still raises fees: it has two hashes out. First the new one is mined, then a fork takes the other.
    manual.later(700)
    manual.drain()
    first, raised = manual.attempts(rows[0].pk)
    manual.mine()
    manual.watch()
    manual.drain()
    assert (state(rows[0]), rows[0].winner) == ("CONFIRMING", raised)
    require_waiting(17)
    manual.rpc("anvil_reorg", 1, [["0x" + bytes(first.raw).hex(), 0]])
    manual.watch()
    manual.watch()
    assert (state(rows[0]), rows[0].winner) == ("CONFIRMING", first)
    assert {state(row) for row in rows[1:16]} == {"BROADCASTING"}
    for _ in range(2):  # the last of the old address had no room at first
        for lane in Lane.objects.all():
            lanes.drain(lane.pk)
        manual.mine(3)
        manual.watch()
    assert {state(row) for row in [*rows, behind]} == {"COMPLETED"}
    assert int(manual.rpc("eth_getBalance", behind.to, "latest"), 16) == 18, "each of them once"
    assert go_on(run).state == "SUCCEEDED", run.error
    assert Key.objects.get(pk=old.pk).state == "RETIRED"
