"""DFNS' client against a service that checks what the real one checks."""

import json
import logging
import time
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now
from django.utils import timezone

import keyguard
from keyguard import CustodyState
from keyguard.custodians import Ticket, custodian_of
from keyguard.errors import (
    CustodyBusyError,
    CustodyClockError,
    CustodyMisconfiguredError,
    CustodyUnreachableError,
)
from keyguard.handing_over import ASKING
from keyguard.models import HandOver, Key
from tests.fakes.dfns import FakeDfns
from tests.fakes.serving import Reply
from tests.integration.custody.asking import HASH, TO, forget, hand_over, status

KEY = "key-1abcd-2efgh-0123456789abcdef"
WALLET = "wa-1abcd-2efgh-0123456789abcdef"
CREATE = ("POST", "/transactions")


@pytest.fixture
def bound(fresh_db: str, dfns: FakeDfns) -> Key:
    return keyguard.bind_key("treasury", "dfns", KEY)


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
    options = {"alias": "treasury", "address": address}
    dfns.sign_as = dfns.account("another")
    with pytest.raises(CommandError, match="not its address's"):
        call_command("bind_key", uri=f"dfns:{KEY}", **options)
    dfns.sign_as = None
    with pytest.raises(CommandError, match="404"):
        call_command("bind_key", uri="dfns:key-none", **options)
    dfns.keys[KEY]["Ethereum"] = "wa-second"
    call_command("bind_key", uri=f"dfns:{KEY}", **options)
    assert Key.objects.get().address == address


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
@pytest.mark.parametrize("offset", [120, -120])
def test_clock_that_is_off_is_named_and_not_asked_about_again_at_once(
    bound: Key, dfns: FakeDfns, offset: float, caplog: pytest.LogCaptureFixture
) -> None:
    dfns.clock_offset_seconds = offset
    dfns.token = "another"
    direction = "behind" if offset > 0 else "ahead of"
    with pytest.raises(CustodyClockError, match=rf"clock is (119|120|121) s {direction} DFNS"):
        hand_over(bound)
    seen = len(dfns.requests)
    for _ in range(3):
        with pytest.raises(CustodyClockError):
            hand_over(bound)
    assert len(dfns.requests) == seen
    alarms = [record for record in caplog.records if "custody_clock_skew" in record.getMessage()]
    assert [record.levelname for record in alarms] == ["ERROR"]
    assert "'custody': 'DFNS'" in alarms[0].getMessage()
    assert not dfns.entities


def test_secrets_are_shown_by_nothing(bound: Key, dfns: FakeDfns, settings: Any) -> None:
    from keyguard.backends.dfns import configured

    dfns.lose_request()
    with pytest.raises(CustodyUnreachableError) as caught:
        hand_over(bound)
    for shown in (repr(configured.read()), repr(caught.value), json.dumps(str(caught.value.__context__))):
        assert "token-of-the-tests" not in shown
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
    secrets = [*dfns.used_actions, "token-of-the-tests", settings.DFNS_CREDENTIAL_KEY[30:60], "BEGIN PRIVATE"]
    for secret in secrets:
        assert secret not in caplog.text
