"""Lanes that are filled up from a treasury: once for each need, and never more in a day than the rule allows."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from keyguard import create_key, find_key
from signer import lanes, money, topping_up, watching
from signer.models import Incident, Lane, LaneMoney, TopUp, Transaction
from signer.submission import find_lane
from signer.workflows import TopUpInput, TopUpLane
from tests.integration.signer.stage import Stage
from tests.threads import at_once
from workflows import TransientError
from workflows.engine.drive import advance
from workflows.models import Run
from workflows.testing import Engine, crash_everywhere

ETHER = 10**18
# Where a transfer could be lost or doubled: before and after each step's record, and around the nonce and the receipt.
POINTS = [
    "engine.before_record",
    "engine.recorded",
    "signer.attempts_inserted",
    "signer.attempts_committed",
    "signer.sent",
    "signer.settling",
    "signer.settled",
]


@pytest.fixture
def rule(stage: Stage) -> TopUp:
    """An empty lane, and the rule by which it is filled up."""
    stage.rpc("anvil_setBalance", create_key("treasury").address, hex(1000 * ETHER))
    stage.rpc("anvil_setBalance", stage.key.address, "0x0")
    lane = find_lane(31337, stage.key.address)
    return TopUp.objects.create(
        lane=lane, treasury="treasury", level_wei=10 * ETHER, daily_cap_wei=25 * ETHER, created_by="ada"
    )


def has(stage: Stage) -> int:
    return int(stage.rpc("eth_getBalance", stage.key.address, "latest"), 16)


def treasury() -> str:
    return find_key("treasury").address


def transfers() -> list[Transaction]:
    return list(Transaction.objects.filter(lane__address=treasury()).order_by("created_at"))


def mined(stage: Stage) -> int:
    """How many transactions of the treasury the chain has."""
    return int(stage.rpc("eth_getTransactionCount", treasury(), "latest"), 16)


def serve(stage: Stage) -> None:
    """Be the workers of the engine and of the signer until nothing is on its way."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        open_runs = Run.objects.filter(finished_at__isnull=True).exclude(state="DEAD_LETTER")
        for pk in open_runs.values_list("pk", flat=True):
            advance(pk)
        for lane in Lane.objects.all():
            lanes.drain(lane.pk)
        watching.watch(31337)
        busy = Transaction.objects.filter(settled_at__isnull=True).exclude(sub_state="INSUFFICIENT_FUNDS")
        if not busy.exists() and not open_runs.exists():
            return
    raise AssertionError("not done")


def spend(stage: Stage, wei: int) -> None:
    stage.rpc("anvil_setBalance", stage.key.address, hex(has(stage) - wei))


@pytest.mark.case("PC9", "S35")
def test_empty_lane_is_filled_up_and_what_waits_goes_on_by_itself(stage: Stage, rule: TopUp) -> None:
    row = stage.submit(value=ETHER // 10)
    stage.drain()
    money.check(31337)
    money.check(31337)
    assert Run.objects.count() == 1, "one at a time"
    serve(stage)
    row.refresh_from_db()
    assert row.state == "COMPLETED"
    [transfer] = transfers()
    assert (transfer.value, transfer.state, mined(stage)) == (10 * ETHER, "COMPLETED", 1)
    rule.refresh_from_db()
    assert (rule.reserved_wei, rule.filled_wei, rule.transfer) == (10 * ETHER, 10 * ETHER, None)
    money.check(31337)
    assert Run.objects.count() == 1
    assert not Incident.objects.filter(closed_at__isnull=True).exists()


def test_lane_that_only_runs_low_is_filled_up_without_waking_anybody(stage: Stage, rule: TopUp) -> None:
    LaneMoney.objects.create(lane=rule.lane, low_balance_wei=3 * ETHER)
    stage.rpc("anvil_setBalance", stage.key.address, hex(2 * ETHER))
    money.check(31337)
    serve(stage)
    assert has(stage) == 10 * ETHER
    money.check(31337)
    assert not Incident.objects.exists()


def test_people_are_told_when_filling_up_does_not_help(stage: Stage, rule: TopUp) -> None:
    LaneMoney.objects.create(lane=rule.lane, low_balance_wei=3 * ETHER)
    stage.rpc("anvil_setBalance", treasury(), "0x0")
    money.check(31337)
    advance(Run.objects.get().pk)
    for lane in Lane.objects.all():
        lanes.drain(lane.pk)
    assert [incident.lane for incident in Incident.objects.all()] == [transfers()[0].lane], "the treasury's"
    LaneMoney.objects.update(low_since=F("low_since") - timedelta(minutes=11))
    money.check(31337)
    incident = Incident.objects.get(lane=rule.lane)
    assert "Its top-up has not helped" in incident.text
    assert Run.objects.count() == 1


def test_no_more_than_the_cap_leaves_in_a_day(stage: Stage, rule: TopUp) -> None:
    LaneMoney.objects.create(lane=rule.lane, low_balance_wei=9 * ETHER)
    amounts = []
    for _ in range(5):
        spend(stage, has(stage))
        money.check(31337)
        serve(stage)
        amounts.append(has(stage) // ETHER)
    assert amounts == [10, 10, 5, 0, 0]
    assert mined(stage) == 3
    assert Incident.objects.filter(lane=rule.lane, closed_at__isnull=True).exists(), "a person must see to it"
    TopUp.objects.update(day=timezone.now().date() - timedelta(days=1))
    money.check(31337)
    serve(stage)
    assert has(stage) == 10 * ETHER, "a new day"


@pytest.mark.sqlite_too
def test_any_number_of_checks_at_once_start_one(stage: Stage, rule: TopUp) -> None:
    started = at_once(8, lambda _: topping_up.begin(rule.lane_id, 0, waits=True))
    assert len([run for run in started if run]) == 1
    assert Run.objects.count() == 1
    serve(stage)
    assert (mined(stage), has(stage)) == (1, 10 * ETHER)


@pytest.mark.sqlite_too
def test_reservations_at_once_never_exceed_the_cap(stage: Stage, rule: TopUp) -> None:
    """Each as if its predecessors' transfers had ended: without that there is one at a time anyway."""
    TopUp.objects.update(level_wei=7 * ETHER)
    rows = [stage.submit() for _ in range(8)]
    done: list[UUID] = []

    def reserve(number: int) -> None:
        for _ in range(30):
            try:
                topping_up.reserve(rule.pk, rows[number].pk, 4 * ETHER)
            except TransientError as error:
                if error.code == "TOP_UP_CAP_REACHED":
                    return
                continue
            done.append(rows[number].pk)
            TopUp.objects.filter(transfer=rows[number]).update(transfer=None)
            return

    at_once(8, reserve)
    rule.refresh_from_db()
    assert (len(done), rule.reserved_wei) == (6, 24 * ETHER)


@pytest.mark.sqlite_too
def test_one_transfer_at_a_time_whoever_starts_it(stage: Stage, rule: TopUp) -> None:
    """A check, and people over the API."""
    topping_up.begin(rule.lane_id, 0, waits=True)
    for _ in range(2):
        TopUpLane.start(TopUpInput(lane=rule.lane_id))
    serve(stage)
    assert set(Run.objects.values_list("state", flat=True)) == {"SUCCEEDED"}
    assert (mined(stage), has(stage)) == (1, 10 * ETHER)


def test_transfer_that_was_not_executed_gives_its_reservation_back(
    stage: Stage, rule: TopUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    from signer import settling

    run_id = topping_up.begin(rule.lane_id, 0, waits=True)
    assert run_id is not None
    advance(run_id)
    [transfer] = transfers()
    rule.refresh_from_db()
    assert (rule.transfer, rule.reserved_wei) == (transfer, 10 * ETHER)
    assert settling.cancel_unbegun(transfer.pk)
    settling.tell_workflows([transfer.pk])
    serve(stage)
    assert Run.objects.get().state == "FAILED"
    assert topping_up.begin(rule.lane_id, 0, waits=True) is None, (
        "not again at once: what stopped it may still be so"
    )
    rule.refresh_from_db()
    assert (rule.transfer, rule.reserved_wei) == (None, 0)
    monkeypatch.setattr(topping_up, "AFTER_FAILURE", timedelta(0))
    assert topping_up.begin(rule.lane_id, 0, waits=True)
    serve(stage)
    assert (mined(stage), has(stage)) == (1, 10 * ETHER)


@pytest.mark.parametrize("change", ["rule", "lane", "enough", "little"])
def test_nothing_is_started_that_is_not_wanted(stage: Stage, rule: TopUp, change: str) -> None:
    balance = {"enough": 10 * ETHER, "little": 9 * ETHER + 1}.get(change, 0)
    if change == "rule":
        TopUp.objects.update(active=False)
    if change == "lane":
        Lane.objects.update(state="PAUSED", state_reason="a test")
    assert topping_up.begin(rule.lane_id, balance, waits=False) is None


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"active": False}, "TOP_UP_PAUSED"),
        ({"treasury": "sender"}, "TOP_UP_TO_ITSELF"),
        ({"treasury": "nobody"}, "TOP_UP_WITHOUT_TREASURY"),
    ],
)
def test_rule_that_was_changed_meanwhile_ends_the_run(
    stage: Stage, rule: TopUp, change: dict[str, Any], code: str
) -> None:
    run_id = topping_up.begin(rule.lane_id, 0, waits=True)
    TopUp.objects.update(**change)
    serve(stage)
    run = Run.objects.get(pk=run_id)
    assert run.error is not None
    assert (run.state, run.error["code"]) == ("FAILED", code)
    assert not transfers()


def serve_lanes(t: Engine, run: Run) -> bool:
    if not any(wait.kind == "transaction" for wait in t.waits(run)):
        return False
    for lane in Lane.objects.all():
        lanes.drain(lane.pk)
    watching.watch(31337)
    return True


def anew(stage: Stage, data: Any) -> Callable[[int], Any]:
    """Return what gives each run the same input, and the chain as it was for the first one."""
    kept = [stage.rpc("evm_snapshot")]

    def input(number: int) -> Any:
        stage.rpc("evm_revert", kept.pop())
        kept.append(stage.rpc("evm_snapshot"))
        return data

    return input


@pytest.mark.timeout(300)
def test_lane_is_filled_up_once_wherever_a_worker_dies(stage: Stage, rule: TopUp) -> None:
    def filled_once(run: Run) -> None:
        assert run.state == "SUCCEEDED", run.error
        assert (mined(stage), has(stage)) == (1, 10 * ETHER)
        now = TopUp.objects.get()
        assert (now.reserved_wei, now.filled_wei, now.transfer) == (10 * ETHER, 10 * ETHER, None)

    with transaction.atomic():
        crashes = crash_everywhere(
            TopUpLane,
            anew(stage, TopUpInput(lane=rule.lane_id)),
            invariant=filled_once,
            answers=serve_lanes,
            points=POINTS,
        )
        transaction.set_rollback(True)
    assert crashes > 12
