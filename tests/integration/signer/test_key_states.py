"""Lanes of keys that may not sign: what waits, what fails, and that neither takes a nonce. The chain counts."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from keyguard import create_key, lifecycle
from keyguard.states import KeyVerb
from signer import lanes
from signer.models import Attempt, Lane, Transaction
from tests.integration.signer.stage import Stage

DAY = timedelta(days=1)
Times = dict[str, Any]


def shown(row: Transaction) -> tuple[str, str, int | None]:
    row.refresh_from_db()
    return row.state, row.sub_state, row.nonce


def act(stage: Stage, verb: KeyVerb, **times: Any) -> None:
    stage.key.refresh_from_db()
    lifecycle.act(stage.key, verb, "ann", "a test of it", **times)


@pytest.fixture
def used(stage: Stage) -> Stage:
    """A lane that has sent already: the counter's deployment has nonce 0."""
    stage.deploy_counter()
    return stage


def counts(stage: Stage, numbers: range) -> list[int]:
    return [stage.counted(number) for number in numbers]


def sent_by_key(stage: Stage) -> int:
    return int(stage.rpc("eth_getTransactionCount", stage.key.address, "pending"), 16)


WAITING: dict[str, tuple[KeyVerb, Callable[[], Times], KeyVerb]] = {
    "suspended": (KeyVerb.SUSPEND, dict, KeyVerb.REACTIVATE),
    "not yet valid": (KeyVerb.VALIDITY, lambda: {"not_before": timezone.now() + DAY}, KeyVerb.VALIDITY),
    "expired": (KeyVerb.VALIDITY, lambda: {"not_after": timezone.now() - DAY}, KeyVerb.VALIDITY),
}


@pytest.mark.case("K50")
@pytest.mark.parametrize("how", WAITING)
def test_what_waits_for_a_key_that_may_not_sign_now_has_no_nonce_and_completes_when_it_may(
    used: Stage, how: str
) -> None:
    taken, times, back = WAITING[how]
    act(used, taken, **times())
    rows = [used.record(number) for number in range(3)]
    for _ in range(3):
        used.drain()
        assert [shown(row) for row in rows] == [("QUEUED", "SIGNER_UNAVAILABLE", None)] * 3
    assert (used.lane.next_nonce, used.lane.state, sent_by_key(used)) == (1, "ACTIVE", 1)
    assert not Attempt.objects.filter(transaction__in=rows).exists()
    act(used, back)
    used.settle()
    assert [shown(row) for row in rows] == [("COMPLETED", "", nonce) for nonce in (1, 2, 3)]
    assert counts(used, range(3)) == [1, 1, 1]
    assert sent_by_key(used) == 4


@pytest.mark.case("K50")
@pytest.mark.parametrize(
    ("verb", "code"),
    [(KeyVerb.RETIRE, "KEYGUARD_KEY_RETIRED"), (KeyVerb.COMPROMISED, "KEYGUARD_KEY_COMPROMISED")],
)
def test_what_a_key_is_asked_for_that_never_signs_again_fails_and_takes_no_nonce(
    used: Stage, verb: KeyVerb, code: str
) -> None:
    before = used.record(0)
    act(used, verb)
    after = used.record(1)
    used.settle()
    for row in (before, after):
        assert shown(row) == ("FAILED", "", None)
        assert row.error["code"] == code
    assert (used.lane.next_nonce, used.lane.state, sent_by_key(used)) == (1, "ACTIVE", 1)
    assert not Attempt.objects.filter(transaction__in=[before, after]).exists()
    assert counts(used, range(2)) == [0, 0]


@pytest.mark.case("K50")
def test_a_lane_whose_key_is_suspended_holds_up_no_other(used: Stage) -> None:
    other = create_key("other")
    used.fund(other.address)
    act(used, KeyVerb.SUSPEND)
    held, free = used.record(0), used.record(1, sender="other")
    for lane in Lane.objects.order_by("created_at"):
        while lanes.drain(lane.pk):
            pass
    used.watch()
    assert shown(held) == ("QUEUED", "SIGNER_UNAVAILABLE", None)
    assert shown(free)[0] == "COMPLETED"
    assert counts(used, range(2)) == [0, 1]


@pytest.mark.case("K50")
def test_what_is_in_flight_when_the_key_is_suspended_is_seen_through(used: Stage) -> None:
    row = used.record(0)
    used.drain()
    act(used, KeyVerb.SUSPEND)
    later = used.record(1)
    used.drain()
    used.watch()
    assert shown(row) == ("COMPLETED", "", 1)
    assert shown(later) == ("QUEUED", "SIGNER_UNAVAILABLE", None)
    act(used, KeyVerb.RETIRE)
    used.settle()
    assert shown(later) == ("FAILED", "", None)
    assert used.lane.next_nonce == 2
