"""Encoding and decoding against eth-account, and signatures against libsecp256k1's own rules."""

import os
from functools import lru_cache
from hashlib import sha256
from typing import Any

import ckzg
import pytest
import rlp
from eth_account import Account
from eth_account.datastructures import SignedTransaction
from eth_account.messages import encode_defunct
from eth_account.typed_transactions import TypedTransaction, base
from eth_account.typed_transactions.blob_transactions.blob_transaction import BlobTransaction
from hexbytes import HexBytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyguard import blobs, curve, ethereum
from keyguard.authorizations import SignedAuthorization
from keyguard.ethereum import UnsignedTransaction
from keyguard.floor import decode_authorization, decode_transaction

SECRET = bytearray(range(1, 33))
ADDRESS = curve.address_of(curve.public_key(SECRET))
TO = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"

LEGACY: dict[str, Any] = {
    "chainId": 31337,
    "nonce": 7,
    "gas": 53_000,
    "gasPrice": 2 * 10**9,
    "to": TO,
    "value": 10**18,
    "data": "0x" + "ab" * 68,
}
DYNAMIC: dict[str, Any] = {
    "type": 2,
    "chainId": 1,
    "nonce": 0,
    "gas": 21_000,
    "maxFeePerGas": 30 * 10**9,
    "maxPriorityFeePerGas": 10**9,
    "to": TO,
    "value": 0,
    "data": "0x",
}
VECTORS = [
    LEGACY,
    {**LEGACY, "chainId": 2**53, "nonce": 0, "value": 0, "data": "0x00"},
    {**LEGACY, "to": None, "data": "0x60" + "80" * 300},
    {**LEGACY, "gasPrice": 0, "data": "0x7f"},
    DYNAMIC,
    {**DYNAMIC, "data": "0x80", "value": 2**200, "nonce": 2**64 - 2},
    {**DYNAMIC, "to": None, "data": "0x" + "fe" * 20_000, "gas": 9_000_000},
    {**DYNAMIC, "data": "0x" + "00" * 55, "maxPriorityFeePerGas": 0},
    {**DYNAMIC, "data": "0x" + "01" * 56, "nonce": 128},
    {**LEGACY, "type": 1, "accessList": [{"address": TO, "storageKeys": ["0x" + "00" * 32]}]},
    {**LEGACY, "type": 1, "to": None, "data": "0x60", "accessList": []},
]


def raw_of(fields: dict[str, Any]) -> bytes:
    transaction = decode_transaction(fields, ADDRESS)
    return transaction.signed(curve.sign(SECRET, ethereum.digest(transaction.payload())))


def eth_account_signed(fields: dict[str, Any]) -> SignedTransaction:
    given = {name: value for name, value in fields.items() if value is not None and name != "blobs"}
    if "authorizationList" in given:
        without_name = [
            {k: v for k, v in one.items() if k != "authority"} for one in given["authorizationList"]
        ]
        given["authorizationList"] = without_name
    if given.get("type") == 0:  # eth-account knows it by its gas price
        del given["type"]
    return Account.from_key(bytes(SECRET)).sign_transaction(given, blobs=fields.get("blobs"))


def eth_account_raw(fields: dict[str, Any]) -> bytes:
    return bytes(eth_account_signed(fields).raw_transaction)


@pytest.mark.parametrize("fields", VECTORS)
def test_raw_transaction_is_byte_for_byte_what_eth_account_makes(fields: dict[str, Any]) -> None:
    assert raw_of(fields) == eth_account_raw(fields)


def test_digest_of_a_typed_transaction_is_eth_accounts() -> None:
    payload = decode_transaction(DYNAMIC, ADDRESS).payload()
    assert ethereum.digest(payload) == bytes(TypedTransaction.from_dict(DYNAMIC).hash())


addresses = st.binary(min_size=20, max_size=20).map(lambda raw: curve.checksummed("0x" + raw.hex()))
words = st.binary(min_size=32, max_size=32).map(lambda raw: "0x" + raw.hex())
access_lists = st.lists(
    st.fixed_dictionaries({"address": addresses, "storageKeys": st.lists(words, max_size=3)}), max_size=3
)
chain_ids = st.integers(1, 2**50)


@st.composite
def transactions(draw: st.DrawFn, kind: int) -> dict[str, Any]:
    """What is common to all, and what this type alone has; no blobs, which take long."""
    fields: dict[str, Any] = {
        "type": kind,
        "chainId": draw(chain_ids),
        "nonce": draw(st.integers(0, 2**64 - 2)),
        "gas": draw(st.integers(21_000, 2**32)),
        "to": draw(addresses),
        "value": draw(st.integers(0, 2**128)),
        "data": "0x" + draw(st.binary(max_size=300)).hex(),
    }
    fees = sorted((draw(st.integers(0, 2**80)), draw(st.integers(0, 2**80))))
    if kind in (0, 1):
        fields["gasPrice"] = fees[0]
    else:
        fields |= {"maxPriorityFeePerGas": fees[0], "maxFeePerGas": fees[1]}
    if kind != 0:
        fields["accessList"] = draw(access_lists)
    if kind == 4:
        authorities = draw(st.lists(st.integers(1, 2**200), min_size=1, max_size=3))
        fields["authorizationList"] = [authorization(draw, fields["chainId"], key) for key in authorities]
    return fields


def authorization(draw: st.DrawFn, chain_id: int, key: int) -> dict[str, Any]:
    plain = decode_authorization(chain_id, draw(addresses), draw(st.integers(0, 2**64 - 2)))
    signature = curve.sign(bytearray(key.to_bytes(32)), ethereum.digest(plain.payload()))
    return SignedAuthorization(chain_id, plain.delegate, plain.nonce, signature).fields()


def check(fields: dict[str, Any]) -> None:
    """Encoded, hashed and signed as eth-account does it, and taken apart again into itself."""
    transaction = decode_transaction(fields, ADDRESS)
    signature = curve.sign(SECRET, ethereum.digest(transaction.payload()))
    raw = transaction.signed(signature)
    theirs = eth_account_signed(fields)
    assert raw == bytes(theirs.raw_transaction)
    assert ethereum.decode_signed(raw) == (transaction, signature)
    assert curve.recover(signature, ethereum.digest(transaction.payload())) == curve.public_key(SECRET)
    assert transaction.hash(signature, raw) == ethereum.digest(canonical(raw))
    if fields["type"] != 3:  # eth-account's hash is over the sidecar, too, which is not how chains know it
        assert transaction.hash(signature, raw) == bytes(theirs.hash)


def canonical(raw: bytes) -> bytes:
    """Return what a block holds: a blob transaction without its sidecar."""
    return b"\x03" + rlp.encode(rlp.decode(raw[1:])[0]) if raw[0] == 3 else raw


@pytest.mark.parametrize("kind", [0, 1, 2, 4])
def test_any_transaction_encodes_as_eth_account_does_and_decodes_to_itself(kind: int) -> None:
    settings(max_examples=60, deadline=None)(given(transactions(kind))(check))()


@pytest.fixture
def quick_kzg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have eth-account read the trusted setup once, not for each commitment, and prove each blob once."""
    monkeypatch.setattr(base, "load_trusted_setup", lambda *_: blobs.trusted_setup())
    monkeypatch.setattr(base, "compute_cells_and_kzg_proofs", lru_cache(base.compute_cells_and_kzg_proofs))


def blob(seed: int) -> bytes:
    """4096 field elements, each with 31 bytes of data."""
    return b"".join(b"\x00" + seed.to_bytes(2) * 15 + bytes([place % 256]) for place in range(4096))


@pytest.mark.usefixtures("quick_kzg")
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(transactions(2), st.integers(1, 2**80), st.sampled_from([[0], [1], [1, 0]]))
def test_any_blob_transaction_encodes_as_eth_account_does_and_decodes_to_itself(
    fields: dict[str, Any], blob_fee: int, seeds: list[int]
) -> None:
    carried = [blob(seed) for seed in seeds]
    check({**fields, "type": 3, "maxFeePerBlobGas": blob_fee, "blobs": carried})


def blob_transaction(proofs: blobs.Proofs = blobs.Proofs.CELLS) -> tuple[UnsignedTransaction, bytes]:
    fields = {**DYNAMIC, "type": 3, "maxFeePerBlobGas": 1, "blobs": [blob(0), blob(1)]}
    transaction = decode_transaction({**fields, "wrapperVersion": proofs.value}, ADDRESS)
    return transaction, transaction.signed(curve.sign(SECRET, ethereum.digest(transaction.payload())))


@pytest.mark.usefixtures("quick_kzg")
def test_older_nodes_get_one_proof_for_each_blob_and_the_same_transaction() -> None:
    (new, new_raw), (old, old_raw) = blob_transaction(), blob_transaction(blobs.Proofs.BLOB)
    assert new.payload() == old.payload()
    assert canonical(new_raw) == canonical(old_raw)
    assert new.sidecar is not None
    assert old.sidecar is not None
    assert (len(new.sidecar.proofs), len(old.sidecar.proofs)) == (256, 2)
    assert ethereum.decode_signed(old_raw)[0] == old
    theirs = bytes(BlobTransaction.from_bytes(HexBytes(old_raw)).hash())
    assert theirs == ethereum.digest(old.payload())


@pytest.mark.parametrize("proofs", list(blobs.Proofs))
def test_proofs_prove_the_blobs_that_the_transaction_names(proofs: blobs.Proofs) -> None:
    transaction, raw = blob_transaction(proofs)
    sidecar = transaction.sidecar
    assert sidecar is not None
    setup = blobs.trusted_setup()
    if proofs is blobs.Proofs.BLOB:
        assert ckzg.verify_blob_kzg_proof_batch(
            b"".join(sidecar.blobs), b"".join(sidecar.commitments), b"".join(sidecar.proofs), setup
        )
    else:
        cells = [cell for one in sidecar.blobs for cell in ckzg.compute_cells(one, setup)]
        commitments = [one for one in sidecar.commitments for _ in range(128)]
        assert ckzg.verify_cell_kzg_proof_batch(
            commitments, [*range(128)] * 2, cells, list(sidecar.proofs), setup
        )
    named = rlp.decode(raw[1:])[0][10]
    assert named == [b"\x01" + sha256(one).digest()[1:] for one in sidecar.commitments]


def test_sidecar_with_another_blob_than_the_transaction_names_does_not_decode() -> None:
    _, raw = blob_transaction(blobs.Proofs.BLOB)
    body, carried, _, proofs = rlp.decode(raw[1:])
    stranger = blobs.make_sidecar([blob(2)], blobs.Proofs.BLOB).commitments[0]
    with pytest.raises(ValueError, match="other blobs"):
        ethereum.decode_signed(
            b"\x03"
            + rlp.encode([body, carried, [stranger, *blobs.make_sidecar([blob(1)]).commitments], proofs])
        )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x02",
        b"\x02\xc0",
        b"\x01\xc0",
        b"\xc0",
        b"\x80",
        raw_of(DYNAMIC)[:-1],
        raw_of(DYNAMIC) + b"\0",
        raw_of(LEGACY)[1:],
        b"\x03" + raw_of(DYNAMIC)[1:],
        b"\x01" + raw_of(DYNAMIC)[1:],
        b"\x04" + raw_of(DYNAMIC)[1:],
        b"\x05" + raw_of(DYNAMIC)[1:],
        b"\x03\xc0",
        b"\x04" + rlp.encode([b"\1"] * 13),
        b"\x03" + rlp.encode([[b"\1"] * 14, [], [], []]),
        b"\x03" + rlp.encode([[b"\1"] * 14, b"\2", [], [], []]),
    ],
)
def test_what_is_no_whole_transaction_does_not_decode(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the type is the promise
        ethereum.decode_signed(raw)


def test_legacy_transaction_without_replay_protection_does_not_decode() -> None:
    naive = {name: value for name, value in LEGACY.items() if name != "chainId"}
    with pytest.raises(ValueError, match="replay protection"):
        ethereum.decode_signed(eth_account_raw(naive))


def test_message_signature_is_the_one_eth_account_makes() -> None:
    message = "grüße".encode()
    signature = curve.sign(SECRET, ethereum.digest(ethereum.message_payload(message)))
    theirs = Account.from_key(bytes(SECRET)).sign_message(encode_defunct(message)).signature
    assert HexBytes(signature[:64] + bytes([27 + signature[64]])) == theirs


@pytest.mark.case("K20")
def test_ten_thousand_signatures_half_of_them_high_come_out_low_and_recoverable() -> None:
    secret = curve.new_secret()
    public, high = curve.public_key(secret), 0
    for _ in range(10_000):
        digest = os.urandom(32)
        signature = curve.sign(secret, digest)
        if digest[0] & 1:  # what a backend without low s would have answered
            s = curve.ORDER - int.from_bytes(signature[32:64])
            signature = signature[:32] + s.to_bytes(32) + bytes([signature[64] ^ 1])
            high += 1
        lowered = curve.low_s(signature)
        assert 0 < int.from_bytes(lowered[32:64]) <= curve.HALF_ORDER
        assert curve.recover(lowered, digest) == public
    assert 4_000 < high < 6_000


ONE = (1).to_bytes(32)


@pytest.mark.case("K21")
@pytest.mark.parametrize(
    "signature",
    [
        b"",
        ONE + ONE,
        ONE + ONE[:31],
        ONE + ONE + b"\0\0",
        ONE + ONE + b"\x02",
        ONE + ONE + b"\x1b",
        bytes(32) + ONE + b"\0",
        ONE + bytes(32) + b"\0",
        curve.ORDER.to_bytes(32) + ONE + b"\0",
        ONE + curve.ORDER.to_bytes(32) + b"\0",
        b"\xff" * 64 + b"\1",
    ],
)
def test_malformed_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(ValueError, match=r"signature|range"):
        curve.low_s(signature)


@pytest.mark.case("K19")
@pytest.mark.parametrize("size", [0, 20, 31, 33, 64])
def test_digest_of_another_length_is_not_signed(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        curve.sign(SECRET, b"\1" * size)


@pytest.mark.case("K51")
@pytest.mark.parametrize(
    "number", [0, curve.ORDER, curve.ORDER + 1, 2**256 - 1], ids=["0", "n", "n+1", "2^256-1"]
)
def test_number_outside_the_group_is_no_private_key(number: int) -> None:
    secret = bytearray(number.to_bytes(32))
    assert not curve.is_secret(secret)
    with pytest.raises(ValueError, match="not a private key"):
        curve.public_key(secret)
    with pytest.raises(ValueError, match="not a private key"):
        curve.sign(secret, bytes(32))


def test_wiping_overwrites_in_place() -> None:
    secret = curve.new_secret()
    view = memoryview(secret)
    curve.wipe(secret)
    assert bytes(view) == bytes(32)
