"""DFNS' client against a service that checks what the real one checks."""

import json
import logging
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from django.utils import timezone

import keyguard
from keyguard import CustodyState, HandOverRequest, Report
from keyguard.backends import custodies
from keyguard.backends.dfns.client import path
from keyguard.custodians import Ticket, custodian_of
from keyguard.errors import (
    CustodyBusyError,
    CustodyClockError,
    CustodyDeniesError,
    CustodyMisconfiguredError,
    CustodyUnreachableError,
)
from keyguard.handing_over import ASKING
from keyguard.models import HandOver, Key
from tests.fakes.credentials import pem
from tests.fakes.dfns import ACTION_SECONDS, CHALLENGE_SECONDS, FakeDfns
from tests.fakes.serving import Reply

TO = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"
KEY = "key-1abcd-2efgh-0123456789abcdef"
WALLET = "wa-1abcd-2efgh-0123456789abcdef"
CREATE = ("POST", "/transactions")
HASH = "0x" + "ab" * 32


@pytest.fixture
def bound(fresh_db: str, dfns: FakeDfns) -> Key:
    return keyguard.bind_key("treasury", "dfns", KEY)


def hand_over(key: Key, external_id: str = "first", seconds: float = 5, **changes: Any) -> Report:
    call = {"chainId": 31337, "from": key.address, "to": TO, "value": 1, "data": "0x", **changes}
    return keyguard.hand_over(HandOverRequest(external_id, key.address, call), timeout_seconds=seconds)


def status(external_id: str = "first", seconds: float = 5) -> Report:
    return keyguard.custody_status(external_id, timeout_seconds=seconds)


def forget() -> None:
    """Have the clients know nothing, as in a process that has just begun."""
    custodies.forget()


def test_call_is_asked_for_in_the_words_of_the_documents(bound: Key, dfns: FakeDfns) -> None:
    dfns.keep = True
    hand_over(bound, "pay", value=10**18 + 1, gas=50_000, maxFeePerGas=10**9)
    hand_over(bound, "create", to=None, value=0, data="0x6000")
    pay, create = dfns.by_external_id("pay"), dfns.by_external_id("create")
    assert pay.where == f"/wallets/{WALLET}/transactions"
    assert pay.body == {"kind": "Evm", "to": TO, "value": str(10**18 + 1), "externalId": "pay"}
    assert create.body == {"kind": "Evm", "value": "0", "data": "0x6000", "externalId": "create"}
    with pytest.raises(CustodyMisconfiguredError, match="no wallet on Ethereum"):
        hand_over(bound, "main", chainId=1)
    with pytest.raises(CustodyMisconfiguredError, match="chain 5"):
        hand_over(bound, "unknown", chainId=5)
    assert not keyguard.can_call_off(bound.address)


def test_key_is_bound_by_what_people_see_at_the_custody(fresh_db: str, dfns: FakeDfns) -> None:
    address = dfns.account(KEY).address
    options = {"alias": "treasury", "backend": "dfns", "address": address}
    dfns.sign_as = dfns.account("another")
    with pytest.raises(CommandError, match="not its address's"):
        call_command("bind_key", reference=KEY, **options)
    dfns.sign_as = None
    with pytest.raises(CommandError, match="404"):
        call_command("bind_key", reference="key-none", **options)
    dfns.keys[KEY]["Ethereum"] = "wa-second"
    call_command("bind_key", reference=KEY, **options)
    assert Key.objects.get().address == address


# --- User actions -------------------------------------------------------------------------------------------


@pytest.mark.case("K30")
@pytest.mark.parametrize(
    "part", ["../../wallets", "..", "a/b", "key-1?x=1", "key%2f1", "key-1\n", "", "schlüssel", "a" * 100]
)
def test_what_is_no_id_goes_into_no_path(bound: Key, dfns: FakeDfns, part: str) -> None:
    with pytest.raises(CustodyMisconfiguredError, match="no id"):
        path("keys", part)
    seen = len(dfns.requests)
    ticket = Ticket(part, "first", 31337, timezone.now())
    with pytest.raises(CustodyUnreachableError):
        custodian_of("dfns").find(ticket, timeout_seconds=2)
    assert len(dfns.requests) == seen


@pytest.mark.case("K30")
def test_each_request_has_a_user_action_of_its_own_over_its_very_bytes(bound: Key, dfns: FakeDfns) -> None:
    dfns.keep = True
    hand_over(bound, "one")
    hand_over(bound, "two")
    assert len(set(dfns.used_actions)) == 2
    starts = [each.json() for each in dfns.requests if each.path == "/auth/action/init"]
    made = [each for each in dfns.requests if each.method == "POST" and each.path.endswith("/transactions")]
    for start, request in zip(starts, made, strict=True):
        assert start["userActionPayload"].encode() == request.body
        assert (start["userActionHttpMethod"], start["userActionHttpPath"]) == ("POST", request.path)
    # The service refuses one that was used, and one for another body.
    again = _post(dfns, made[0].path, made[0].body, dfns.used_actions[0])
    assert again == 401
    dfns.actions["stolen"] = (starts[0], dfns.now())
    assert _post(dfns, made[0].path, made[0].body + b" ", "stolen") == 403
    assert len(dfns.entities) == 2


def _post(dfns: FakeDfns, where: str, body: bytes, action: str) -> int:
    import httpx

    headers = {"Authorization": f"Bearer {dfns.token}", "X-DFNS-USERACTION": action}
    return httpx.post(dfns.url + where, content=body, headers=headers).status_code


@pytest.mark.case("K30")
@pytest.mark.parametrize("expired", ["challenge", "action"])
def test_expired_challenge_or_action_leads_to_a_new_one_once(
    bound: Key, dfns: FakeDfns, monkeypatch: pytest.MonkeyPatch, expired: str
) -> None:
    dfns.keep = True
    made: Any = dfns.challenges if expired == "challenge" else dfns.actions
    seconds = CHALLENGE_SECONDS if expired == "challenge" else ACTION_SECONDS
    late = {"left": 1}
    respond = dfns.respond

    def slow(request: Any) -> Reply:
        target = "/auth/action" if expired == "challenge" else f"/wallets/{WALLET}/transactions"
        if request.path == target and request.method == "POST" and late["left"]:
            late["left"] -= 1
            for name, (*rest, at) in list(made.items()):
                made[name] = (*rest, at - seconds - 1)
        return respond(request)

    monkeypatch.setattr(dfns, "respond", slow)
    assert hand_over(bound).state == CustodyState.WORKING
    assert dfns.count("POST", "/auth/action/init") == 2
    assert len(dfns.entities) == 1
    late["left"] = 99
    with pytest.raises(CustodyDeniesError):
        hand_over(bound, "second")
    assert dfns.count("POST", "/auth/action/init") == 4, "once more, and no further"


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_credential_may_be_of_each_kind_that_dfns_takes(
    bound: Key, dfns: FakeDfns, settings: Any, kind: str
) -> None:
    key: Any = (
        ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
    )
    settings.DFNS_CREDENTIAL_KEY = pem(key)
    forget()
    with pytest.raises(CustodyDeniesError):
        hand_over(bound)
    dfns.credential = key.public_key()
    dfns.keep = True
    forget()
    HandOver.objects.update(asked_at=Now() - ASKING)
    assert hand_over(bound).state == CustodyState.WORKING


def test_credential_that_the_account_does_not_have_signs_nothing(
    bound: Key, dfns: FakeDfns, settings: Any
) -> None:
    settings.DFNS_CREDENTIAL_ID = "cr-2"
    forget()
    with pytest.raises(CustodyDeniesError, match="DFNS_CREDENTIAL_ID"):
        hand_over(bound)
    assert dfns.count("POST", "/auth/action") == dfns.count("POST", "/auth/action/init") == 1


# --- Answers that do not come -------------------------------------------------------------------------------


@pytest.mark.case("K24")
@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("fault", ["lose_answer", "lose_request", "500"])
def test_lost_reply_is_found_by_the_external_id_and_never_asked_for_twice(
    bound: Key, dfns: FakeDfns, fault: str, restarted: bool
) -> None:
    dfns.keep, dfns.page_size = True, 2
    for number in range(5):
        hand_over(bound, f"before-{number}")
    if fault == "500":
        dfns.answer(Reply(500, b"<html>"), *CREATE)
    else:
        getattr(dfns, fault)(*CREATE)
    with pytest.raises(CustodyUnreachableError):
        hand_over(bound)
    for number in range(5):
        hand_over(bound, f"after-{number}")
    if restarted:
        forget()
    if fault != "lose_answer":
        with pytest.raises(CustodyUnreachableError, match="somebody asks"):
            hand_over(bound)
        HandOver.objects.filter(external_id="first").update(asked_at=Now() - ASKING)
    assert hand_over(bound).state == CustodyState.WORKING
    assert sum(each.body["externalId"] == "first" for each in dfns.entities.values()) == 1
    assert dfns.count(*CREATE) == (11 if fault == "lose_answer" else 12)


@pytest.mark.case("K24")
def test_user_action_that_is_lost_does_no_harm(bound: Key, dfns: FakeDfns) -> None:
    dfns.keep = True
    for part in ("/auth/action/init", "/auth/action"):
        dfns.lose_answer("POST", part)
        with pytest.raises(CustodyUnreachableError):
            hand_over(bound, part.replace("/", "-"))
        assert not dfns.entities
    HandOver.objects.update(asked_at=Now() - ASKING)
    assert hand_over(bound, "-auth-action").state == CustodyState.WORKING


def test_same_id_with_another_body_is_what_was_asked_for_first(bound: Key, dfns: FakeDfns) -> None:
    dfns.keep = True
    hand_over(bound)
    custodian: Any = custodian_of("dfns")
    call = keyguard.Call(31337, bytes.fromhex(TO[2:]), 2, b"")
    ticket = Ticket(KEY, "first", 31337, timezone.now())
    assert custodian.submit(ticket, call, timeout_seconds=5).state == CustodyState.WORKING
    assert [each.body["value"] for each in dfns.entities.values()] == ["1"]
    dfns.by_external_id("first").where = "/wallets/wa-another/transactions"
    with pytest.raises(CustodyUnreachableError, match="duplicate"):
        custodian.submit(ticket, call, timeout_seconds=5)


def test_list_is_read_as_far_back_as_the_request_can_reach(bound: Key, dfns: FakeDfns) -> None:
    dfns.keep, dfns.page_size = True, 2
    for number in range(6):
        hand_over(bound, f"old-{number}")
    for number, each in enumerate(dfns.entities.values()):
        each.requested_at -= (100 - number) * 86_400
    custodian = custodian_of("dfns")
    forget()
    custodian = custodian_of("dfns")
    seen = len(dfns.requests)
    assert custodian.find(Ticket(KEY, "new", 31337, timezone.now()), timeout_seconds=5).state == "UNKNOWN"
    assert sum(each.path.endswith("/transactions") for each in dfns.requests[seen:]) == 1
    long_ago = timezone.now() - timezone.timedelta(days=1000)  # type: ignore[attr-defined]
    assert custodian.find(Ticket(KEY, "none", 31337, long_ago), timeout_seconds=5).state == "UNKNOWN"
    assert sum(each.path.endswith("/transactions") for each in dfns.requests[seen:]) == 4
    dfns.answer(Reply(200, {"items": [], "nextPageToken": "x"}), "GET", "/transactions", times=2)
    with pytest.raises(CustodyUnreachableError, match="circle"):
        custodian.find(Ticket(KEY, "none", 31337, long_ago), timeout_seconds=5)


# --- What it says -------------------------------------------------------------------------------------------


@pytest.mark.case("K26")
@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("Pending", "AWAITING_APPROVAL"),
        ("Executing", "WORKING"),
        ("Broadcasted", "SENT"),
        ("Confirmed", "SENT"),
        ("Failed", "FAILED"),
        ("Rejected", "REFUSED"),
        ("Teleported", "WORKING"),
        ("CONFIRMED", "WORKING"),
        (7, "WORKING"),
    ],
)
def test_each_word_means_one_thing_and_an_unknown_one_means_working(
    bound: Key, dfns: FakeDfns, said: Any, state: str
) -> None:
    dfns.keep = True
    hand_over(bound)
    sent = {"txHash": HASH} if state == "SENT" else {}
    dfns.shows = {"status": said, "unheard": {"of": [1]}, "reason": "because", **sent}
    found = status()
    assert (found.state, found.hash) == (state, HASH if sent else "")
    assert found.reason == ("because" if state in ("REFUSED", "FAILED") else "")
    if state == "SENT":
        dfns.shows["txHash"] = ""
        assert status().state == CustodyState.WORKING


@pytest.mark.case("K26")
def test_failed_after_it_was_sent_is_no_end_without_a_hash(bound: Key, dfns: FakeDfns) -> None:
    dfns.keep = True
    hand_over(bound)
    dfns.shows = {"status": "Failed", "dateBroadcasted": "2026-11-23T12:00:00Z"}
    assert status().state == CustodyState.WORKING
    dfns.shows["txHash"] = HASH
    assert (status().state, status().hash) == (CustodyState.FAILED, HASH)


def test_answer_about_something_else_is_none(bound: Key, dfns: FakeDfns) -> None:
    dfns.keep = True
    hand_over(bound)
    for shows in ({"status": None}, {"id": None}, {"externalId": "another"}):
        dfns.shows = shows
        with pytest.raises(CustodyUnreachableError):
            status()
    dfns.shows = {}
    for nonsense in (b"", b"[]", b"{", b"[" * 100_000, b"x" * (5 * 1024 * 1024)):
        dfns.answer(Reply(200, nonsense))
        with pytest.raises(CustodyUnreachableError):
            status()
    assert HandOver.objects.get().state == "WORKING"


def test_refusals_come_with_their_reason(bound: Key, dfns: FakeDfns) -> None:
    dfns.refuse = "policy: over the limit"
    refused = hand_over(bound)
    assert (refused.state, refused.reason) == (CustodyState.REFUSED, "policy: over the limit")
    dfns.answer(Reply(400, {"error": {"message": "value is odd", "status": 400}}), *CREATE)
    malformed = hand_over(bound, "second")
    assert (malformed.state, malformed.reason) == (CustodyState.REFUSED, "value is odd")


# --- Limits and clocks --------------------------------------------------------------------------------------


@pytest.mark.case("K27")
def test_too_many_requests_are_waited_out(bound: Key, dfns: FakeDfns) -> None:
    dfns.keep = True
    seen = len(dfns.requests)
    dfns.storm(1, retry_after="1")
    dfns.answer(Reply(429, b"", {"Retry-After": "0"}), *CREATE)
    began = time.monotonic()
    assert hand_over(bound).state == CustodyState.WORKING
    assert time.monotonic() - began >= 1.0
    assert len(dfns.entities) == 1
    assert dfns.count(*CREATE) == 2
    assert len(dfns.requests) > seen
    dfns.storm(1, retry_after="30")
    with pytest.raises(CustodyBusyError):
        status(seconds=2)


@pytest.mark.case("K28")
def test_clock_that_is_off_is_named(bound: Key, dfns: FakeDfns) -> None:
    dfns.clock_offset_seconds = -120
    dfns.token = "another"
    with pytest.raises(CustodyClockError, match=r"1(19|20|21) s ahead of DFNS"):
        hand_over(bound)
    seen = len(dfns.requests)
    with pytest.raises(CustodyClockError):
        hand_over(bound)
    assert len(dfns.requests) == seen


def test_secrets_are_shown_by_nothing(bound: Key, dfns: FakeDfns, settings: Any) -> None:
    from keyguard.backends.dfns import configured

    dfns.lose_request()
    with pytest.raises(CustodyUnreachableError) as caught:
        hand_over(bound)
    for shown in (repr(configured.read()), repr(caught.value), json.dumps(str(caught.value.__context__))):
        assert "token-1" not in shown
        assert "BEGIN" not in shown


@pytest.mark.case("K55")
def test_no_log_at_any_level_shows_what_proves_who_we_are(
    bound: Key, dfns: FakeDfns, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    dfns.keep = True
    hand_over(bound)
    dfns.lose_answer()
    with pytest.raises(CustodyUnreachableError):
        status()
    assert len(caplog.records) > 3
    secrets = [*dfns.used_actions, "token-1", settings.DFNS_CREDENTIAL_KEY[30:60], "BEGIN PRIVATE"]
    for secret in secrets:
        assert secret not in caplog.text
