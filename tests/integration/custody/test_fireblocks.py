"""Fireblocks' client, through the vendor's SDK, against a service that checks what the real one checks."""

from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

import keyguard
from keyguard import CustodyState
from keyguard.backends.fireblocks.custodian import split, units
from keyguard.custodians import custodian_of
from keyguard.errors import (
    CustodyMisconfiguredError,
    CustodyUnreachableError,
)
from keyguard.handing_over import ASKING, ON_ITS_WAY
from keyguard.models import HandOver, Key
from tests.fakes.credentials import VAULT
from tests.fakes.fireblocks import FakeFireblocks
from tests.fakes.serving import Reply
from tests.integration.custody.asking import HASH, TO, hand_over, request, status, ticket
from tests.threads import at_once

CREATE = ("POST", "/transactions")


# --- What is asked ------------------------------------------------------------------------------------------


def test_calls_and_transfers_are_asked_for_in_the_words_of_the_documents(
    bound: Key, fireblocks: FakeFireblocks
) -> None:
    fireblocks.keep = True
    assert bound.address == fireblocks.account("7", "ETH_TEST5").address
    hand_over(bound, "pay", value=10**18 + 1, maxFeePerGas=25 * 10**9, gas=50_000)
    hand_over(bound, "call", value=0, data="0xa9059cbb")
    pay, call = (fireblocks.by_external_id(each).body for each in ("pay", "call"))
    assert pay == {
        "operation": "TRANSFER",
        "assetId": "ETH_TEST5",
        "source": {"type": "VAULT_ACCOUNT", "id": "7"},
        "destination": {"type": "ONE_TIME_ADDRESS", "oneTimeAddress": {"address": TO}},
        "amount": "1.000000000000000001",
        "maxFee": "25",
        "externalTxId": "pay",
        "note": "DALP pay",
    }
    assert (call["operation"], call["amount"]) == ("CONTRACT_CALL", "0")
    assert call["extraParameters"] == {"contractCallData": "0xa9059cbb"}
    created = [each for each in fireblocks.requests if each.method == "POST"]
    assert [each.headers["idempotency-key"] for each in created] == ["pay", "call"]


@pytest.mark.parametrize(
    ("wei", "text"),
    [(0, "0"), (1, "0.000000000000000001"), (10**18, "1"), (25 * 10**17, "2.5"), (100 * 10**18, "100")],
)
def test_amounts_are_exact(wei: int, text: str) -> None:
    assert units(wei, 18) == text


def test_amounts_stay_exact_at_any_size() -> None:
    assert units(2**256 - 1, 18).replace(".", "") == str(2**256 - 1)


def test_chain_is_asked_for_only_where_the_account_has_the_keys_address(
    bound: Key, fireblocks: FakeFireblocks
) -> None:
    main = keyguard.bind_key("main", "fireblocks", "7/ETH")
    fireblocks.keep = True
    assert hand_over(main, "polygon", chainId=137).state == CustodyState.WORKING
    assert fireblocks.by_external_id("polygon").body["assetId"] == "MATIC_POLYGON"
    with pytest.raises(CustodyMisconfiguredError, match="another address"):
        hand_over(bound, "wrong-key", chainId=1)
    with pytest.raises(CustodyMisconfiguredError, match="chain 5"):
        hand_over(bound, "unknown-chain", chainId=5)
    creation = hand_over(bound, "creation", to=None, data="0x6000")
    assert (creation.state, creation.reason) == (
        CustodyState.REFUSED,
        "Fireblocks creates no contracts by a call",
    )
    assert fireblocks.count(*CREATE) == 1


@pytest.mark.case("K30")
@pytest.mark.parametrize("reference", ["../7/ETH", "7/..", "7", "seven/ETH", "7/ETH/1", "7/ETH\n", ""])
def test_reference_that_is_none_is_refused_here(reference: str) -> None:
    with pytest.raises(CustodyMisconfiguredError):
        split(reference)


def test_key_is_bound_by_what_people_see_at_the_custody(
    fresh_db: str, fireblocks: FakeFireblocks, capsys: pytest.CaptureFixture[str]
) -> None:
    address = fireblocks.account("7", "ETH_TEST5").address
    options = {"alias": "treasury", "uri": f"fireblocks:{VAULT}"}
    with pytest.raises(CommandError, match=f"has {address}"):
        call_command("bind_key", address=TO, **options)
    fireblocks.sign_as = fireblocks.account("8", "ETH")
    with pytest.raises(CommandError, match="not its address's"):
        call_command("bind_key", address=address, **options)
    fireblocks.sign_as = None
    assert not Key.objects.exists()
    call_command("bind_key", address=address, **options)
    assert capsys.readouterr().out.strip() == address
    assert str(Key.objects.get().uri) == f"fireblocks:{VAULT}"
    with pytest.raises(CommandError, match="KEYGUARD_CUSTODY_MISCONFIGURED"):
        call_command("bind_key", address=address, alias="b", uri="fireblocks:7/DOGE")
    with pytest.raises(CommandError, match=r"KEYGUARD_KEY_URI_INVALID: .* as fireblocks:7/ETH"):
        call_command("bind_key", address=address, alias="b", uri="fireblocks:../7")


# --- Answers that do not come -------------------------------------------------------------------------------


@pytest.mark.case("K24")
@pytest.mark.parametrize("fault", ["lose_answer", "lose_request", "slow", "500"])
def test_lost_reply_is_found_by_the_external_id_and_never_asked_for_twice(
    bound: Key, fireblocks: FakeFireblocks, fault: str
) -> None:
    fireblocks.keep = True
    match fault:
        case "slow":
            fireblocks.delay(1.0, *CREATE)
        case "500":
            fireblocks.answer(Reply(502, b"<html>bad gateway</html>"), *CREATE)
        case _:
            getattr(fireblocks, fault)(*CREATE)
    with pytest.raises(CustodyUnreachableError):
        hand_over(bound, seconds=0.5)
    is_there = fault in ("lose_answer", "slow")
    if is_there:
        assert hand_over(bound).state == CustodyState.WORKING
    else:
        with pytest.raises(CustodyUnreachableError, match="somebody asks"):
            hand_over(bound)
        HandOver.objects.update(asked_at=Now() - ASKING)
        assert hand_over(bound).state == CustodyState.WORKING
    assert len(fireblocks.transactions) == 1
    assert fireblocks.count(*CREATE) == (1 if is_there else 2)


@pytest.mark.case("K24")
def test_request_that_arrives_late_is_not_done_beside_the_second(
    bound: Key, fireblocks: FakeFireblocks
) -> None:
    fireblocks.keep = True
    hand_over(bound)
    # As if the lookup had missed it, after the time in which the same key gives the same answer.
    fireblocks.answers.clear()
    call = keyguard.handing_over.decode_call(request(bound).call, bound.address)
    report = custodian_of("fireblocks").submit(ticket(), call, timeout_seconds=5)
    assert report.state == CustodyState.WORKING
    assert len(fireblocks.transactions) == 1


@pytest.mark.case("K23", "K24")
def test_many_workers_at_once_are_one_request(bound: Key, fireblocks: FakeFireblocks) -> None:
    fireblocks.keep = True

    def ask(_: int) -> str:
        try:
            return str(hand_over(bound).state)
        except CustodyUnreachableError:
            return "another asks"

    assert "WORKING" in at_once(8, ask)
    assert fireblocks.count(*CREATE) == len(fireblocks.transactions) == 1


def test_404_of_somebody_else_is_no_word_of_the_custody(bound: Key, fireblocks: FakeFireblocks) -> None:
    custodian = custodian_of("fireblocks")
    fireblocks.answer(Reply(404, b"<html>no such page</html>"))
    with pytest.raises(CustodyUnreachableError):
        custodian.find(ticket(), timeout_seconds=2)
    assert custodian.find(ticket(), timeout_seconds=2).state == CustodyState.UNKNOWN
    fireblocks.answer(Reply(302, b"", {"Location": f"{fireblocks.url}/elsewhere"}))
    with pytest.raises(CustodyUnreachableError, match="302"):
        custodian.find(ticket(), timeout_seconds=2)
    assert not any("elsewhere" in each.path for each in fireblocks.requests)


# --- What it says -------------------------------------------------------------------------------------------


@pytest.mark.case("K26")
@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("SUBMITTED", "WORKING"),
        ("PENDING_AML_SCREENING", "WORKING"),
        ("PENDING_ENRICHMENT", "WORKING"),
        ("PENDING_AUTHORIZATION", "AWAITING_APPROVAL"),
        ("PENDING_3RD_PARTY_MANUAL_APPROVAL", "AWAITING_APPROVAL"),
        ("QUEUED", "WORKING"),
        ("PENDING_SIGNATURE", "WORKING"),
        ("CANCELLING", "WORKING"),
        ("BROADCASTING", "SENT"),
        ("CONFIRMING", "SENT"),
        ("COMPLETED", "SENT"),
        ("CANCELLED", "REFUSED"),
        ("BLOCKED", "REFUSED"),
        ("REJECTED", "REFUSED"),
        ("FAILED", "FAILED"),
        ("TELEPORTED", "WORKING"),
        ("completed", "WORKING"),
        (7, "WORKING"),
    ],
)
def test_each_word_means_one_thing_and_an_unknown_one_means_working(
    bound: Key, fireblocks: FakeFireblocks, said: Any, state: str
) -> None:
    fireblocks.keep = True
    hand_over(bound)
    sent = {"txHash": HASH} if state == "SENT" else {}
    fireblocks.shows = {
        "status": said,
        "subStatus": "INSUFFICIENT_FUNDS",
        "unheard": {"of": [1]},
        "amount": "no number",
        **sent,
    }
    found = status()
    assert (found.state, found.hash) == (state, HASH if sent else "")
    assert found.reason == (f"{said}, INSUFFICIENT_FUNDS" if state in ("REFUSED", "FAILED") else "")
    if state == "SENT":
        fireblocks.shows["txHash"] = ""
        assert status().state == CustodyState.WORKING


@pytest.mark.case("K26")
@pytest.mark.parametrize(
    "why", ["", "INTERNAL_ERROR", "TIMEOUT", "DROPPED_BY_BLOCKCHAIN", "A_NEW_WORD", None]
)
def test_failed_without_a_hash_is_no_end_where_it_may_have_been_sent(
    bound: Key, fireblocks: FakeFireblocks, why: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fireblocks.keep = True
    hand_over(bound)
    fireblocks.shows = {"status": "FAILED", "subStatus": why}
    found = status()
    assert (found.state, found.hash) == (CustodyState.WORKING, "")
    assert "may have been sent" in found.reason
    assert any("custody_end_unclear" in record.getMessage() for record in caplog.records)
    fireblocks.shows["txHash"] = HASH
    assert (status().state, status().hash) == (CustodyState.FAILED, HASH), "its receipt says the rest"


def test_hash_that_was_named_once_stays_named(bound: Key, fireblocks: FakeFireblocks) -> None:
    fireblocks.keep = True
    hand_over(bound)
    fireblocks.shows = {"status": "BROADCASTING", "txHash": HASH}
    assert status().hash == HASH
    fireblocks.shows = {"status": "FAILED", "subStatus": "INSUFFICIENT_FUNDS", "txHash": ""}
    ended = status()
    assert (ended.state, ended.hash) == (CustodyState.FAILED, HASH), "nobody may take it for never sent"


@pytest.mark.case("K26")
@pytest.mark.parametrize(
    "shows", [{"status": None}, {"id": ""}, {"externalTxId": "another"}, {"externalTxId": None}]
)
def test_answer_about_something_else_is_none(bound: Key, fireblocks: FakeFireblocks, shows: Any) -> None:
    fireblocks.keep = True
    hand_over(bound)
    fireblocks.shows = shows
    with pytest.raises(CustodyUnreachableError, match="something else"):
        status()
    fireblocks.shows = {}
    for nonsense in (b"", b"[]", b"null", b"{", b"[" * 100_000):
        fireblocks.answer(Reply(200, nonsense))
        with pytest.raises(CustodyUnreachableError):
            status()
    assert HandOver.objects.get().state == "WORKING"


def test_refusals_come_with_their_reason(bound: Key, fireblocks: FakeFireblocks) -> None:
    fireblocks.refuse = "BLOCKED_BY_POLICY"
    blocked = hand_over(bound)
    assert blocked.state == CustodyState.WORKING, "the answer to the request says no more"
    blocked = status()
    assert (blocked.state, blocked.reason) == (CustodyState.REFUSED, "BLOCKED, BLOCKED_BY_POLICY")
    fireblocks.answer(Reply(400, {"message": "Insufficient funds", "code": 1}), *CREATE)
    malformed = hand_over(bound, "second")
    assert (malformed.state, malformed.reason) == (CustodyState.REFUSED, "Insufficient funds")


@pytest.mark.case("K25")
def test_what_waits_for_approval_is_called_off_and_read_again(bound: Key, fireblocks: FakeFireblocks) -> None:
    fireblocks.hold = True
    hand_over(bound)
    assert status().state == CustodyState.AWAITING_APPROVAL
    fireblocks.lose_answer("POST", "/cancel")
    with pytest.raises(CustodyUnreachableError):
        keyguard.call_off("first", timeout_seconds=2)
    ended = keyguard.call_off("first", timeout_seconds=2)
    assert (ended.state, ended.reason) == (CustodyState.REFUSED, "CANCELLED, CANCELLED_BY_USER")
    assert fireblocks.count("POST", "/cancel") == 1, "asked again, it is looked at first"
    fireblocks.hold, fireblocks.keep = False, True
    hand_over(bound, "late")
    fireblocks.shows = {"status": "BROADCASTING", "txHash": HASH}
    assert keyguard.call_off("late", timeout_seconds=2).state == CustodyState.SENT, "too late"
    assert fireblocks.count("POST", "/cancel") == 1


def test_called_off_before_it_is_known_it_is_given_time_to_arrive(
    bound: Key, fireblocks: FakeFireblocks
) -> None:
    fireblocks.lose_request(*CREATE)
    with pytest.raises(CustodyUnreachableError):
        hand_over(bound)
    assert keyguard.call_off("first", timeout_seconds=2).state == CustodyState.UNKNOWN
    HandOver.objects.update(asked_at=Now() - ON_ITS_WAY - timedelta(seconds=1))
    assert keyguard.call_off("first", timeout_seconds=2).state == CustodyState.FAILED
    assert fireblocks.count("POST", "") == 1
