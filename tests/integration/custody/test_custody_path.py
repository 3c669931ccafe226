"""Signatures by custodies on the path of all keys: policy, trail and checks as for any other, and asked for once."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from eth_account import Account
from eth_account.messages import encode_defunct

from keyguard import curve, keep, sign_message, sign_transactions, sign_typed_data, verify_trail
from keyguard.errors import (
    CustodySignatureError,
    CustodySignaturePendingError,
    CustodyUnreachableError,
    Disposition,
    KeyguardSealedError,
    PolicyDeniedError,
    RawNotAllowedError,
    SignatureInvalidError,
)
from keyguard.models import Key, Sealing, SigningRecord
from keyguard.policies.models import Spending
from keyguard.sealing import seal
from tests.integration.custody.test_remote_signing import TYPED_DATA, Desk
from tests.integration.keyguard.policies import ALLOW_ALL, limit, put_in_force
from tests.integration.keyguard.requests import drop_triggers, request


@pytest.fixture(params=["fireblocks", "dfns"])
def desk(request: pytest.FixtureRequest, fresh_db: str, settings: Any) -> Desk:
    return Desk(request.param, request.getfixturevalue(request.param), settings)


def asked(desk: Desk) -> list[str]:
    """Return the ids under which the custody was asked for signatures."""
    bodies = [one.json() for one in desk.fake.requests if one.method == "POST" and desk.create in one.path]
    return [str(body.get("externalTxId") or body.get("externalId")) for body in bodies]


def signed(desk: Desk, ask: Any) -> Any:
    """Ask until it is there: Fireblocks never signs within the first answer."""
    try:
        return ask()
    except CustodySignaturePendingError:
        return ask()


def faults() -> list[str]:
    return [str(fault) for fault in verify_trail()]


def test_messages_and_typed_data_are_signed_once_and_in_the_trail(desk: Desk) -> None:
    signature = signed(desk, lambda: sign_message(desk.key.address, b"hello", "message"))
    message = encode_defunct(b"hello")
    assert Account.recover_message(message, signature=signature) == desk.key.address
    data = signed(desk, lambda: sign_typed_data(desk.key.address, TYPED_DATA, "data"))
    assert len(data) == 65
    assert sign_message(desk.key.address, b"hello", "message") == signature
    assert len(asked(desk)) == 2
    assert set(asked(desk)) == {str(pk) for pk in SigningRecord.objects.values_list("pk", flat=True)}
    assert set(SigningRecord.objects.values_list("state", flat=True)) == {"SIGNED"}
    assert faults() == []


def test_policy_decides_before_the_custody_hears_of_it(desk: Desk) -> None:
    put_in_force()
    with pytest.raises(PolicyDeniedError):
        sign_message(desk.key.address, b"hello", "message")
    assert asked(desk) == []


@pytest.mark.case("K25")
def test_what_the_custodys_people_think_about_is_pending_and_then_there(desk: Desk) -> None:
    desk.fake.hold = True
    for _ in range(3):
        with pytest.raises(CustodySignaturePendingError) as caught:
            sign_message(desk.key.address, b"hello", "message")
        assert caught.value.disposition is Disposition.RETRY
    assert len(asked(desk)) == 1
    desk.fake.approve(asked(desk)[0])
    keep()  # nobody asks again, and yet it is there
    assert SigningRecord.objects.get().state == "SIGNED"
    before = len(desk.fake.requests)
    assert sign_message(desk.key.address, b"hello", "message")
    assert len(desk.fake.requests) == before
    assert faults() == []


@pytest.mark.case("K26")
def test_refusal_of_the_custody_is_final_and_gives_limits_back(desk: Desk) -> None:
    put_in_force(*ALLOW_ALL, limit(1, of="count"))
    desk.fake.refuse = "not on a Sunday"
    with pytest.raises(CustodySignatureError):
        signed(desk, lambda: sign_message(desk.key.address, b"hello", "message"))
    assert SigningRecord.objects.get().state == "REFUSED"
    assert not Spending.objects.exists()
    desk.fake.refuse = ""
    assert signed(desk, lambda: sign_message(desk.key.address, b"hello", "message"))
    assert faults() == []


@pytest.mark.case("K24", "K49")
def test_lost_answer_is_looked_up_and_nothing_asked_for_twice(desk: Desk) -> None:
    desk.fake.lose_answer("POST", desk.create)
    with pytest.raises(CustodyUnreachableError):
        sign_message(desk.key.address, b"hello", "message")
    assert signed(desk, lambda: sign_message(desk.key.address, b"hello", "message"))
    assert len(set(asked(desk))) == 1
    assert SigningRecord.objects.get().state == "SIGNED"


@pytest.mark.case("K49")
def test_request_that_never_arrived_is_made_again_only_when_it_can_arrive_no_more(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keyguard import crashpoints

    class Died(BaseException):
        pass

    def die(name: str) -> None:
        raise Died

    with monkeypatch.context() as dying:
        dying.setattr(crashpoints, "_reached", [die])
        with pytest.raises(Died):
            sign_message(desk.key.address, b"hello", "message")
    with pytest.raises(CustodyUnreachableError, match="on its way"):
        sign_message(desk.key.address, b"hello", "message")
    keep()
    assert asked(desk) == []
    monkeypatch.setattr("keyguard.custody_signatures.ON_ITS_WAY", timedelta(0))
    assert signed(desk, lambda: sign_message(desk.key.address, b"hello", "message"))
    assert len(asked(desk)) == 1


@pytest.mark.case("K21", "K22")
def test_signature_of_another_key_suspends_the_key_and_seals_the_custody_alone(desk: Desk) -> None:
    from keyguard import create_key

    desk.fake.sign_as = Account.create()
    with pytest.raises(SignatureInvalidError):
        signed(desk, lambda: sign_message(desk.key.address, b"hello", "message"))
    assert Key.objects.get(pk=desk.key.pk).state == "SUSPENDED"
    assert Sealing.objects.get().backend == desk.name
    assert sign_message(create_key("here").address, b"hello", "another")
    assert faults() == []


@pytest.mark.case("K11")
def test_sealed_custody_is_looked_up_and_asked_for_nothing_new(desk: Desk) -> None:
    desk.fake.hold = True
    with pytest.raises(CustodySignaturePendingError):
        sign_message(desk.key.address, b"hello", "message")
    seal("a drill", actor="ann")
    with pytest.raises(KeyguardSealedError):
        sign_message(desk.key.address, b"other", "other")
    desk.fake.approve(asked(desk)[0])
    keep()
    assert SigningRecord.objects.get().state == "SIGNED"
    assert len(asked(desk)) == 1


@pytest.mark.case("K19")
def test_transaction_is_signed_by_a_custody_that_can_read_it_or_may_sign_blindly(desk: Desk) -> None:
    def ask() -> Any:
        return sign_transactions([request(desk.key.address)])

    if desk.name == "fireblocks":
        with pytest.raises(RawNotAllowedError):
            ask()
        assert SigningRecord.objects.get().state == "REFUSED"
        desk.allow_raw()
    (answer,) = signed(desk, ask)
    assert Account.recover_transaction(answer.raw) == desk.key.address
    assert curve.keccak(answer.raw).hex() == answer.hash[2:]
    drop_triggers("keyguard_signingrecord")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE keyguard_signingrecord SET raw = %s WHERE state = 'SIGNED'", [b"\1"])
    assert "not those that it speaks of" in faults()[0]
