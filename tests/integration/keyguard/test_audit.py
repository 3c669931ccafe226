"""The audit trail shows whatever was done to it; what cannot be in it is not done."""

import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from keyguard import create_key, sign_message, sign_transactions, verify_trail
from keyguard.audit import codes, heads
from keyguard.audit.models import AuditChain, AuditEntry, AuditHead
from keyguard.errors import (
    KeyNotActiveError,
    PolicyDeniedError,
)
from keyguard.lifecycle import act
from keyguard.models import Key, KeyAct, SigningRecord
from keyguard.states import KeyVerb
from tests.integration.keyguard.policies import ALLOW_ALL, put_in_force
from tests.integration.keyguard.requests import TO, drop_triggers, request
from tests.integration.keyguard.trail import Died, entries, faults
from tests.threads import at_once


@pytest.fixture(autouse=True)
def no_pause(settings: Any) -> None:
    """Let heads follow one another without a pause."""
    settings.KEYGUARD = {**settings.KEYGUARD, "head_seconds": 0}


def test_each_batch_has_an_entry_before_it_is_signed_and_one_after(key: Key) -> None:
    sign_transactions([request(key.address, f"r{n}", nonce=n) for n in range(3)])
    assert [(one.seq, one.event) for one in entries(key)] == [
        (1, "key_added"),
        (2, "intended"),
        (3, "signed"),
    ]
    assert set(SigningRecord.objects.values_list("intent_seq", "result_seq")) == {(2, 3)}
    sign_transactions([request(key.address, "r0")])  # the first answer again: nothing happened
    assert len(entries(key)) == 3
    assert faults() == []


def test_refusals_and_what_people_do_are_in_it(key: Key) -> None:
    put_in_force()
    with pytest.raises(PolicyDeniedError):
        sign_transactions([request(key.address)])
    act(key, KeyVerb.SUSPEND, "ann", "for a look")
    assert [one.event for one in entries(key)] == ["key_added", "refused", "key_act"]
    general = AuditEntry.objects.filter(chain__name="keyguard").order_by("seq")
    assert [one.event for one in general] == ["policy_drafted", "policy_in_force"]
    assert faults() == []


def test_suspended_key_is_in_the_trail_as_suspended(key: Key) -> None:
    act(key, KeyVerb.SUSPEND, "ann", "for a look")
    with pytest.raises(KeyNotActiveError):
        sign_transactions([request(key.address)])
    act(key, KeyVerb.REACTIVATE, "ann", "all is well")
    assert faults() == []


def test_key_of_the_trail_may_be_replaced_and_is_missed_when_it_is_gone(key: Key, settings: Any) -> None:
    settings.KEYGUARD_AUDIT_KEY = "11" * 32
    sign_message(key.address, b"one", "one")
    settings.KEYGUARD_AUDIT_KEY, settings.KEYGUARD_AUDIT_KEY_FALLBACKS = "22" * 32, ["11" * 32]
    sign_message(key.address, b"two", "two")
    assert faults() == []
    settings.KEYGUARD_AUDIT_KEY_FALLBACKS = []
    assert faults() == [(str(key.pk), 2)]


@pytest.mark.sqlite_too
def test_many_who_sign_with_one_key_make_one_chain(fresh_db: str) -> None:
    key = create_key("treasury")
    at_once(8, lambda n: [sign_message(key.address, b"hello", f"{n}-{m}") for m in range(5)])
    assert [one.seq for one in entries(key)] == list(range(1, 82))
    assert faults() == []


# --- What is done to it -----------------------------------------------------------------------------------


def edit(number: int, **changes: Any) -> Callable[[Key], None]:
    return lambda key: change(AuditEntry.objects.filter(chain__key=key, seq=number), **changes)


def change(rows: Any, **changes: Any) -> None:
    assert rows.update(**changes)


def remove(number: int) -> Callable[[Key], None]:
    return lambda key: AuditEntry.objects.filter(chain__key=key, seq=number).delete()


def swap(key: Key) -> None:
    two, three = entries(key)[1:3]
    change(AuditEntry.objects.filter(pk=two.pk), seq=99)
    change(AuditEntry.objects.filter(pk=three.pk), seq=2)
    change(AuditEntry.objects.filter(pk=two.pk), seq=3)


def put_in(key: Key) -> None:
    last = entries(key)[-1]
    last.pk, last.seq, last.body = None, last.seq + 1, "{}"
    last.save(force_insert=True)
    change(AuditChain.objects.filter(key=key), seq=last.seq)


def cut(key: Key) -> None:
    """As if the last signature had never been: entries, records and the chain's own row."""
    kept = entries(key)[4]
    AuditEntry.objects.filter(chain__key=key, seq__gt=5).delete()
    SigningRecord.objects.filter(intent_seq__gt=5).delete()
    change(AuditChain.objects.filter(key=key), seq=5, mac=bytes(kept.mac), headed_seq=0)


def made_anew(key: Key) -> None:
    """By somebody who may write everything, and has no key of the trail."""
    before, chain = b"", AuditChain.objects.get(key=key)
    for one in entries(key):
        mac = codes.code(b"\7" * 32, before, chain.name, one.seq, one.at.isoformat(), one.event, one.body)
        change(AuditEntry.objects.filter(pk=one.pk), mac=mac)
        before = mac
    change(AuditChain.objects.filter(key=key), mac=before)


def another_record(key: Key) -> None:
    record = SigningRecord.objects.filter(intent_seq=4).get()
    record.pk, record.idempotency_key = None, "never asked for"
    record.save(force_insert=True)


def record(**changes: Any) -> Callable[[Key], None]:
    return lambda key: change(SigningRecord.objects.filter(intent_seq=4), **changes)


ATTACKS: dict[str, tuple[Callable[[Key], Any], int]] = {
    "entry edited": (edit(3, body='{"records":0}'), 3),
    "entry given another time": (edit(3, at=timezone.now()), 3),
    "entry called something else": (edit(4, event="looked"), 4),
    "entry deleted": (remove(3), 3),
    "entries in another order": (swap, 2),
    "entry put in": (put_in, 8),
    "last entry deleted": (remove(7), 7),
    "end cut off": (cut, 6),
    "made anew without the key": (made_anew, 1),
    "record edited": (record(to=TO.lower()), 4),
    "amount in a record edited": (record(value=1), 4),
    "signature exchanged": (record(signature=b"\1" * 65), 5),
    "record deleted": (lambda key: SigningRecord.objects.filter(intent_seq=4).delete(), 4),
    "record put in": (another_record, 4),
    "record put in beside the trail": (
        lambda key: SigningRecord.objects.create(
            key=key, kind="MESSAGE", idempotency_key="x", state="REFUSED", error="X"
        ),
        0,
    ),
    "address of the key edited": (lambda key: change(Key.objects.filter(pk=key.pk), address=TO), 1),
    "key given back to work": (lambda key: change(Key.objects.filter(pk=key.pk), state="ACTIVE"), 7),
}


@pytest.mark.case("K47")
@pytest.mark.sqlite_too
@pytest.mark.parametrize("attack", ATTACKS)
def test_whatever_is_done_to_the_trail_is_found_where_it_was_done(key: Key, attack: str) -> None:
    for number in range(2):
        sign_transactions([request(key.address, f"r{number}", nonce=number)])
    sign_message(key.address, b"hello", "message")
    assert heads.make_head()
    if attack == "key given back to work":
        act(key, KeyVerb.COMPROMISED, "ann", "it was seen elsewhere")
    assert faults() == []
    drop_triggers(
        "keyguard_auditentry", "keyguard_auditchain", "keyguard_signingrecord", "keyguard_audithead"
    )
    do, seq = ATTACKS[attack]
    do(key)
    if attack == "key given back to work":
        seq = 8
    assert faults()[0] == (str(key.pk), seq)


@pytest.mark.case("K47")
@pytest.mark.sqlite_too
def test_what_people_did_and_said_is_found_when_it_was_altered_or_is_gone(key: Key) -> None:
    act(key, KeyVerb.SUSPEND, "ann", "for a look")
    policy = put_in_force(*ALLOW_ALL)
    assert faults() == []
    drop_triggers("keyguard_policy", "keyguard_keyact")
    change(type(policy).objects.filter(pk=policy.pk), author="somebody else")
    assert faults() == [("keyguard", 1)]
    KeyAct.objects.update(actor="bob")
    assert faults() == [(str(key.pk), 2), ("keyguard", 1)] or faults() == [("keyguard", 1), (str(key.pk), 2)]
    KeyAct.objects.all().delete()
    assert (str(key.pk), 2) in faults()


# --- Heads ------------------------------------------------------------------------------------------------


@pytest.mark.case("K47")
@pytest.mark.sqlite_too
def test_heads_are_signed_by_the_key_that_the_settings_name(key: Key, settings: Any) -> None:
    settings.KEYGUARD_AUDIT_SIGNER = create_key("auditor").alias
    first = heads.make_head()
    assert first
    assert heads.make_head() is None, "nothing has moved"
    sign_message(key.address, b"hello", "message")
    second = heads.make_head()
    assert second
    assert heads.signer_of(second) == second.signer == Key.objects.get(alias="auditor").address
    assert set(json.loads(second.heads)) == {str(key.pk)}
    assert faults() == []
    noted = {1: first.hash, 2: second.hash}
    assert not list(verify_trail(noted=noted))
    drop_triggers("keyguard_audithead")
    AuditHead.objects.filter(number=2).delete()
    assert [str(fault) for fault in verify_trail(noted=noted)] == [
        "audit trail, chain of heads, head 2: it was noted elsewhere, and is gone"
    ]
    change(AuditHead.objects.filter(number=1), signature=bytes(second.signature))
    assert [fault.chain for fault in verify_trail()] == ["of heads, head 1"]
    change(AuditHead.objects.filter(number=1), heads="{}")
    assert "altered" in str(next(verify_trail()))


def test_head_is_made_once_however_many_make_it_and_not_too_often(fresh_db: str, settings: Any) -> None:
    key = create_key("treasury")
    at_once(6, lambda n: (sign_message(key.address, b"hello", str(n)), heads.make_head()))
    while heads.make_head():
        pass
    assert faults() == []
    chain = AuditChain.objects.get(key=key)
    assert chain.headed_seq == chain.seq
    settings.KEYGUARD = {**settings.KEYGUARD, "head_seconds": 60}
    sign_message(key.address, b"hello", "another")
    assert heads.make_head() is None


def test_head_that_was_cut_off_by_a_crash_is_made_by_the_next(
    fresh_db: str, die: Callable[[str], None]
) -> None:
    key = create_key("treasury")
    die("keyguard.before_head")
    with pytest.raises(Died):
        heads.make_head()
    die("")
    assert not AuditHead.objects.exists()
    assert heads.make_head()
    assert AuditChain.objects.get(key=key).headed_seq == 1
    assert faults() == []


def test_signer_that_is_away_leaves_a_head_without_a_signature(key: Key, settings: Any) -> None:
    settings.KEYGUARD_AUDIT_SIGNER = "nobody"
    head = heads.make_head()
    assert head
    assert (head.signer, bytes(head.signature)) == ("", b"")
    assert faults() == []


def test_verify_audit_looks_at_the_trail(key: Key) -> None:
    sign_message(key.address, b"hello", "message")
    heads.make_head()
    out = StringIO()
    call_command("verify_audit", stdout=out)
    text = out.getvalue()
    assert "entries of keyguard's trail are whole" in text
    number, _, digest = text.strip().rpartition("--head ")[2].partition(":")
    assert (int(number), digest) == (1, AuditHead.objects.get().hash)
    drop_triggers("keyguard_auditentry")
    edit(2, event="looked")(key)
    with pytest.raises(SystemExit):
        call_command("verify_audit", "--json", stdout=(out := StringIO()))
    fault = json.loads(out.getvalue())["first_fault"]
    assert (fault["kind"], fault["chain"], fault["seq"]) == ("trail", str(key.pk), 2)
