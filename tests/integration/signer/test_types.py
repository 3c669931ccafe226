"""Each kind of transaction on a real chain: sent, mined, replaced, and taken back by a no-op of the right kind."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from eth_account.messages import _hash_eip191_message, encode_defunct, encode_typed_data

import keyguard
from dalp.local.servers import AnvilServer
from keyguard.backends import BACKENDS, database
from signer.control import speed_up_transaction
from signer.errors import EnvelopeUnsupportedError, NotPossibleError
from signer.fees import Fees
from signer.models import Attempt, Blob, Transaction
from signer.rpc_errors import ErrorClass, classify_message
from tests.integration.signer.lying_node import LyingNode
from tests.integration.signer.stage import Stage, wait

SLOT = "0x" + "00" * 32
TO = "0x" + "11" * 20
# 4096 field elements, each with 31 bytes of data.
BLOB = "0x" + ("00" + "5a" * 31) * 4096


def receipt(row: Transaction) -> dict[str, Any]:
    row.refresh_from_db()
    assert row.winner is not None, (row.state, row.sub_state, row.error)
    assert row.winner.receipt is not None
    return row.winner.receipt


def on_chain(stage: Stage, row: Transaction) -> dict[str, Any]:
    return dict(stage.rpc("eth_getTransactionByHash", receipt(row)["transactionHash"]))


def bump(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is out replaced, once."""
    with monkeypatch.context() as patience:
        wait(patience, bump_after_seconds=0)
        patience.setattr("signer.lanes.Drain.run", lambda self, deadline, lock: self._round())
        stage.drain()


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"envelope": "legacy"}, "0x0"),
        ({"envelope": "access_list"}, "0x1"),
        ({"envelope": "access_list", "access_list": [{"address": TO, "storageKeys": [SLOT]}]}, "0x1"),
        ({}, "0x2"),
        ({"access_list": [{"address": TO, "storageKeys": [SLOT]}]}, "0x2"),
        ({"blobs": [BLOB]}, "0x3"),
    ],
)
def test_each_kind_is_mined_as_what_it_is(stage: Stage, fields: dict[str, Any], kind: str) -> None:
    row = stage.submit(**fields)
    stage.settle()
    assert (receipt(row)["type"], receipt(row)["status"]) == (kind, "0x1")
    if "access_list" in fields:
        assert on_chain(stage, row)["accessList"] == fields["access_list"]
        # 21 000, an address and a slot.
        assert int(receipt(row)["gasUsed"], 16) == 21_000 + 2_400 + 1_900
    if "blobs" in fields:
        assert int(receipt(row)["blobGasUsed"], 16) == 131_072


@pytest.mark.parametrize("envelope", ["legacy", "access_list", "dynamic_fee"])
def test_contract_is_deployed_by_each_kind_that_can(stage: Stage, envelope: str) -> None:
    init_code = "0x65602a6000550060005260066 01af3".replace(" ", "")
    row = stage.submit(to=None, value=0, data=init_code, envelope=envelope)
    stage.settle()
    address = receipt(row)["contractAddress"]
    assert stage.rpc("eth_getCode", address, "latest") == "0x602a60005500"


def test_gas_price_on_a_chain_with_a_base_fee_is_not_the_cap(stage: Stage) -> None:
    legacy, dynamic = stage.submit(envelope="legacy"), stage.submit()
    stage.settle()
    [one], [two] = stage.attempts(legacy.pk), stage.attempts(dynamic.pk)
    assert one.max_fee_per_gas_wei == one.max_priority_fee_per_gas_wei < two.max_fee_per_gas_wei
    assert int(on_chain(stage, legacy)["gasPrice"], 16) == one.max_fee_per_gas_wei


@pytest.mark.case("S60")
def test_chain_without_a_base_fee_gets_gas_prices(
    fresh_db: str, start_anvil: Callable[..., AnvilServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(start_anvil(extra=["--no-mining", "--hardfork", "berlin"]))
    assert stage.chain.fee_market == "LEGACY"
    with pytest.raises(EnvelopeUnsupportedError):
        stage.submit(envelope="dynamic_fee")
    assert not Transaction.objects.exists()
    plain = stage.submit(valid_until=timezone.now() + timedelta(hours=1))
    listed = stage.submit(access_list=[{"address": TO, "storageKeys": [SLOT]}])
    stage.drain()
    bump(stage, monkeypatch)
    first, second = stage.attempts(plain.pk)
    assert second.max_fee_per_gas_wei * 8 >= first.max_fee_per_gas_wei * 9
    Transaction.objects.filter(pk=plain.pk).update(valid_until=timezone.now() - timedelta(seconds=1))
    stage.drain()
    assert [attempt.purpose for attempt in stage.attempts(plain.pk)] == ["PAYLOAD", "PAYLOAD", "NOOP"]
    stage.mine()
    stage.watch()
    assert (receipt(plain)["type"], plain.state) == ("0x0", "EXPIRED")
    assert (receipt(listed)["type"], listed.state) == ("0x1", "COMPLETED")


# --- Blobs ------------------------------------------------------------------------------------------------


@pytest.mark.case("S59")
def test_blob_transaction_is_replaced_by_one_that_offers_twice_as_much_of_all_three(
    manual: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = manual.submit(blobs=[BLOB, BLOB])
    manual.drain()
    bump(manual, monkeypatch)
    first, second = manual.attempts(row.pk)
    for name in ("max_fee_per_gas_wei", "max_priority_fee_per_gas_wei", "max_fee_per_blob_gas_wei"):
        assert getattr(second, name) >= 2 * getattr(first, name) > 0
    assert [attempt.state for attempt in (first, second)] == ["SENT", "SENT"]
    assert manual.pool()["0"]["hash"] == second.hash
    manual.mine()
    manual.watch()
    assert (receipt(row)["type"], row.state, row.winner) == ("0x3", "COMPLETED", second)
    assert int(receipt(row)["blobGasUsed"], 16) == 2 * 131_072
    blob_cost = 2 * 131_072 * second.max_fee_per_blob_gas_wei
    assert second.max_cost_wei == second.gas_limit * second.max_fee_per_gas_wei + blob_cost + 1


def test_many_blobs_go_out_in_requests_that_a_node_takes(manual: Stage) -> None:
    """anvil refuses more than two megabytes with the words "Invalid request"."""
    rows = [manual.submit(blobs=[BLOB]) for _ in range(9)]
    manual.drain()
    assert len(manual.pool()) == len(rows)
    assert set(Attempt.objects.values_list("state", "send_count")) == {("SENT", 1)}


@pytest.mark.case("S59")
def test_person_who_raises_a_blob_transaction_must_double_it(manual: Stage) -> None:
    row = manual.submit(blobs=[BLOB])
    manual.drain()
    [first] = manual.attempts(row.pk)
    cap, tip = first.max_fee_per_gas_wei, first.max_priority_fee_per_gas_wei
    act = {"actor": "ada", "reason": "in a hurry"}
    for offer in (Fees(2 * cap - 1, 2 * tip), Fees(2 * cap, 2 * tip, first.max_fee_per_blob_gas_wei)):
        with pytest.raises(NotPossibleError, match="for blobs"):
            speed_up_transaction(row, offer, **act)
    speed_up_transaction(row, Fees(3 * cap, 2 * tip), **act)
    manual.drain()
    _, second = manual.attempts(row.pk)
    assert second.max_fee_per_gas_wei == 3 * cap
    assert second.max_fee_per_blob_gas_wei == 2 * first.max_fee_per_blob_gas_wei
    assert second.state == "SENT"


@pytest.mark.case("S59", "S61")
def test_blob_transaction_makes_way_for_a_blob_transaction_only(manual: Stage) -> None:
    row = manual.submit(blobs=[BLOB, BLOB], valid_until=timezone.now() + timedelta(hours=1))
    manual.drain()
    Transaction.objects.update(valid_until=timezone.now() - timedelta(seconds=1))
    manual.drain()
    payload, noop = manual.attempts(row.pk)
    assert (payload.blob_count, noop.purpose, noop.blob_count) == (2, "NOOP", 1)
    assert noop.max_fee_per_blob_gas_wei >= 2 * payload.max_fee_per_blob_gas_wei
    manual.mine()
    manual.watch()
    assert (receipt(row)["type"], row.state, row.winner) == ("0x3", "EXPIRED", noop)
    assert on_chain(manual, row)["to"].lower() == manual.key.address.lower()
    assert len(on_chain(manual, row)["blobVersionedHashes"]) == 1


def test_blobs_are_kept_apart_and_exactly(stage: Stage) -> None:
    other = BLOB[:-2] + "01"
    row = stage.submit(blobs=[BLOB, other.upper().replace("0X", "0x")])
    assert (row.envelope, row.blob_count) == ("BLOB", 2)
    stored = Blob.objects.filter(transaction=row).order_by("position")
    assert ["0x" + bytes(blob.data).hex() for blob in stored] == [BLOB, other]
    assert stage.submit(blobs=[BLOB, other], idempotency_key="request-1") == row
    assert Blob.objects.count() == 2


@pytest.mark.parametrize(("blob_base_fee", "why"), [(10**9, "INSUFFICIENT_FUNDS"), (10**12, "FEE_CAPPED")])
def test_blobs_are_reckoned_with_before_a_nonce_is_given(
    manual: Stage, liar: LyingNode, blob_base_fee: int, why: str
) -> None:
    prices = {"baseFeePerGas": [hex(10**9)] * 2, "reward": [], "baseFeePerBlobGas": [hex(blob_base_fee)]}
    liar.lie = lambda call: {"result": prices} if call["method"] == "eth_feeHistory" else None
    # Enough for the gas and the value, not for 131 072 blob gas beside.
    manual.rpc("anvil_setBalance", manual.key.address, hex(21_000 * 3 * 10**9 + 1))
    row = manual.submit(blobs=[BLOB])
    manual.drain()
    row.refresh_from_db()
    assert (row.state, row.sub_state, row.nonce) == ("QUEUED", why, None)
    plain = manual.submit()
    Transaction.objects.filter(pk=row.pk).update(state="CANCELLED", settled_at=timezone.now())
    manual.drain()
    plain.refresh_from_db()
    assert plain.nonce == 0


@pytest.mark.case("S39")
def test_address_that_is_reserved_for_the_other_pool_waits_and_keeps_its_kind(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = {"error": {"code": -32000, "message": "address already reserved"}}
    liar.lie = lambda call: refusal if call["method"] == "eth_sendRawTransaction" else None
    row = manual.submit(blobs=[BLOB])
    manual.drain()
    row.refresh_from_db()
    assert (row.state, row.sub_state, row.envelope) == ("BROADCASTING", "NODE_FULL", "BLOB")
    [attempt] = manual.attempts(row.pk)
    liar.lie = lambda call: None
    wait(monkeypatch, resend_seconds=0)
    manual.drain()
    assert manual.pool()["0"]["hash"] == attempt.hash
    manual.mine()
    manual.watch()
    assert (receipt(row)["type"], row.state) == ("0x3", "COMPLETED")
    assert len(manual.attempts(row.pk)) == 1


# --- Signatures -------------------------------------------------------------------------------------------


def lying_backend(monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]) -> None:
    honest = database.DatabaseBackend()

    class Lying(database.DatabaseBackend):
        def prepare(self, key: Any) -> Any:
            sign = honest.prepare(key)
            return lambda digests: [change(signature) for signature in sign(digests)]

    monkeypatch.setitem(BACKENDS, "database", Lying)


def high(signature: bytes) -> bytes:
    s = keyguard.curve.ORDER - int.from_bytes(signature[32:64])
    return signature[:32] + s.to_bytes(32) + bytes([signature[64] ^ 1])


@pytest.mark.case("S75")
def test_high_s_is_lowered_before_the_bytes_are_committed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying_backend(monkeypatch, high)
    row = stage.submit()
    stage.settle()
    assert receipt(row)["status"] == "0x1"
    assert int(on_chain(stage, row)["s"], 16) <= keyguard.curve.HALF_ORDER


@pytest.mark.case("S75")
def test_signature_of_another_key_is_never_committed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = bytearray(b"\7" * 32)
    lying_backend(monkeypatch, lambda signature: keyguard.curve.sign(stranger, signature[:32]))
    row = stage.submit()
    stage.drain()
    row.refresh_from_db()
    assert (row.state, row.sub_state, row.nonce) == ("QUEUED", "SIGNER_UNAVAILABLE", None)
    assert not Attempt.objects.exists()


def test_signed_messages_recover_on_the_chain_to_the_key(stage: Stage) -> None:
    typed = {
        "types": {"Vote": [{"name": "support", "type": "bool"}]},
        "primaryType": "Vote",
        "domain": {"chainId": 31337, "verifyingContract": stage.key.address},
        "message": {"support": True},
    }
    signatures = [
        (encode_defunct(b"hello"), keyguard.sign_message(stage.key.address, b"hello", "m")),
        (encode_typed_data(full_message=typed), keyguard.sign_typed_data(stage.key.address, typed, "t")),
    ]
    for signable, signature in signatures:
        v = signature[64:].rjust(32, b"\0")
        data = _hash_eip191_message(signable) + v + signature[:64]
        call = {"to": "0x" + "00" * 19 + "01", "data": "0x" + data.hex()}
        assert stage.rpc("eth_call", call, "latest")[26:] == stage.key.address[2:].lower()


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("max fee per blob gas less than block blob gas fee", ErrorClass.UNDERPRICED),
        ("address already reserved", ErrorClass.LIMIT),
        ("authority already reserved", ErrorClass.LIMIT),
    ],
)
def test_refusals_of_the_newer_kinds_are_understood(text: str, meaning: ErrorClass) -> None:
    assert classify_message(text) is meaning
