"""Lanes and what people do to transactions, over REST. The chain is a real one; workers are not needed."""

from collections.abc import Callable

import pytest

from dalp.local.servers import AnvilServer
from signer.states import SubState
from tests.api.callers import Caller


@pytest.fixture
def stage(fresh_db: str, start_anvil: Callable[..., AnvilServer]) -> "object":
    from tests.integration.signer.stage import Stage

    return Stage(start_anvil(extra=["--no-mining"]))


@pytest.fixture
def operator(stage: object) -> Caller:
    return Caller("operator")


def path(stage: object, verb: str = "") -> str:
    return f"/lanes/31337/{stage.key.address.lower()}{verb}"  # type: ignore[attr-defined]


def test_lane_is_shown_paused_and_resumed(stage, operator: Caller) -> None:  # type: ignore[no-untyped-def]
    row = stage.submit()
    listed = operator.get("/lanes", chain_id=31337).json()["items"]
    assert [(lane["address"], lane["state"], lane["waiting"]) for lane in listed] == [
        (stage.key.address, "ACTIVE", 1)
    ]
    paused = operator.post(path(stage, "/pause"), {"reason": "audit"}, key=None)
    assert (paused.status_code, paused.json()["state"]) == (202, "PAUSED")
    assert paused.json()["state_reason"].startswith("audit")
    stage.drain()
    row.refresh_from_db()
    assert row.sub_state == "LANE_PAUSED"
    shown = operator.get(f"/transactions/{row.pk}").json()
    assert (shown["sub_state"], shown["why"]) == ("LANE_PAUSED", str(SubState.LANE_PAUSED.label))
    resumed = operator.post(path(stage, "/resume"), {}, key=None)
    assert (resumed.status_code, resumed.json()["state"]) == (202, "ACTIVE")
    stage.drain()
    assert operator.get(path(stage)).json()["in_flight"] == 1


def test_resync_answers_with_the_difference_and_acts_only_when_confirmed(stage, operator: Caller) -> None:  # type: ignore[no-untyped-def]
    from signer.models import Lane

    stage.submit()
    stage.drain()
    Lane.objects.update(next_nonce=7)
    looked = operator.post(path(stage, "/resync"), {}, key=None)
    assert looked.status_code == 200
    assert looked.json()["difference"]["proposed_next_nonce"] == 1
    assert (looked.json()["confirmed"], looked.json()["lane"]["next_nonce"]) == (False, 7)
    mended = operator.post(path(stage, "/resync"), {"confirm": True, "reason": "restored"}, key=None)
    assert (mended.json()["confirmed"], mended.json()["lane"]["next_nonce"]) == (True, 1)
    assert operator.post(path(stage, "/resync"), {"confirm": "yes"}, key=None).status_code == 422


def test_chain_that_gives_no_answer_is_said_to_be_worth_another_try(stage, operator: Caller) -> None:  # type: ignore[no-untyped-def]
    stage.submit()
    stage.anvil.stop()
    answer = operator.post(path(stage, "/resync"), {}, key=None)
    assert answer.status_code == 503
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["retryable"] is True


@pytest.mark.case("S56", "S57")
def test_transaction_is_cancelled_or_it_is_said_why_not(stage, operator: Caller) -> None:  # type: ignore[no-untyped-def]
    waiting, sent = stage.submit(), None
    cancelled = operator.post(f"/transactions/{waiting.pk}/cancel", {"reason": "wrong amount"}, key=None)
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "CANCELLED")
    sent = stage.submit()
    stage.drain()
    going = operator.post(f"/transactions/{sent.pk}/cancel", {}, key="once")
    assert (going.json()["state"], going.json()["sub_state"]) == ("BROADCASTING", "CANCELLING")
    again = operator.post(f"/transactions/{sent.pk}/cancel", {}, key="once")
    assert again["Idempotent-Replayed"] == "true"
    stage.drain()
    stage.mine()
    stage.watch()
    assert operator.get(f"/transactions/{sent.pk}").json()["state"] == "CANCELLED"
    late = operator.post(f"/transactions/{sent.pk}/cancel", {}, key=None)
    assert (late.status_code, late.json()["code"]) == (409, "TRANSACTION_NOT_IN_STATE")
    won = stage.submit()
    stage.drain()
    assert operator.post(f"/transactions/{won.pk}/cancel", {}, key=None).status_code == 202
    stage.mine()
    stage.watch()
    told = operator.get(f"/transactions/{won.pk}").json()
    assert (told["state"], told["sub_state"]) == ("COMPLETED", "CANCEL_LOST")


def test_transaction_is_sped_up_to_an_offer(stage, operator: Caller) -> None:  # type: ignore[no-untyped-def]
    row = stage.submit()
    stage.drain()
    [first] = operator.get(f"/transactions/{row.pk}").json()["attempts"]
    low = {"max_fee_per_gas_wei": first["max_fee_per_gas_wei"], "max_priority_fee_per_gas_wei": "1"}
    refused = operator.post(f"/transactions/{row.pk}/speed-up", low, key=None)
    assert refused.status_code == 409
    assert "takes no less than" in refused.json()["detail"]
    for half in ("max_fee_per_gas_wei", "max_fee_per_blob_gas_wei"):
        assert operator.post(f"/transactions/{row.pk}/speed-up", {half: "1"}, key=None).status_code == 422
    blobs = dict.fromkeys(
        ("max_fee_per_gas_wei", "max_priority_fee_per_gas_wei", "max_fee_per_blob_gas_wei"), str(10**11)
    )
    refused = operator.post(f"/transactions/{row.pk}/speed-up", blobs, key=None)
    assert (refused.status_code, "it carries no blobs" in refused.json()["detail"]) == (409, True)
    assert operator.post(f"/transactions/{row.pk}/speed-up", {}, key=None).status_code == 202
    stage.drain()
    attempts = operator.get(f"/transactions/{row.pk}").json()["attempts"]
    assert [attempt["state"] for attempt in attempts] == ["SENT", "SENT"]


def test_viewers_look_and_do_nothing(stage, operator: Caller) -> None:  # type: ignore[no-untyped-def]
    row = stage.submit()
    viewer = Caller("viewer")
    assert viewer.get("/lanes").status_code == 200
    for act in (path(stage, "/pause"), path(stage, "/resync"), f"/transactions/{row.pk}/cancel"):
        assert viewer.post(act, {}, key=None).status_code == 403
    assert operator.post("/lanes/31337/0x12/pause", {}, key=None).status_code == 404
    assert (
        operator.post("/transactions/01a20699-a6ba-7f31-95fd-f8eca95db812/cancel", {}, key=None).status_code
        == 404
    )
