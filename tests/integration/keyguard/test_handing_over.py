"""Handing calls over to a custody: one path, one request for each external id."""

from typing import Any

import pytest
from django.db import DatabaseError, transaction
from eth_account import Account

import keyguard
from keyguard import CustodyState, HandOverRequest, Report, custodians, sealing
from keyguard.custodians import Ticket
from keyguard.errors import (
    BackendUnknownError,
    CustodyForgotError,
    CustodyUnreachableError,
    FieldUnknownError,
    IdempotencyConflictError,
    KeyguardSealedError,
    KeyNotActiveError,
    SenderMismatchError,
)
from keyguard.models import HandOver, Key, Sealing
from tests.integration.keyguard.requests import TO
from tests.integration.keyguard.trail import entries
from tests.threads import at_once

HASH = "0x" + "ab" * 32


class Vault:
    """A custody in memory. `answer`: what it does instead of answering well."""

    can_cancel = True

    def __init__(self) -> None:
        self.account: Any = Account.create()
        self.asked: list[str] = []
        self.known: dict[str, Report] = {}
        self.answer: Any = None

    def public_key(self, reference: str) -> bytes:
        return b"\x04" + bytes(self.account._key_obj.public_key.to_bytes())

    def submit(self, ticket: Ticket, call: Any, *, timeout_seconds: float) -> Report:
        external_id = ticket.external_id
        assert HandOver.objects.get(external_id=external_id).state == "ASKED", "committed before"
        self.asked.append(external_id)
        self.known[external_id] = Report(CustodyState.WORKING)
        return self._said(external_id)

    def find(self, ticket: Ticket, *, timeout_seconds: float) -> Report:
        return self._said(ticket.external_id)

    def cancel(self, ticket: Ticket, *, timeout_seconds: float) -> Report:
        self.known[ticket.external_id] = Report(CustodyState.REFUSED, reason="cancelled")
        return self._said(ticket.external_id)

    def _said(self, external_id: str) -> Report:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or self.known.get(external_id, Report(CustodyState.UNKNOWN))


@pytest.fixture
def vault(fresh_db: str, monkeypatch: pytest.MonkeyPatch) -> Vault:
    vault = Vault()
    monkeypatch.setitem(custodians.CUSTODIANS, "vault", lambda: vault)
    keyguard.bind_key("treasury", "vault", "vault-1")
    return vault


def request(vault: Vault, external_id: str = "first", **changes: Any) -> HandOverRequest:
    address = str(vault.account.address)
    call = {"chainId": 31337, "from": address, "to": TO, "value": 1, "data": "0x", **changes}
    return HandOverRequest(external_id, address, call)


def hand_over(asked: HandOverRequest) -> Report:
    return keyguard.hand_over(asked, timeout_seconds=1)


@pytest.mark.case("K23", "K24")
def test_one_external_id_is_one_request_however_often_and_however_many_ask(vault: Vault) -> None:

    def ask(_: int) -> str:
        try:
            return str(hand_over(request(vault)).state)
        except CustodyUnreachableError:
            return "another asks"

    assert set(at_once(8, ask)) <= {"WORKING", "another asks"}
    assert vault.asked == ["first"]
    vault.answer = ConnectionError("https://api.example/secret")
    with pytest.raises(CustodyUnreachableError) as caught:
        hand_over(request(vault, "second"))
    assert "secret" not in str(caught.value), "the text of an unknown exception may hold anything"
    vault.answer = None
    assert hand_over(request(vault, "second")).state == CustodyState.WORKING
    assert vault.asked.count("second") == 1
    with pytest.raises(IdempotencyConflictError):
        hand_over(request(vault, "second", value=2))
    assert hand_over(request(vault, "second", gas=50_000)).state == CustodyState.WORKING, (
        "a hint is no content"
    )
    with transaction.atomic(), pytest.raises(RuntimeError):
        hand_over(request(vault, "third"))
    assert "third" not in vault.asked


@pytest.mark.case("K11")
@pytest.mark.parametrize("backend", ["", "vault"])
def test_under_a_seal_no_custody_is_asked_for_anything_new(vault: Vault, backend: str) -> None:
    vault.answer = ConnectionError("away")
    with pytest.raises(CustodyUnreachableError):
        hand_over(request(vault, "before"))
    keyguard.plan_hand_overs([request(vault, "intended")])
    vault.answer = None
    sealing.seal("a drill", backend=backend, actor="ann")
    assert type(keyguard.plan_hand_overs([request(vault)])["first"]) is KeyguardSealedError
    for external_id in ("first", "intended"):
        with pytest.raises(KeyguardSealedError):
            hand_over(request(vault, external_id))
    assert vault.asked == ["before"]
    assert hand_over(request(vault, "before")).state == CustodyState.WORKING, "what it has is looked up"
    vault.known.clear()
    HandOver.objects.filter(external_id="before").update(state="ASKED", asked_at="2020-01-01T00:00Z")
    with pytest.raises(KeyguardSealedError):
        hand_over(request(vault, "before"))
    assert vault.asked == ["before"]
    sealing.unseal(Sealing.objects.get(), "ann", "it is over")
    assert hand_over(request(vault, "intended")).state == CustodyState.WORKING


def test_floor_suspension_and_what_a_custody_forgot_keep_it_from_being_asked(vault: Vault) -> None:
    other = Account.create().address
    with pytest.raises(SenderMismatchError):
        hand_over(request(vault, "other", **{"from": other}))
    with pytest.raises(FieldUnknownError):
        hand_over(request(vault, "nonce", nonce=7))
    assert set(HandOver.objects.values_list("external_id", "state", "error")) == {
        ("other", "REFUSED", "KEYGUARD_SENDER_MISMATCH"),
        ("nonce", "REFUSED", "KEYGUARD_FIELD_UNKNOWN"),
    }
    assert [entry.event for entry in entries(Key.objects.get())][1:] == ["call_refused"] * 2
    hand_over(request(vault))
    vault.known.clear()
    with pytest.raises(CustodyForgotError):
        hand_over(request(vault))
    with pytest.raises(CustodyForgotError):
        keyguard.custody_status("first", timeout_seconds=1)
    keyguard.plan_hand_overs([request(vault, "planned")])
    Key.objects.update(state="SUSPENDED")
    for external_id in ("planned", "new"):
        with pytest.raises(KeyNotActiveError):
            hand_over(request(vault, external_id))
    assert vault.asked == ["first"]


def test_end_stays_and_history_is_kept(vault: Vault) -> None:
    keyguard.plan_hand_overs([request(vault, "unasked")])
    assert keyguard.call_off("unasked", timeout_seconds=1).state == CustodyState.FAILED
    assert hand_over(request(vault, "unasked")).state == CustodyState.FAILED
    assert vault.asked == []
    hand_over(request(vault))
    vault.known["first"] = Report(CustodyState.SENT, HASH.upper().replace("X", "x"))
    assert keyguard.custody_status("first", timeout_seconds=1) == Report(CustodyState.SENT, HASH)
    vault.known["first"] = Report(CustodyState.FAILED, reason="gone " + "ff" * 32)
    ended = keyguard.custody_status("first", timeout_seconds=1)
    assert (ended.state, ended.reason) == (CustodyState.FAILED, "gone [redacted]")
    vault.known["first"] = Report(CustodyState.SENT, HASH)
    assert keyguard.custody_status("first", timeout_seconds=1).state == CustodyState.FAILED, (
        "as it was told first"
    )
    for nonsense in (Report(CustodyState.SENT, "0x12"), "SENT", 7, ValueError()):
        vault.answer = nonsense
        with pytest.raises(CustodyUnreachableError):
            hand_over(request(vault, "nonsense"))
    rows = HandOver.objects.filter(external_id="first")
    for change in (lambda: rows.update(value=2), lambda: rows.update(state="SENT"), rows.delete):
        with pytest.raises(DatabaseError), transaction.atomic():
            change()


def test_custody_key_gives_no_signatures_here(vault: Vault) -> None:
    address = str(vault.account.address)
    assert keyguard.broadcasts_itself(address)
    assert not keyguard.broadcasts_itself(keyguard.create_key("own").address)
    with pytest.raises(BackendUnknownError, match="signs and sends by itself"):
        keyguard.sign_message(address, b"hello", "message")
