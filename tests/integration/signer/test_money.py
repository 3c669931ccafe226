"""What lanes have and spend: people are told once before it is gone, and what waited goes on by itself."""

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db.models import F
from django.utils import timezone

from dalp.chain_diagnosis import check_money
from keyguard import create_key
from signer import money, tasks
from signer.models import Chain, Endpoint, Incident, Lane, LaneMoney, Spending, Transaction
from signer.states import IncidentKind
from tests.integration.signer.lying_node import LyingNode, says
from tests.integration.signer.stage import Stage

ETHER = 10**18


def fund(stage: Stage, wei: int) -> None:
    stage.rpc("anvil_setBalance", stage.key.address, hex(wei))


def look(stage: Stage) -> LaneMoney:
    money.check(31337)
    return LaneMoney.objects.get(lane=stage.lane)


def told() -> list[Incident]:
    return list(Incident.objects.filter(kind=IncidentKind.LOW_BALANCE).order_by("opened_at"))


def test_what_was_spent_is_what_the_chain_took(stage: Stage) -> None:
    stage.deploy_counter()
    stage.submit(value=ETHER)
    refusal = stage.counter.encode("refuse", 1, True)
    stage.submit(to=stage.counter.address, value=0, data=refusal, gas_limit=100_000)
    stage.record(1)
    before = 10**24
    stage.settle()
    assert Transaction.objects.filter(state="FAILED").count() == 1
    seen = look(stage)
    assert seen.balance_wei == int(stage.rpc("eth_getBalance", stage.key.address, "latest"), 16)
    assert seen.spent_hour_wei == seen.spent_day_wei == before - seen.balance_wei
    assert seen.runway_seconds == seen.balance_wei * 3600 // seen.spent_hour_wei
    assert seen.low_since is None


def test_spending_of_yesterday_no_longer_counts(stage: Stage) -> None:
    stage.submit(value=ETHER)
    stage.settle()
    Spending.objects.update(at=F("at") - timedelta(hours=2))
    assert look(stage).spent_hour_wei == 0
    assert look(stage).spent_day_wei > ETHER
    LaneMoney.objects.update(low_balance_wei=1)  # a lane that is watched without spending anything
    Spending.objects.update(at=F("at") - timedelta(hours=24))
    assert look(stage).spent_day_wei == 0
    assert not Spending.objects.exists()


@pytest.mark.case("PC9", "S35")
def test_empty_wallet_is_told_once_others_go_on_and_it_resumes_when_there_is_money(stage: Stage) -> None:
    other = create_key("other")
    stage.rpc("anvil_setBalance", other.address, hex(ETHER))
    fund(stage, 0)
    stuck = [stage.submit(value=ETHER) for _ in range(3)]
    stage.submit(sender="other", value=1)
    for _ in range(3):
        stage.drain()
        money.check(31337)
    assert set(Transaction.objects.filter(lane=stage.lane).values_list("state", "sub_state")) == {
        ("QUEUED", "INSUFFICIENT_FUNDS")
    }
    [incident] = told()
    assert incident.closed_at is None
    low = money.lanes_low_on_money().get()
    assert (low.lane, low.waits, low.told_at) == (stage.lane, True, incident.opened_at)

    fund(stage, 100 * ETHER)
    stage.settle()
    assert {Transaction.objects.get(pk=row.pk).state for row in stuck} == {"COMPLETED"}
    assert Transaction.objects.get(lane__address=other.address).state == "COMPLETED"
    money.check(31337)
    [incident] = told()
    assert incident.closed_at is not None
    assert LaneMoney.objects.get(lane=stage.lane).low_since is None


def test_lane_that_goes_on_and_is_still_low_stays_told_of(stage: Stage) -> None:
    """The drain has money enough for what waits; the person wanted more to be there."""
    fund(stage, 0)
    stage.submit()
    stage.drain()
    look(stage)
    LaneMoney.objects.update(low_balance_wei=5 * ETHER)
    fund(stage, ETHER)
    stage.settle()
    look(stage)
    assert [incident.closed_at for incident in told()] == [None]
    fund(stage, 6 * ETHER)
    look(stage)
    [incident] = told()
    assert incident.closed_because == "it has 6 ether"


def test_short_runway_is_told_before_anything_stands_still(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.submit(value=ETHER)
    stage.settle()
    assert look(stage).low_since is None
    fund(stage, 5 * ETHER)
    seen = look(stage)
    assert seen.low_since is not None
    assert "about 4 hours at the recent rate" in told()[0].text
    fund(stage, 8 * ETHER)
    assert look(stage).low_since is not None, "not yet well: the next transaction would tell people again"
    fund(stage, 20 * ETHER)
    assert look(stage).low_since is None
    assert [incident.closed_because for incident in told()] == ["it has 20 ether"]
    monkeypatch.setitem(settings.SIGNER, "low_runway_hours", 48)
    assert look(stage).low_since is not None


def test_failing_node_changes_nothing_and_keeps_no_other_chain_waiting(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.submit()
    stage.settle()
    seen = look(stage)
    away = Chain.objects.create(chain_id=1, name="away", genesis_hash="0x" + "00" * 32)
    Endpoint.objects.create(chain=away, url="http://127.0.0.1:1")
    lane = Lane.objects.create(chain=away, address=create_key("elsewhere").address)
    LaneMoney.objects.create(lane=lane, low_balance_wei=1)
    asked: list[Any] = []
    monkeypatch.setattr(tasks.check_money, "apply_async", lambda args, **_: asked.append(args))
    tasks.watch_money()
    assert asked == [[1], [31337]]
    for [chain_id] in asked:
        money.check(chain_id)
    assert LaneMoney.objects.get(lane=lane).balance_at is None
    later = LaneMoney.objects.get(lane=stage.lane)
    assert later.balance_at is not None
    assert seen.balance_at is not None
    assert later.balance_at > seen.balance_at
    assert told() == []


def test_node_of_another_chain_is_not_believed(manual: Stage, liar: LyingNode) -> None:
    manual.submit()
    look(manual)
    fund(manual, 0)
    before = LaneMoney.objects.get().balance_wei
    liar.lie = lambda call: {"result": "0x1"} if call["method"] == "eth_chainId" else None
    look(manual)
    assert LaneMoney.objects.get().balance_wei == before
    liar.lie = says("eth_getBalance", "no")
    look(manual)
    assert LaneMoney.objects.get().balance_wei == before


def test_look_that_comes_late_writes_nothing_over_a_later_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.submit(value=ETHER)
    LaneMoney.objects.create(lane=stage.lane, low_balance_wei=ETHER)
    ask = money._ask
    later = [True]

    def slow(*args: Any) -> Any:
        balances = ask(*args)
        if later:
            later.clear()
            fund(stage, 0)
            money.check(31337)
        return balances

    monkeypatch.setattr(money, "_ask", slow)
    money.check(31337)
    assert LaneMoney.objects.get().balance_wei == 0
    assert [incident.closed_at for incident in told()] == [None]


@pytest.mark.sqlite_too
def test_amounts_keep_every_digit(stage: Stage) -> None:
    stage.submit(value=123_456_789_012_345_678_901)
    stage.submit(value=123_456_789_012_345_678_903)
    stage.settle()
    seen = look(stage)
    assert seen.balance_wei is not None
    assert seen.spent_day_wei == 10**24 - seen.balance_wei


def test_quiet_lane_is_not_asked_about(stage: Stage) -> None:
    stage.submit()
    stage.settle()
    Spending.objects.all().delete()
    assert money.busy_chains() == []
    money.check(31337)
    assert not LaneMoney.objects.exists()


def test_doctor_mentions_who_is_low_and_fails_for_what_stands_still(stage: Stage) -> None:
    row = stage.submit()
    lane, when = row.lane, timezone.now()
    assert check_money() == []
    seen = LaneMoney.objects.create(
        lane=lane, balance_wei=10**15, balance_at=when, low_since=when, runway_seconds=9000
    )
    [finding] = check_money()
    assert (finding.ok, finding.name) == (True, f"money of lane 31337/{lane.address}")
    assert finding.detail == "low: 0.001 ether left, lasts about 2 hours at the recent rate"
    seen.waits = True
    seen.save()
    [finding] = check_money()
    assert not finding.ok
    assert finding.detail.endswith("a transaction waits for money")
    assert "Send the address money" in finding.remedy


@pytest.mark.parametrize(
    ("wei", "words"),
    [
        (0, "0 ether"),
        (1, "less than 0.000001 ether"),
        (10**12, "0.000001 ether"),
        (1_999_999_999_999_999_999, "1.999999 ether"),
    ],
)
def test_amounts_are_shown_short_and_never_too_high(wei: int, words: str) -> None:
    assert money.about_ether(wei) == words
