"""What is asked and decided before a nonce is given: simulation, reasons, funds, other chains' fees, people's approval."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F

import keyguard
from keyguard import ApprovalPendingError, SigningRequest
from keyguard.policies import publishing
from keyguard.policies.models import Question
from signer import control, sweeping
from signer.models import Incident, Transaction
from tests.integration.keyguard.policies import ALLOW_ALL, ask, person, put_in_force
from tests.integration.signer.stage import RICH, Stage

# CALLDATASIZE, CALLDATACOPY, REVERT with all of it.
REVERTS_WITH_ITS_DATA = "0x366000600037366000fd"
CONTRACT = "0x" + "77" * 20


def state(row: Transaction) -> tuple[str, str]:
    row.refresh_from_db()
    return row.state, row.sub_state


@pytest.mark.case("S72", "PC14")
def test_call_that_would_revert_uses_no_nonce_and_says_why_by_its_abi(manual: Stage) -> None:
    manual.rpc("anvil_setCode", CONTRACT, REVERTS_WITH_ITS_DATA)
    error = {"type": "error", "name": "TooLate", "inputs": [{"name": "by", "type": "uint256"}]}
    from signer.abi import Contract, encode_arguments, selector

    data = "0x" + (selector(error) + encode_arguments(error["inputs"], [42])).hex()
    known = manual.submit(to=CONTRACT, data=data, value=0, error_abi=(error,))
    unknown = manual.submit(to=CONTRACT, data=data, value=0)
    behind = manual.submit()
    manual.drain()
    assert state(known)[0] == state(unknown)[0] == "FAILED"
    assert known.error == {"code": "TRANSACTION_WOULD_REVERT", "message": "TooLate(42)"}
    assert selector(error).hex() in unknown.error["message"]
    assert (state(behind)[0], behind.nonce) == ("BROADCASTING", 0)
    assert Contract([error]).errors == [error]


@pytest.mark.parametrize("simulate", [True, None])
def test_gas_limit_of_ones_own_is_simulated_only_when_asked_for(manual: Stage, simulate: bool | None) -> None:
    manual.rpc("anvil_setCode", CONTRACT, REVERTS_WITH_ITS_DATA)
    row = manual.submit(to=CONTRACT, value=0, gas_limit=50_000, simulate=simulate)
    manual.drain()
    assert state(row)[0] == ("FAILED" if simulate else "BROADCASTING")


@pytest.mark.case("S35", "PC9")
def test_sum_in_flight_is_what_must_be_paid_and_one_alert_tells_of_it(manual: Stage) -> None:
    manual.rpc("anvil_setBalance", manual.key.address, hex(10**16))
    rows = [manual.submit(value=4 * 10**15) for _ in range(3)]
    manual.drain()
    manual.drain()
    assert [state(row) for row in rows[:2]] == [("BROADCASTING", "")] * 2
    assert state(rows[2]) == ("QUEUED", "INSUFFICIENT_FUNDS")
    assert Incident.objects.filter(kind="LOW_BALANCE", closed_at=None).count() == 1
    manual.rpc("anvil_setBalance", manual.key.address, RICH)
    manual.drain()
    assert state(rows[2]) == ("BROADCASTING", "")
    assert not Incident.objects.filter(kind="LOW_BALANCE", closed_at=None).exists()


class Asking:
    """Keyguard as it is where people are asked first: what they have not approved is pending."""

    def __init__(self) -> None:
        self.approved = False
        self.sign = keyguard.sign_transactions

    def __call__(self, requests: Sequence[SigningRequest]) -> Any:
        if not self.approved:
            raise ApprovalPendingError("people are asked")
        return self.sign(requests)


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Asking:
    asking = Asking()
    monkeypatch.setattr("signer.signing.keyguard.sign_transactions", asking)
    return asking


def test_pending_approval_holds_no_nonce_and_is_priced_anew_when_it_comes(
    manual: Stage, asking: Asking
) -> None:
    row = manual.submit()
    manual.drain()
    assert (state(row), row.nonce) == (("PENDING_APPROVAL", ""), None)
    manual.drain()
    assert state(row)[0] == "PENDING_APPROVAL", "it is not asked for again and again"
    manual.rpc("anvil_setNextBlockBaseFeePerGas", hex(50 * 10**9))
    manual.mine()
    asking.approved = True
    assert control.approve([row.pk]) == 1
    manual.drain()
    assert (state(row)[0], row.nonce) == ("BROADCASTING", 0)
    [attempt] = manual.attempts(row.pk)
    assert attempt.max_fee_per_gas_wei > 50 * 10**9


def test_call_that_came_to_revert_while_people_thought_fails_without_a_nonce(
    manual: Stage, asking: Asking
) -> None:
    row = manual.submit(to=CONTRACT, value=0)
    manual.drain()
    manual.rpc("anvil_setCode", CONTRACT, REVERTS_WITH_ITS_DATA)
    asking.approved = True
    control.approve([row.pk])
    manual.drain()
    assert (state(row)[0], row.error["code"], row.nonce) == ("FAILED", "TRANSACTION_WOULD_REVERT", None)


def test_what_people_refuse_fails(manual: Stage, asking: Asking) -> None:
    row = manual.submit()
    manual.drain()
    assert control.reject([row.pk], "not this month") == 1
    assert state(row)[0] == "FAILED"
    assert row.error == {"code": "TRANSACTION_NOT_APPROVED", "message": "not this month"}


def test_people_who_approve_have_it_signed_and_people_who_refuse_end_it(manual: Stage) -> None:
    put_in_force(*ALLOW_ALL, ask(approvals=1, value={"at_least": 5}))
    rows = [manual.submit(value=value) for value in (1, 5, 6, 7)]
    manual.drain()
    assert [state(row)[0] for row in rows] == ["BROADCASTING", *["PENDING_APPROVAL"] * 3]
    sweeping.answered_approvals()
    assert state(rows[1])[0] == "PENDING_APPROVAL"
    ann = person("ann", "treasury")
    for row, approves in ((rows[1], True), (rows[2], False)):
        question = Question.objects.get(subject=str(row.pk))
        assert question.shown["value"] == str(row.value)
        publishing.vote(question, ann, approves, question.content_hash, "I have looked")
    Question.objects.filter(state="OPEN").update(expires_at=F("expires_at") - timedelta(days=1))
    sweeping.answered_approvals()
    manual.drain()
    assert [state(row)[0] for row in rows] == ["BROADCASTING", "BROADCASTING", "FAILED", "FAILED"]
    assert rows[2].error == {"code": "TRANSACTION_NOT_APPROVED", "message": "ann refused it: I have looked"}
    assert rows[3].error is not None
    assert "nobody approved it in time" in rows[3].error["message"]
    assert [row.nonce for row in rows] == [0, 1, None, None]
    manual.later(100)
    manual.drain()
    assert len(manual.attempts(rows[0].pk)) == 2, "raised"
    assert Question.objects.count() == 3, "raising asks nobody again"


def test_what_the_policy_denies_fails_without_a_nonce_and_keeps_nothing_else_waiting(manual: Stage) -> None:
    put_in_force(*ALLOW_ALL, {"name": "much", "effect": "deny", "when": {"value": {"at_least": 5}}})
    rows = [manual.submit(value=value) for value in (1, 5, 2)]
    manual.drain()
    assert [(state(row)[0], row.nonce) for row in rows] == [
        ("BROADCASTING", 0),
        ("FAILED", None),
        ("BROADCASTING", 1),
    ]
    assert rows[1].error == {"code": "KEYGUARD_POLICY_DENIED", "message": "much: the rule denies it"}
