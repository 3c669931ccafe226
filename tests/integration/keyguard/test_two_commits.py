"""A signature in two commits: what cannot be in the trail is not done, and what dies in between does no harm."""

from collections.abc import Callable
from contextlib import nullcontext
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection, transaction

from keyguard import bind_key, create_key, custodians, hand_over, keep, sign_transactions
from keyguard.errors import (
    AuditFailedError,
    KeyguardSealedError,
    SignatureUnderWayError,
)
from keyguard.lifecycle import act
from keyguard.models import HandOver, Sealing, SigningRecord
from keyguard.policies.models import Spending
from keyguard.sealing import seal
from keyguard.states import KeyVerb
from tests.integration.keyguard.policies import ALLOW_ALL, limit, put_in_force
from tests.integration.keyguard.requests import request
from tests.integration.keyguard.test_handing_over import Vault
from tests.integration.keyguard.test_handing_over import request as call_of
from tests.integration.keyguard.trail import Died, entries, faults

# --- What cannot be in it is not done ---------------------------------------------------------------------

REFUSING = """
CREATE FUNCTION refuse_entry() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'could not extend file' USING ERRCODE = '{state}'; END $$;
CREATE TRIGGER refuse_entry BEFORE INSERT ON keyguard_auditentry FOR EACH ROW
    WHEN (NEW.event = '{event}') EXECUTE FUNCTION refuse_entry();
"""


def refuse_entries(event: str, state: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(REFUSING.format(event=event, state=state))


def take_entries_again() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER refuse_entry ON keyguard_auditentry")


@pytest.mark.case("K48")
@pytest.mark.parametrize("event", ["intended", "signed"])
@pytest.mark.parametrize(
    "state", [pytest.param("53100", id="disk full"), pytest.param("55P03", id="lock timeout")]
)
def test_no_signature_leaves_that_the_trail_does_not_take_and_keyguard_seals_itself(
    fresh_db: str, event: str, state: str
) -> None:
    key, other = create_key("treasury"), create_key("other")
    refuse_entries(event, state)
    with pytest.raises(AuditFailedError):
        sign_transactions([request(key.address)])
    assert not SigningRecord.objects.filter(state="SIGNED").exists()
    sealing = Sealing.objects.get()
    assert (sealing.backend, sealing.code, sealing.lifted_at) == ("", "KEYGUARD_AUDIT_FAILED", None)
    take_entries_again()
    with pytest.raises(KeyguardSealedError):
        sign_transactions([request(other.address, "other")])
    call_command("unseal", "--reason", "the disk has room again", stdout=StringIO())
    assert sign_transactions([request(other.address, "other")])
    assert faults() == []


@pytest.mark.case("K48")
@pytest.mark.parametrize("event", ["key_act", "call_intended", "call_reported", "sealed", "asked"])
def test_nothing_else_is_done_either_that_the_trail_does_not_take(
    fresh_db: str, event: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a connection of its own: what people do is in transactions that are undone with it."""
    vault = Vault()
    monkeypatch.setitem(custodians.CUSTODIANS, "vault", lambda: vault)
    bind_key("far", "vault", "vault-1")
    key = create_key("treasury")
    settings.KEYGUARD_OPERATIONS_GROUP = "officers" if event == "asked" else ""
    do: dict[str, Callable[[], Any]] = {
        "key_act": lambda: act(key, KeyVerb.RETIRE, "ann", "it is old"),
        "call_intended": lambda: hand_over(call_of(vault), timeout_seconds=1),
        "call_reported": lambda: hand_over(call_of(vault), timeout_seconds=1),
        "sealed": lambda: seal("a drill", backend="database", actor="ann"),
        "asked": lambda: act(key, KeyVerb.DESTROY, "ann", "it is old"),
    }
    if event == "asked":
        act(key, KeyVerb.RETIRE, "ann", "it is old")
    refuse_entries(event, "53100")
    around = nullcontext() if "call" in event else transaction.atomic()
    with pytest.raises(AuditFailedError), around:
        do[event]()
    assert [(row.backend, row.code) for row in Sealing.objects.all()] == [("", "KEYGUARD_AUDIT_FAILED")]
    assert not HandOver.objects.exclude(state="ASKED").exists()
    take_entries_again()
    with pytest.raises(KeyguardSealedError):
        sign_transactions([request(create_key("other").address)])


def test_seal_that_cannot_be_written_at_first_is_written_by_whoever_comes_next(
    fresh_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = create_key("treasury")
    refuse_entries("intended", "53100")
    real = Sealing.objects.create
    monkeypatch.setattr(Sealing.objects, "create", full)
    with pytest.raises(AuditFailedError):
        sign_transactions([request(key.address)])
    take_entries_again()
    for _ in range(2):
        with pytest.raises(KeyguardSealedError):
            sign_transactions([request(key.address)])
    assert not Sealing.objects.exists()
    monkeypatch.setattr(Sealing.objects, "create", real)
    keep()
    assert Sealing.objects.get().code == "KEYGUARD_AUDIT_FAILED"
    with pytest.raises(KeyguardSealedError):
        sign_transactions([request(key.address)])


def full(**_: Any) -> Any:
    raise OperationalError("no space left on device")


@pytest.mark.parametrize("state", ["57P01", "08006", "40P01"])
def test_database_that_is_away_for_a_moment_seals_nothing(fresh_db: str, state: str) -> None:
    key = create_key("treasury")
    refuse_entries("intended", state)
    with pytest.raises(Exception, match="extend") as caught:
        sign_transactions([request(key.address)])
    assert not isinstance(caught.value, AuditFailedError)
    take_entries_again()
    assert not Sealing.objects.exists()
    assert sign_transactions([request(key.address)])


# --- A process that dies between intent and answer --------------------------------------------------------


@pytest.mark.case("K49")
@pytest.mark.sqlite_too
@pytest.mark.parametrize("point", ["keyguard.intended", "keyguard.signed"])
def test_intent_whose_process_died_is_closed_and_its_limit_given_back(
    fresh_db: str, settings: Any, monkeypatch: pytest.MonkeyPatch, die: Callable[[str], None], point: str
) -> None:
    key = create_key("treasury")
    put_in_force(*ALLOW_ALL, limit(1, of="count"))
    die(point)
    with pytest.raises(Died):
        sign_transactions([request(key.address)])
    die("")
    assert SigningRecord.objects.get().state == "INTENT"
    assert Spending.objects.count() == 1
    monkeypatch.setattr("keyguard.signing.PATIENCE_SECONDS", 0)
    with pytest.raises(SignatureUnderWayError):  # the process may only be slow
        sign_transactions([request(key.address)])
    keep()
    assert SigningRecord.objects.get().state == "INTENT"
    settings.KEYGUARD = {**settings.KEYGUARD, "abandoned_seconds": 0}
    keep()
    assert (SigningRecord.objects.get().state, SigningRecord.objects.get().error) == (
        "REFUSED",
        "KEYGUARD_ABANDONED",
    )
    assert not Spending.objects.exists()
    assert faults() == []
    assert sign_transactions([request(key.address)])
    assert [one.event for one in entries(key)][1:] == ["intended", "refused", "intended", "signed"]
    assert faults() == []


@pytest.mark.case("K49")
@pytest.mark.sqlite_too
def test_whoever_asks_again_takes_over_before_the_sweep_does(
    fresh_db: str, die: Callable[[str], None]
) -> None:
    key = create_key("treasury")
    die("keyguard.signed")
    with pytest.raises(Died):
        sign_transactions([request(key.address)])
    die("")
    assert sign_transactions([request(key.address)])


@pytest.mark.case("K49")
def test_answer_that_was_committed_is_the_answer(fresh_db: str, die: Callable[[str], None]) -> None:
    key = create_key("treasury")
    die("keyguard.concluded")
    with pytest.raises(Died):
        sign_transactions([request(key.address)])
    die("")
    (signed,) = sign_transactions([request(key.address)])
    assert signed.raw == bytes(SigningRecord.objects.get().raw)


@pytest.mark.case("K49")
def test_process_that_was_only_slow_gives_nothing_of_the_first_time_away(
    fresh_db: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keyguard import crashpoints

    key, passed = create_key("treasury"), []

    def take_over(name: str) -> None:
        if name == "keyguard.signed" and not passed:
            passed.append(name)
            settings.KEYGUARD = {**settings.KEYGUARD, "abandoned_seconds": 0}
            keep()

    monkeypatch.setattr(crashpoints, "_reached", [take_over])
    (signed,) = sign_transactions([request(key.address)])
    assert sorted(record.state for record in SigningRecord.objects.all()) == ["REFUSED", "SIGNED"]
    assert SigningRecord.objects.get(state="SIGNED").hash == signed.hash
    assert faults() == []


@pytest.mark.case("K12")
def test_seal_during_a_signature_lets_it_finish_and_no_other_begin(
    fresh_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keyguard import crashpoints, sealing

    key = create_key("treasury")
    monkeypatch.setattr(
        crashpoints,
        "_reached",
        [lambda name: sealing.seal("a drill", actor="ann") if name == "keyguard.intended" else None],
    )
    assert sign_transactions([request(key.address)])
    with pytest.raises(KeyguardSealedError):
        sign_transactions([request(key.address, "second")])
    assert faults() == []
