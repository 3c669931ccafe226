"""A signature in two commits: what cannot be in the trail is not done, and what dies in between does no harm."""

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from keyguard import create_key, keep, sign_transactions
from keyguard.errors import (
    AuditFailedError,
    KeyguardSealedError,
    SignatureUnderWayError,
)
from keyguard.models import Sealing, SigningRecord
from keyguard.policies.models import Spending
from tests.integration.keyguard.policies import ALLOW_ALL, limit, put_in_force
from tests.integration.keyguard.requests import request
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
