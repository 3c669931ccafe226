"""The signing path on a real database."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone
from eth_account import Account
from eth_account.messages import encode_defunct
from structlog.testing import capture_logs

from keyguard import (
    IdempotencyConflictError,
    KeyguardError,
    KeyNotActiveError,
    KeyNotFoundError,
    create_key,
    curve,
    import_key,
    sign_message,
    sign_transactions,
)
from keyguard.audit.chaining import place_of
from keyguard.backends import BACKENDS, database
from keyguard.concluding import conclude
from keyguard.errors import (
    Disposition,
    FloorError,
    MaterialTamperedError,
    SignatureInvalidError,
    SignatureUnderWayError,
    SigningDeniedError,
)
from keyguard.ethereum import UnsignedTransaction
from keyguard.models import AuditChain, Key, SigningRecord
from keyguard.records import Answer
from keyguard.states import RECORD_TRANSITIONS, RecordState
from tests.integration.keyguard.requests import TO, bent, current, insert, request, transfer
from tests.threads import at_once

SECRET = bytes(range(1, 33))


def test_signed_transactions_come_in_the_order_asked_and_are_the_senders(key: Key) -> None:
    other = create_key("other")
    requests = [request((key, other)[n % 2].address, f"r{9 - n}", nonce=n) for n in range(10)]
    signed = sign_transactions(requests)
    assert [one.idempotency_key for one in signed] == [one.idempotency_key for one in requests]
    for n, one in enumerate(signed):
        assert Account.recover_transaction(one.raw) == requests[n].address
        assert one.hash == f"0x{curve.keccak(one.raw).hex()}"


def test_signature_is_the_one_eth_account_makes_with_the_same_key(db: None) -> None:
    imported = import_key("imported", SECRET)
    (signed,) = sign_transactions([request(imported.address)])
    assert signed.raw == bytes(Account.from_key(SECRET).sign_transaction(transfer()).raw_transaction)
    message = b"\x11" * 32
    theirs = Account.from_key(SECRET).sign_message(encode_defunct(message)).signature
    assert sign_message(imported.address, message, "message") == bytes(theirs)


def test_record_says_what_was_signed_to_the_last_digit(key: Key) -> None:
    (signed,) = sign_transactions([request(key.address, nonce=5)])
    record = SigningRecord.objects.get()
    assert (record.state, record.kind, record.key) == ("SIGNED", "TRANSACTION", key)
    assert (record.chain_id, record.to, record.value, record.nonce) == (31337, TO, 10**19 + 1, 5)
    assert (bytes(record.raw), record.hash) == (signed.raw, signed.hash)
    assert record.signed_at is not None


@pytest.mark.case("K23")
def test_repeated_request_gets_the_first_answer_and_no_second_signature(
    key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [request(key.address, f"r{n}", nonce=n) for n in range(3)]
    first = sign_transactions(requests)
    calls = counted(monkeypatch)
    assert sign_transactions(requests) == first
    assert sign_transactions(requests[1:2]) == first[1:2]
    assert not calls
    more = [*requests, request(key.address, "r3", nonce=3)]
    assert sign_transactions(more)[:3] == first
    assert len(calls) == 1


@pytest.mark.case("K23")
def test_same_message_gets_the_same_signature(key: Key) -> None:
    assert sign_message(key.address, b"hello", "m") == sign_message(key.address, b"hello", "m")
    with pytest.raises(IdempotencyConflictError):
        sign_message(key.address, b"other", "m")


@pytest.mark.case("K23")
@pytest.mark.parametrize("changes", [{"value": 1}, {"nonce": 1}, {"chainId": 1}, {"data": "0x00"}])
def test_other_payload_under_the_same_idempotency_key_is_refused(key: Key, changes: dict[str, Any]) -> None:
    first = sign_transactions([request(key.address)])
    with pytest.raises(IdempotencyConflictError) as caught:
        sign_transactions([request(key.address, "new"), request(key.address, **changes)])
    assert caught.value.disposition is Disposition.FAIL
    assert sign_transactions([request(key.address)]) == first
    assert SigningRecord.objects.count() == 1


@pytest.mark.case("K23")
def test_idempotency_key_of_another_key_or_kind_is_refused(key: Key) -> None:
    sign_transactions([request(key.address)])
    with pytest.raises(IdempotencyConflictError):
        sign_transactions([request(create_key("other").address)])
    with pytest.raises(IdempotencyConflictError):
        sign_message(key.address, b"hello", "first")


def test_idempotency_key_twice_in_a_batch_is_one_signature_or_a_conflict(key: Key) -> None:
    one, two = sign_transactions([request(key.address), request(key.address)])
    assert one == two
    assert SigningRecord.objects.count() == 1
    with pytest.raises(IdempotencyConflictError):
        sign_transactions([request(key.address, "b"), request(key.address, "b", value=1)])


@pytest.mark.case("K23")
@pytest.mark.sqlite_too
def test_fifty_callers_at_once_get_one_signature(fresh_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = create_key("treasury")
    calls = counted(monkeypatch)
    answers = at_once(50, lambda _: sign_transactions([request(key.address)])[0].raw)
    assert len(calls) == 1
    assert len(set(answers)) == 1
    assert Account.recover_transaction(answers[0]) == key.address
    assert SigningRecord.objects.count() == 1


# So slow that two inserts of several rows are sure to overlap.
SLOW_INSERTS = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE INSERT ON keyguard_signingrecord FOR EACH ROW EXECUTE FUNCTION slow();
"""


@pytest.mark.case("K23")
@pytest.mark.sqlite_too
def test_batches_that_overlap_do_not_wait_for_each_other_for_ever(
    fresh_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = create_key("treasury")
    calls = counted(monkeypatch)
    if connection.vendor == "postgresql":  # SQLite has one writer at a time
        with connection.cursor() as cursor:
            cursor.execute(SLOW_INSERTS)
    requests = [request(key.address, f"r{n}", nonce=n) for n in range(10)]
    answers = at_once(4, lambda n: sign_transactions(requests if n % 2 else requests[::-1]))
    assert len(calls) == 10
    assert len({tuple(sorted(one.raw for one in answer)) for answer in answers}) == 1


@pytest.mark.case("K23")
@pytest.mark.sqlite_too
def test_of_two_payloads_at_once_one_wins_and_the_other_is_told(fresh_db: str) -> None:
    key = create_key("treasury")

    def ask(n: int) -> str:
        try:
            return sign_transactions([request(key.address, value=n % 2)])[0].hash
        except IdempotencyConflictError as error:
            return error.code

    counts = Counter(at_once(20, ask))
    assert len(counts) == 2
    assert counts["KEYGUARD_IDEMPOTENCY_KEY_REUSED"] == 10


@pytest.mark.case("K13", "K14")
def test_one_request_below_the_floor_stops_the_batch_and_is_recorded(key: Key) -> None:
    good = request(key.address, "good")
    with pytest.raises(FloorError) as caught:
        sign_transactions([good, request(key.address, "bad", chainId=0)])
    assert caught.value.code == "KEYGUARD_CHAIN_ID"
    record = SigningRecord.objects.get()
    assert (record.idempotency_key, record.state, record.error) == ("bad", "REFUSED", "KEYGUARD_CHAIN_ID")
    # A refusal is no signature: the corrected request may use its key.
    assert len(sign_transactions([good, request(key.address, "bad")])) == 2


def test_unknown_address_is_refused(key: Key) -> None:
    with pytest.raises(KeyNotFoundError):
        sign_transactions([request(TO)])


@pytest.mark.case("K50")
def test_suspended_key_signs_nothing(key: Key) -> None:
    first = sign_transactions([request(key.address)])
    Key.objects.update(state="SUSPENDED")
    for ask in (
        lambda: sign_transactions([request(key.address, "second")]),
        lambda: sign_message(key.address, b"hello", "message"),
        lambda: sign_transactions([request(key.address)]),
    ):
        with pytest.raises(KeyNotActiveError) as caught:
            ask()
        assert caught.value.code == "KEYGUARD_KEY_SUSPENDED"
    assert [bytes(record.raw) for record in SigningRecord.objects.all()] == [first[0].raw]


@pytest.mark.sqlite_too
def test_signing_inside_a_transaction_is_refused_since_a_rollback_would_forget_it(fresh_db: str) -> None:
    key = create_key("treasury")
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        sign_transactions([request(key.address)])
    assert not SigningRecord.objects.exists()


@pytest.mark.sqlite_too
@pytest.mark.case("K5")
def test_suspension_outlives_the_batch_that_was_rolled_back(fresh_db: str) -> None:
    key = create_key("treasury")
    insert(key, current(key), ciphertext=bent(current(key).ciphertext))
    with pytest.raises(MaterialTamperedError):
        sign_transactions([request(key.address)])
    assert list(Key.objects.values_list("state", flat=True)) == ["SUSPENDED"]
    assert list(SigningRecord.objects.values_list("state", flat=True)) == ["REFUSED"]


# A backend that lies


def backend_answering(answer: Callable[[Key, Sequence[bytes]], list[bytes]]) -> type:
    return type(
        "Lying", (database.DatabaseBackend,), {"prepare": lambda _, key: lambda digests: answer(key, digests)}
    )


def honest(key: Key, digests: Sequence[bytes]) -> list[bytes]:
    return database.DatabaseBackend().prepare(key)(digests)


def flipped(signature: bytes) -> bytes:
    return signature[:64] + bytes([signature[64] ^ 1])


def high(signature: bytes) -> bytes:
    return (
        signature[:32]
        + (curve.ORDER - int.from_bytes(signature[32:64])).to_bytes(32)
        + flipped(signature)[64:]
    )


@pytest.mark.case("K20")
def test_high_s_of_a_backend_is_lowered_and_the_signature_accepted(
    key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "database", backend_answering(lambda k, d: [high(s) for s in honest(k, d)]))
    (signed,) = sign_transactions([request(key.address)])
    assert int.from_bytes(signed.signature[32:64]) <= curve.HALF_ORDER
    assert Account.recover_transaction(signed.raw) == key.address


STRANGER = bytearray(b"\7" * 32)


@pytest.mark.case("K21")
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda k, d: [flipped(s) for s in honest(k, d)], id="wrong recovery id"),
        pytest.param(lambda k, d: [curve.sign(STRANGER, one) for one in d], id="another key"),
        pytest.param(lambda k, d: honest(k, [b"\1" * 32 for _ in d]), id="another digest"),
        pytest.param(lambda k, d: [s[:64] for s in honest(k, d)], id="64 bytes"),
        pytest.param(lambda k, d: [s[:63] for s in honest(k, d)], id="63 bytes"),
        pytest.param(lambda k, d: [bytes(32) + s[32:] for s in honest(k, d)], id="r is 0"),
        pytest.param(lambda k, d: [s[:32] + bytes(32) + s[64:] for s in honest(k, d)], id="s is 0"),
        pytest.param(lambda k, d: [s[:32] + b"\xff" * 32 + s[64:] for s in honest(k, d)], id="s above n"),
        pytest.param(lambda k, d: honest(k, d)[:-1], id="too few"),
    ],
)
def test_false_signature_is_refused_and_the_key_suspended(
    key: Key, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Key, Sequence[bytes]], list[bytes]]
) -> None:
    monkeypatch.setitem(BACKENDS, "database", backend_answering(answer))
    with pytest.raises(SignatureInvalidError):
        sign_transactions([request(key.address, "a"), request(key.address, "b", nonce=1)])
    key.refresh_from_db()
    assert (key.state, key.state_reason) == ("SUSPENDED", "KEYGUARD_SIGNATURE_INVALID")
    assert set(SigningRecord.objects.values_list("state", "signature")) == {("REFUSED", None)}


def test_raw_transaction_that_is_not_what_was_asked_does_not_leave(
    key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dearer(self: UnsignedTransaction, signature: bytes) -> bytes:
        return encode(replace(self, value=self.value + 1), signature)

    encode = UnsignedTransaction.signed
    monkeypatch.setattr(UnsignedTransaction, "signed", dearer)
    with pytest.raises(SignatureInvalidError, match="not what was asked"):
        sign_transactions([request(key.address)])
    assert not SigningRecord.objects.filter(state="SIGNED").exists()


def test_unknown_exception_of_a_backend_denies_and_its_text_stays_inside(
    key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(key: Key, digests: Sequence[bytes]) -> list[bytes]:
        raise ZeroDivisionError(SECRET.hex())

    monkeypatch.setitem(BACKENDS, "database", backend_answering(fail))
    with capture_logs() as logs, pytest.raises(SigningDeniedError) as caught:
        sign_transactions([request(key.address)])
    assert caught.value.__cause__ is None
    assert SECRET.hex() not in repr(logs) + str(caught.value)
    assert {"signing_denied", "signing_refused"} <= {line["event"] for line in logs}
    key.refresh_from_db()
    assert key.state == "ACTIVE"


def test_error_of_the_database_passes_so_that_it_can_be_retried(
    key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(key: Key, digests: Sequence[bytes]) -> list[bytes]:
        raise DatabaseError("gone")

    with monkeypatch.context() as patch:
        patch.setitem(BACKENDS, "database", backend_answering(fail))
        with pytest.raises(DatabaseError):
            sign_transactions([request(key.address)])
    assert not SigningRecord.objects.filter(state="SIGNED").exists()
    assert sign_transactions([request(key.address)])


@pytest.mark.sqlite_too
@pytest.mark.parametrize("state", RecordState.values)
def test_database_allows_a_record_the_listed_transitions_and_no_other(key: Key, state: str) -> None:
    fields: dict[str, dict[str, Any]] = {
        "INTENT": {"signature": None, "signed_at": None, "error": ""},
        "SIGNED": {"signature": b"\1" * 65, "signed_at": timezone.now(), "error": ""},
        "REFUSED": {"signature": None, "signed_at": None, "error": "KEYGUARD_DENIED"},
    }
    for later in RecordState.values:
        record = SigningRecord.objects.create(
            key=key, kind="MESSAGE", idempotency_key=later, state=state, **fields[state]
        )
        same = SigningRecord.objects.filter(pk=record.pk)
        if later in RECORD_TRANSITIONS[state]:
            assert same.update(state=later, **fields[later]) == 1
            continue
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            same.update(state=later, **fields[later])


@pytest.mark.sqlite_too
@pytest.mark.parametrize("change", [{"digest": "0x"}, {"to": TO}, {"value": 1}, {"idempotency_key": "x"}])
def test_what_an_intent_says_stays_when_it_is_signed(key: Key, change: dict[str, Any]) -> None:
    intent = SigningRecord.objects.create(key=key, kind="TRANSACTION", idempotency_key="a", state="INTENT")
    answer = {"state": "SIGNED", "signature": b"\1" * 65, "signed_at": timezone.now()}
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        SigningRecord.objects.filter(pk=intent.pk).update(**answer, **change)
    assert SigningRecord.objects.filter(pk=intent.pk).update(**answer) == 1


@pytest.mark.sqlite_too
def test_record_cannot_be_deleted(key: Key) -> None:
    sign_transactions([request(key.address)])
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        SigningRecord.objects.all().delete()


def test_answer_is_written_over_an_intent_only(key: Key) -> None:
    sign_transactions([request(key.address)])
    ended = place_of(AuditChain.objects.get(key=key))
    with pytest.raises(SignatureUnderWayError):
        conclude([(SigningRecord.objects.get(), Answer(b"\1" * 65, b"", ""))], {key.pk: ended})
    assert AuditChain.objects.get(key=key).seq == ended.seq


def test_every_error_says_what_to_do() -> None:
    def tree(error: type[KeyguardError]) -> list[type[KeyguardError]]:
        return [error, *(leaf for child in error.__subclasses__() for leaf in tree(child))]

    # Other tests may have made some of their own.
    errors = [error for error in tree(KeyguardError)[1:] if error.__module__.startswith("keyguard.")]
    assert len({error.code for error in errors}) == len(errors) > 20
    for error in errors:
        assert error.code.startswith("KEYGUARD_")
        assert error.cause.endswith(".")
        assert error.remedy


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Count the signatures made from now on."""
    calls: list[bytes] = []

    def sign(secret: bytearray, digest: bytes) -> bytes:
        calls.append(digest)
        return original(secret, digest)

    original = curve.sign
    monkeypatch.setattr("keyguard.material.curve.sign", sign)
    return calls
