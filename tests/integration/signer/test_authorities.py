"""Accounts handed to contracts (EIP-7702), and their nonces: used by the lane or by an authorisation, never by both."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

import keyguard
from keyguard import allow_delegate, create_key
from keyguard.models import Key, SigningRecord
from signer import authorities, lanes, signing
from signer.errors import AuthorityTwiceError, UnknownAuthorityError
from signer.models import Attempt, Authorization, Lane, Transaction
from signer.resync import lane_difference
from tests.integration.signer.lying_node import LyingNode
from tests.integration.signer.stage import Crash, Stage, crash_at

# Whoever is called with this code has 42 in its slot 0 afterwards.
INIT_CODE = "0x65602a6000550060005260066" + "01af3"
ZERO = "0x" + "00" * 20


@pytest.fixture
def delegate(manual: Stage) -> str:
    """A contract that accounts may be handed to."""
    row = manual.submit(to=None, value=0, data=INIT_CODE)
    manual.drain()
    mine(manual)
    row.refresh_from_db()
    assert row.winner is not None
    assert row.winner.receipt is not None
    address: str = row.winner.receipt["contractAddress"]
    allow_delegate(31337, address, "sets slot 0 to 42")
    return address


@pytest.fixture
def wallet(manual: Stage) -> Key:
    """Another key, without money."""
    return create_key("wallet")


def mine(stage: Stage) -> None:
    stage.mine()
    stage.watch()


def hand_over(stage: Stage, delegate: str, authority: str = "sender", **fields: Any) -> Transaction:
    """Submit a transaction that hands the authority's account to the delegate."""
    wanted = [{"authority": authority, "delegate": delegate}]
    return stage.submit(authorizations=wanted, value=0, gas_limit=200_000, **fields)


def lane_of(key: Key) -> Lane:
    return Lane.objects.get(address=key.address)


def code(stage: Stage, address: str) -> str:
    return str(stage.rpc("eth_getCode", address, "latest"))


def count(stage: Stage, address: str) -> int:
    return int(stage.rpc("eth_getTransactionCount", address, "latest"), 16)


def slot(stage: Stage, address: str) -> int:
    return int(stage.rpc("eth_getStorageAt", address, "0x0", "latest"), 16)


def state(row: Transaction) -> tuple[str, str, int | None]:
    row.refresh_from_db()
    return row.state, row.sub_state, row.nonce


def test_account_hands_itself_over_and_is_called_through(manual: Stage, delegate: str) -> None:
    row = hand_over(manual, delegate)
    after = manual.submit(to=manual.key.address, value=0, gas_limit=100_000)
    manual.drain()
    # The authorisation takes the nonce after the transaction's own, so nothing else is given out before it is settled.
    assert state(row) == ("BROADCASTING", "", 1)
    assert state(after) == ("QUEUED", "AUTHORIZING", None)
    assert manual.lane.next_nonce == 3
    mine(manual)
    row.refresh_from_db()
    assert row.winner is not None
    assert row.winner.receipt is not None
    assert (row.state, row.winner.receipt["type"]) == ("COMPLETED", "0x4")
    assert code(manual, manual.key.address) == "0xef0100" + delegate[2:].lower()
    manual.drain()
    mine(manual)
    assert state(after) == ("COMPLETED", "", 3)
    assert slot(manual, manual.key.address) == 42
    assert manual.lane.state == "ACTIVE"
    assert count(manual, manual.key.address) == 4


def test_account_without_money_is_handed_over_by_another_and_taken_back(
    manual: Stage, delegate: str, wallet: Key
) -> None:
    row = hand_over(manual, delegate, "wallet", to=wallet.address)
    manual.drain()
    assert state(row) == ("BROADCASTING", "", 1)
    assert (manual.lane.next_nonce, lane_of(wallet).next_nonce) == (2, 1)
    mine(manual)
    assert state(row)[0] == "COMPLETED"
    assert (count(manual, wallet.address), slot(manual, wallet.address)) == (1, 42)
    # The lane goes on where the authorisation has left it.
    manual.rpc("anvil_setBalance", wallet.address, hex(10**18))
    own = manual.submit(sender="wallet")
    lanes.drain(lane_of(wallet).pk)
    mine(manual)
    assert state(own) == ("COMPLETED", "", 1)
    back = hand_over(manual, ZERO, wallet.address)
    manual.drain()
    mine(manual)
    assert state(back)[0] == "COMPLETED"
    assert code(manual, wallet.address) == "0x"
    assert Authorization.objects.get(transaction=back).nonce == 2


@pytest.mark.case("K15")
def test_delegate_that_is_not_allowed_fails_that_transaction_and_uses_no_nonce(
    manual: Stage, delegate: str, wallet: Key
) -> None:
    row, after = hand_over(manual, "0x" + "12" * 20, "wallet"), manual.submit()
    manual.drain()
    assert state(row) == ("FAILED", "", None)
    assert row.error is not None
    assert row.error["code"] == "KEYGUARD_DELEGATE_NOT_ALLOWED"
    assert state(after) == ("BROADCASTING", "", 1)
    assert lane_of(wallet).next_nonce is None
    assert not SigningRecord.objects.filter(kind="DELEGATION", state="SIGNED").exists()


def test_authority_must_be_a_key_and_authorises_once(manual: Stage, wallet: Key) -> None:
    with pytest.raises(UnknownAuthorityError):
        hand_over(manual, ZERO, "nobody")
    twice = [{"authority": name, "delegate": ZERO} for name in ("wallet", wallet.address)]
    with pytest.raises(AuthorityTwiceError):
        manual.submit(authorizations=twice, gas_limit=200_000)
    assert not Transaction.objects.exists()


def test_busy_authority_is_waited_for_and_the_others_go_on(manual: Stage, delegate: str, wallet: Key) -> None:
    manual.rpc("anvil_setBalance", wallet.address, hex(10**18))
    own = manual.submit(sender="wallet")
    lanes.drain(lane_of(wallet).pk)
    row, after = hand_over(manual, delegate, "wallet"), manual.submit()
    manual.drain()
    assert state(row) == ("QUEUED", "AUTHORIZING", None)
    assert state(after) == ("BROADCASTING", "", 1)
    mine(manual)
    assert state(own)[0] == "COMPLETED"
    manual.drain()
    mine(manual)
    assert state(row) == ("COMPLETED", "", 2)
    assert Authorization.objects.get(transaction=row).nonce == 1
    assert code(manual, wallet.address) == "0xef0100" + delegate[2:].lower()


def test_authority_gives_out_no_nonce_while_its_authorisation_is_under_way(
    manual: Stage, delegate: str, wallet: Key
) -> None:
    manual.rpc("anvil_setBalance", wallet.address, hex(10**18))
    row, second = hand_over(manual, delegate, "wallet"), hand_over(manual, ZERO, "wallet")
    manual.drain()
    own = manual.submit(sender="wallet")
    lanes.drain(lane_of(wallet).pk)
    assert state(own) == ("QUEUED", "AUTHORIZING", None)
    assert state(second) == ("QUEUED", "AUTHORIZING", None)
    mine(manual)
    assert state(row)[0] == "COMPLETED"
    lanes.drain(lane_of(wallet).pk)
    assert state(own) == ("BROADCASTING", "", 1)
    manual.drain()
    assert state(second) == ("QUEUED", "AUTHORIZING", None)
    mine(manual)
    manual.drain()
    mine(manual)
    assert state(second)[0] == "COMPLETED"
    assert (code(manual, wallet.address), count(manual, wallet.address)) == ("0x", 3)


@pytest.mark.sqlite_too
def test_of_two_workers_that_give_out_one_nonce_the_lanes_own_is_fenced(
    manual: Stage, delegate: str, wallet: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authority's worker has signed with nonce 0 when the sponsor's promises it to an authorisation."""
    manual.rpc("anvil_setBalance", wallet.address, hex(10**18))
    own, row = manual.submit(sender="wallet"), hand_over(manual, delegate, "wallet")
    sign = signing.sign

    def sign_late(held: Any, *rest: Any) -> Any:
        signed = sign(held, *rest)
        if held.row.address == wallet.address:
            monkeypatch.setattr(signing, "sign", sign)
            manual.drain()
        return signed

    monkeypatch.setattr(signing, "sign", sign_late)
    lanes.drain(lane_of(wallet).pk)
    assert state(own)[2] is None
    assert state(row) == ("BROADCASTING", "", 1)
    assert Authorization.objects.get().nonce == 0
    mine(manual)
    lanes.drain(lane_of(wallet).pk)
    mine(manual)
    assert (state(own), state(row)) == (("COMPLETED", "", 1), ("COMPLETED", "", 1))


@pytest.mark.sqlite_too
def test_of_two_workers_that_give_out_one_nonce_the_promise_gives_way_to_what_is_committed(
    manual: Stage, delegate: str, wallet: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sponsor's worker has the authorisation signed for nonce 0 when the authority's commits that nonce."""
    manual.rpc("anvil_setBalance", wallet.address, hex(10**18))
    own, row = manual.submit(sender="wallet"), hand_over(manual, delegate, "wallet")
    sign = signing.sign

    def sign_late(held: Any, *rest: Any) -> Any:
        signed = sign(held, *rest)
        if held.row.address == manual.key.address:
            monkeypatch.setattr(signing, "sign", sign)
            lanes.drain(lane_of(wallet).pk)
        return signed

    monkeypatch.setattr(signing, "sign", sign_late)
    manual.drain()
    assert state(own) == ("BROADCASTING", "", 0)
    assert state(row)[2] is None
    assert not Attempt.objects.filter(transaction=row).exists()
    mine(manual)
    manual.drain()
    mine(manual)
    assert state(row)[0] == "COMPLETED"
    assert Authorization.objects.get().nonce == 1


@pytest.mark.parametrize("point", ["signer.signed", "signer.attempts_inserted", "signer.attempts_committed"])
def test_death_around_the_commit_promises_a_nonce_once_or_not_at_all(
    manual: Stage, delegate: str, wallet: Key, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    row = hand_over(manual, delegate, "wallet")
    crash_at(monkeypatch, point)
    with pytest.raises(Crash):
        manual.drain()
    promised = 1 if point == "signer.attempts_committed" else None
    assert lane_of(wallet).next_nonce == promised
    manual.drain()
    assert lane_of(wallet).next_nonce == 1
    mine(manual)
    assert state(row) == ("COMPLETED", "", 1)
    assert code(manual, wallet.address) == "0xef0100" + delegate[2:].lower()
    assert SigningRecord.objects.filter(kind="DELEGATION").count() == 1


@pytest.mark.parametrize("authority", ["sender", "wallet"])
def test_expired_handover_makes_way_for_a_plain_no_op(
    manual: Stage, delegate: str, wallet: Key, authority: str
) -> None:
    row = hand_over(manual, delegate, authority, valid_until=timezone.now() + timedelta(hours=1))
    manual.drain()
    Transaction.objects.filter(pk=row.pk).update(valid_until=timezone.now() - timedelta(seconds=1))
    manual.drain()
    mine(manual)
    assert state(row)[0] == "EXPIRED"
    assert row.winner is not None
    assert row.winner.receipt is not None
    assert (row.winner.purpose, row.winner.receipt["type"]) == ("NOOP", "0x2")
    assert code(manual, manual.key.address) == code(manual, wallet.address) == "0x"
    # What was promised and not used is a gap, which a filler takes, or the address's next authorisation.
    if authority == "wallet":
        again = hand_over(manual, delegate, "wallet")
        manual.drain()
        mine(manual)
        assert state(again)[0] == "COMPLETED"
        assert Authorization.objects.get(transaction=again).nonce == 0
        assert lane_of(wallet).next_nonce == 1
        return
    after = manual.submit()
    manual.drain()
    mine(manual)
    assert state(after) == ("COMPLETED", "", 3)
    assert Transaction.objects.get(nonce=2).kind == "FILLER"


def test_replacement_carries_the_same_authorisations(
    manual: Stage, delegate: str, wallet: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [{"authority": name, "delegate": delegate} for name in ("sender", "wallet")]
    row = manual.submit(authorizations=wanted, value=0, gas_limit=300_000)
    manual.drain()
    with monkeypatch.context() as patience:
        patience.setitem(lanes.settings.SIGNER, "bump_after_seconds", 0)
        patience.setattr("signer.lanes.Drain.run", lambda self, deadline, lock: self._round())
        manual.drain()
    first, second = manual.attempts(row.pk)
    assert second.max_fee_per_gas_wei > first.max_fee_per_gas_wei
    mine(manual)
    assert state(row)[0] == "COMPLETED"
    assert row.winner == second
    assert code(manual, manual.key.address) == code(manual, wallet.address) != "0x"
    assert SigningRecord.objects.filter(kind="DELEGATION").count() == 2


def test_authority_whose_nonce_the_node_does_not_tell_is_waited_for(
    manual: Stage, delegate: str, wallet: Key, liar: LyingNode
) -> None:
    def lie(call: dict[str, Any]) -> dict[str, Any] | None:
        if call["method"] == "eth_getTransactionCount" and call["params"][0] == wallet.address:
            return {"error": {"code": -32000, "message": "busy"}}
        return None

    liar.lie = lie
    row = hand_over(manual, delegate, "wallet")
    manual.drain()
    assert state(row) == ("QUEUED", "AUTHORIZING", None)
    liar.lie = lambda call: None
    manual.drain()
    assert state(row) == ("BROADCASTING", "", 1)


def test_nonce_of_an_authorisation_is_the_next_after_those_that_are_used(manual: Stage, wallet: Key) -> None:
    row = hand_over(manual, ZERO, "wallet")
    [authorization] = Authorization.objects.filter(transaction=row)
    assert authorities.nonce_of(authorization, manual.lane, 7, {wallet.address: 3}) == 3
    assert authorities.nonce_of(authorization, manual.lane, 7, {}) is None
    authorization.nonce = 5
    assert authorities.nonce_of(authorization, manual.lane, 7, {}) == 5
    assert authorities.nonce_of(authorization, lane_of(wallet), 7, {wallet.address: 3}) == 8


def test_resync_knows_of_a_nonce_that_is_promised(manual: Stage, delegate: str, wallet: Key) -> None:
    hand_over(manual, delegate, "wallet")
    manual.drain()
    assert lane_difference(lane_of(wallet)).proposed_next_nonce == 1
    assert lane_difference(lane_of(wallet)).is_in_step


def test_key_that_cannot_sign_now_keeps_the_transaction_waiting(
    manual: Stage, delegate: str, wallet: Key
) -> None:
    row = hand_over(manual, delegate, "wallet")
    Key.objects.filter(pk=wallet.pk).update(state="SUSPENDED")
    manual.drain()
    assert state(row) == ("QUEUED", "SIGNER_UNAVAILABLE", None)
    Key.objects.filter(pk=wallet.pk).update(state="ACTIVE")
    manual.drain()
    assert state(row) == ("BROADCASTING", "", 1)
    assert keyguard.find_key("wallet").address == wallet.address
