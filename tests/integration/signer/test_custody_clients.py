"""Fireblocks and DFNS under the signer, on a chain: one execution each, whatever is lost, replaced or changed there."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.utils import timezone

import keyguard
from keyguard import handing_over
from keyguard.models import HandOver
from signer import control, lanes
from signer.models import Attempt, Incident, Lane, Transaction
from tests.fakes.credentials import VAULT, Credentials, close_clients
from tests.fakes.dfns import FakeDfns
from tests.fakes.fireblocks import FakeFireblocks
from tests.integration.signer.stage import RICH, Crash, Stage, crash_at

DFNS_KEY = "key-1abcd-2efgh-0123456789abcdef"
WHO = {"actor": "anna", "reason": "because"}


class Custody:
    """One of the two, with a key that has money, on the chain of a stage that has the counter."""

    def __init__(self, name: str, fake: Any, stage: Stage) -> None:
        self.name, self.fake, self.stage = name, fake, stage
        reference = VAULT if name == "fireblocks" else DFNS_KEY
        self.create = "/v1/transactions" if name == "fireblocks" else "/transactions"
        stage.rpc("anvil_setBalance", keyguard.bind_key("vault", name, reference).address, RICH)
        stage.deploy_counter()

    @property
    def asked_for(self) -> int:
        kept = self.fake.transactions if self.name == "fireblocks" else self.fake.entities
        return len(kept)


@pytest.fixture(scope="module")
def credentials() -> Credentials:
    return Credentials()


@pytest.fixture
def fireblocks(stage: Stage, credentials: Credentials, settings: Any) -> Iterator[Custody]:
    fake = FakeFireblocks("api-key-of-the-tests", credentials.rsa_public, stage.rpc)
    credentials.configure_fireblocks(settings, fake)
    yield Custody("fireblocks", fake, stage)
    close_clients()
    fake.stop()


@pytest.fixture
def dfns(stage: Stage, credentials: Credentials, settings: Any) -> Iterator[Custody]:
    fake = FakeDfns("token-of-the-tests", "cr-1", credentials.ed25519_public, stage.rpc)
    credentials.configure_dfns(settings, fake)
    yield Custody("dfns", fake, stage)
    close_clients()
    fake.stop()


@pytest.fixture(params=["fireblocks", "dfns"])
def custody(request: pytest.FixtureRequest) -> Custody:
    found: Custody = request.getfixturevalue(request.param)
    return found


def lane() -> Lane:
    return Lane.objects.get(in_custody=True)


def drain() -> None:
    lanes.drain(lane().pk)


def look() -> None:
    """Ask the custody about everything now, whenever it would be due."""
    Transaction.objects.filter(look_at__isnull=False).update(look_at=Now())
    drain()


def state(row: Transaction) -> tuple[str, str]:
    row.refresh_from_db()
    return row.state, row.sub_state


def test_calls_are_executed_with_the_custodys_nonces(custody: Custody) -> None:
    stage = custody.stage
    rows = [stage.record(each, sender="vault") for each in (7, 8)]
    drain()
    look()
    stage.settle()
    assert [state(row) for row in rows] == [("COMPLETED", "")] * 2
    assert [row.nonce for row in rows] == [0, 1]
    assert (stage.counted(7), stage.counted(8), custody.asked_for) == (1, 1, 2)


@pytest.mark.case("K24", "S74")
@pytest.mark.parametrize("fault", ["lose_answer", "lose_request"])
def test_lost_answers_lead_to_one_execution(custody: Custody, fault: str) -> None:
    stage = custody.stage
    getattr(custody.fake, fault)("POST", custody.create)
    row = stage.record(7, sender="vault")
    drain()
    assert state(row) == ("SIGNING", "CUSTODY_SILENT")
    if fault == "lose_request":
        look()
        HandOver.objects.update(asked_at=Now() - handing_over.ASKING)
    look()
    look()
    stage.settle()
    assert (state(row)[0], custody.asked_for, stage.counted(7)) == ("COMPLETED", 1, 1)


@pytest.mark.case("K24", "K49", "S74")
def test_worker_that_dies_on_either_side_of_the_custody_leads_to_one_request(
    custody: Custody, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, rows = custody.stage, []
    points = ["signer.planned", "signer.handing_over", "signer.handed_over", "signer.custody_sent"]
    for number, point in enumerate(points, start=1):
        rows.append(stage.record(number, sender="vault"))
        crash_at(monkeypatch, point)
        with pytest.raises(Crash):
            drain()
            look()
        Lane.objects.update(lease_until=None)
        close_clients()  # another process knows nothing of the first one's answers
        look()
        look()
        assert custody.asked_for == number, point
    stage.settle()
    assert [state(row) for row in rows] == [("COMPLETED", "")] * 4
    assert [stage.counted(number) for number in range(1, 5)] == [1] * 4
    assert Attempt.objects.filter(transaction__in=rows).count() == 4


@pytest.mark.case("K25")
def test_what_its_people_have_to_approve_holds_up_nothing_behind_it(custody: Custody) -> None:
    stage = custody.stage
    custody.fake.hold = True
    held = stage.record(7, sender="vault")
    drain()
    look()
    assert state(held) == ("SIGNING", "AWAITING_APPROVAL")
    custody.fake.hold = False
    behind = stage.record(8, sender="vault")
    drain()
    look()
    stage.watch()
    assert (state(behind), behind.nonce) == (("COMPLETED", ""), 0)
    custody.fake.approve(held.pk)
    look()
    stage.settle()
    assert (state(held), held.nonce, stage.counted(7)) == (("COMPLETED", ""), 1, 1)


@pytest.mark.case("K25")
def test_called_off_by_a_person_or_by_its_time_before_anybody_approved_it(fireblocks: Custody) -> None:
    fireblocks.fake.hold = True
    row = fireblocks.stage.record(7, sender="vault")
    drain()
    look()
    control.cancel_transaction(row, **WHO)
    drain()
    assert state(row)[0] == "CANCELLED"
    assert fireblocks.fake.by_external_id(row.pk).status == "CANCELLED"
    late = fireblocks.stage.record(8, sender="vault", valid_until=timezone.now() + timedelta(seconds=60))
    drain()
    Transaction.objects.filter(pk=late.pk).update(valid_until=timezone.now() - timedelta(seconds=60))
    drain()
    assert (state(late)[0], (late.error or {})["code"]) == ("EXPIRED", "TRANSACTION_EXPIRED")
    assert fireblocks.fake.by_external_id(late.pk).status == "CANCELLED", "and not only here"
    assert fireblocks.stage.counted(7) == 0


@pytest.mark.case("K26")
def test_refusal_ends_it_and_a_word_that_nobody_knows_does_not(custody: Custody) -> None:
    custody.fake.keep = True
    row = custody.stage.record(7, sender="vault")
    drain()
    custody.fake.shows = {"status": "TELEPORTED", "txHash": ""}
    look()
    assert state(row) == ("SIGNING", "WITH_CUSTODY")
    custody.fake.shows = {}
    custody.fake.end(
        row.pk, *(("BLOCKED", "BY_POLICY") if custody.name == "fireblocks" else ("Rejected", "no"))
    )
    look()
    assert state(row)[0] == "FAILED"
    assert (row.error or {})["code"] == "CUSTODY_REFUSED"


@pytest.mark.case("K22")
def test_custody_that_sends_something_else_is_an_incident_and_no_success(custody: Custody) -> None:
    custody.fake.alter = {"value": 5, "data": "0x"}
    row = custody.stage.record(7, sender="vault")
    drain()
    look()
    custody.stage.watch()
    assert state(row) == ("SIGNING", "CUSTODY_ALTERED")
    assert lane().state == "BLOCKED"
    assert "CUSTODY_ALTERED" in Incident.objects.values_list("kind", flat=True)


@pytest.mark.parametrize("times", [1, 2])
def test_transaction_that_fireblocks_replaced_by_one_of_its_own_is_followed(
    fireblocks: Custody, times: int
) -> None:
    stage = fireblocks.stage
    stage.rpc("evm_setAutomine", False)
    row = stage.record(7, sender="vault")
    drain()
    look()
    assert state(row) == ("BROADCASTING", "")
    for _ in range(times):
        fireblocks.fake.replace(row.pk)
    stage.mine()
    stage.watch()
    assert state(row)[0] == "BROADCASTING", "the nonce is used by a hash that is not known"
    look()
    stage.settle()
    assert (state(row)[0], stage.counted(7)) == ("COMPLETED", 1)
    first, last = stage.attempts(row.pk)
    assert (first.nonce, row.winner_id) == (last.nonce, last.pk)


def test_transaction_that_fireblocks_people_dropped_fails_when_the_nonce_is_used(fireblocks: Custody) -> None:
    stage = fireblocks.stage
    stage.rpc("evm_setAutomine", False)
    row = stage.record(7, sender="vault")
    drain()
    look()
    fireblocks.fake.replace(row.pk, by_nothing=True)
    look()
    stage.mine()
    stage.settle()
    assert (state(row)[0], (row.error or {})["code"]) == ("FAILED", "CUSTODY_DROPPED")
    assert stage.counted(7) == 0


@pytest.mark.case("K27", "K28")
def test_busy_custody_and_a_wrong_clock_cost_time_and_nothing_else(custody: Custody) -> None:
    custody.fake.storm(1, retry_after="20")
    row = custody.stage.record(7, sender="vault")
    drain()
    assert state(row) == ("SIGNING", "CUSTODY_SILENT")
    seen = len(custody.fake.requests)
    look()
    assert len(custody.fake.requests) == seen
    close_clients()
    HandOver.objects.update(asked_at=Now() - handing_over.ASKING)
    look()
    look()
    custody.stage.settle()
    assert (state(row)[0], custody.stage.counted(7)) == ("COMPLETED", 1)
