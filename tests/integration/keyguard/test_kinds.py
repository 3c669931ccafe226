"""Typed data, authorisations, set-code and blob transactions on the signing path, and the list of delegates."""

from io import StringIO
from typing import Any

import ckzg
import pytest
import rlp
from django.core.management import CommandError, call_command
from django.test import Client
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from hexbytes import HexBytes

from keyguard import (
    IdempotencyConflictError,
    SigningRequest,
    allow_delegate,
    blobs,
    create_key,
    curve,
    disallow_delegate,
    ethereum,
    import_key,
    sign_authorization,
    sign_message,
    sign_transactions,
    sign_typed_data,
)
from keyguard.errors import AuthorizationInvalidError, DelegateNotAllowedError, FloorError, TypedDataError
from keyguard.floor import decode_transaction
from keyguard.models import AllowedDelegate, Key, SigningRecord
from tests.integration.keyguard.requests import TO, request, transfer

# whitenoise, before `collectstatic` has run
pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")

SECRET = bytes(range(1, 33))
CHAIN = 31337
CONTRACT = "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC"
PERMIT: dict[str, Any] = {
    "types": {"Permit": [{"name": "spender", "type": "address"}, {"name": "value", "type": "uint256"}]},
    "primaryType": "Permit",
    "domain": {"name": "Token", "version": "1", "chainId": CHAIN, "verifyingContract": CONTRACT},
    "message": {"spender": TO, "value": 10**18},
}


@pytest.fixture
def key(db: None) -> Key:
    return import_key("treasury", SECRET)


@pytest.fixture
def allowed(db: None) -> AllowedDelegate:
    return allow_delegate(CHAIN, CONTRACT, "examined by nobody, for tests")


def last_record() -> SigningRecord:
    return SigningRecord.objects.latest("created_at")


def test_typed_data_is_signed_as_eth_account_does_and_recorded(key: Key) -> None:
    signature = sign_typed_data(key.address, PERMIT, "permit")
    theirs = Account.from_key(SECRET).sign_message(encode_typed_data(full_message=PERMIT))
    assert signature == bytes(theirs.signature)
    record = last_record()
    assert (record.kind, record.state, record.chain_id, record.to) == (
        "TYPED_DATA",
        "SIGNED",
        CHAIN,
        CONTRACT,
    )
    assert (record.digest, bytes(record.raw), record.hash) == (f"0x{theirs.message_hash.hex()}", b"", "")
    assert sign_typed_data(key.address, PERMIT, "permit") == signature
    with pytest.raises(IdempotencyConflictError):
        sign_typed_data(key.address, {**PERMIT, "message": {"spender": TO, "value": 1}}, "permit")


@pytest.mark.case("K16", "K17")
@pytest.mark.parametrize(
    ("changes", "chain_id"),
    [
        ({"message": {**PERMIT["message"], "deadline": 1}}, None),
        ({"domain": {"name": "Token", "verifyingContract": CONTRACT}}, None),
        ({"domain": {"name": "Token", "chainId": CHAIN}}, None),
        ({}, 1),
    ],
)
def test_refused_typed_data_is_recorded_and_not_signed(
    key: Key, changes: dict[str, Any], chain_id: int | None
) -> None:
    with pytest.raises(TypedDataError):
        sign_typed_data(key.address, {**PERMIT, **changes}, "permit", chain_id=chain_id)
    record = SigningRecord.objects.get()
    assert (record.kind, record.state, record.error) == ("TYPED_DATA", "REFUSED", "KEYGUARD_TYPED_DATA")


@pytest.mark.case("K18")
@pytest.mark.parametrize("form", ["preimage", "digest", "typed data", "authorisation"])
def test_message_that_looks_like_something_else_is_a_message_all_the_same(key: Key, form: str) -> None:
    wanted = decode_transaction(transfer(), key.address)
    message = {
        "preimage": wanted.payload(),
        "digest": ethereum.digest(wanted.payload()),
        "typed data": b"\x19\x01" + bytes(64),
        "authorisation": b"\x05" + rlp.encode([b"\1", bytes(20), b""]),
    }[form]
    signature = sign_message(key.address, message, "message")
    signable = encode_defunct(message)
    assert Account.recover_message(signable, signature=signature) == key.address
    parity = signature[:64] + bytes([signature[64] - 27])
    try:
        recovered = curve.address_of(curve.recover(parity, ethereum.digest(message)))
    except ValueError:
        recovered = ""
    assert recovered != key.address
    if form == "preimage":
        assert Account.recover_transaction(wanted.signed(parity)) != key.address


def test_authorisation_is_signed_as_eth_account_does_and_recorded(key: Key, allowed: AllowedDelegate) -> None:
    signed = sign_authorization(key.address, CHAIN, CONTRACT.lower(), 7, "a")
    theirs = Account.from_key(SECRET).sign_authorization({"chainId": CHAIN, "address": CONTRACT, "nonce": 7})
    assert signed.fields() == {
        "authority": key.address,
        "chainId": CHAIN,
        "address": CONTRACT,
        "nonce": 7,
        "yParity": theirs.y_parity,
        "r": theirs.r,
        "s": theirs.s,
    }
    record = last_record()
    assert (record.kind, record.state, record.chain_id, record.to, record.nonce) == (
        "DELEGATION", "SIGNED", CHAIN, CONTRACT, 7,
    )  # fmt: skip
    assert record.digest == f"0x{theirs.authorization_hash.hex()}"


@pytest.mark.case("K15")
@pytest.mark.parametrize(
    ("chain_id", "delegate", "code"),
    [
        (0, CONTRACT, "KEYGUARD_CHAIN_ID"),
        (CHAIN, TO, "KEYGUARD_DELEGATE_NOT_ALLOWED"),
        (CHAIN + 1, CONTRACT, "KEYGUARD_DELEGATE_NOT_ALLOWED"),
    ],
)
def test_authorisation_for_every_chain_or_an_unlisted_delegate_is_refused(
    key: Key, allowed: AllowedDelegate, chain_id: int, delegate: str, code: str
) -> None:
    with pytest.raises(FloorError) as caught:
        sign_authorization(key.address, chain_id, delegate, 0, "a")
    assert caught.value.code == code
    record = SigningRecord.objects.get()
    assert (record.kind, record.state, record.error) == ("DELEGATION", "REFUSED", code)


def test_taking_a_delegation_back_needs_no_permission(key: Key) -> None:
    assert sign_authorization(key.address, CHAIN, "0x" + "00" * 20, 0, "a").authority() == key.address


def set_code(key: Key, *authorizations: dict[str, Any]) -> SigningRequest:
    fields = transfer(type=4, gas=100_000, authorizationList=list(authorizations))
    return SigningRequest("set-code", key.address, fields)


def test_set_code_transaction_is_signed_as_eth_account_does(key: Key, allowed: AllowedDelegate) -> None:
    other = create_key("other")
    one = sign_authorization(key.address, CHAIN, CONTRACT, 1, "one").fields()
    two = sign_authorization(other.address, CHAIN, CONTRACT, 0, "two").fields()
    (signed,) = sign_transactions([set_code(key, one, two)])
    plain = [{name: value for name, value in each.items() if name != "authority"} for each in (one, two)]
    given = transfer(type=4, gas=100_000, authorizationList=plain)
    theirs = Account.from_key(SECRET).sign_transaction(given)
    assert (signed.raw, HexBytes(signed.hash)) == (bytes(theirs.raw_transaction), theirs.hash)


@pytest.mark.case("K15")
def test_set_code_transaction_with_a_false_authorisation_is_refused_before_anything_is_signed(
    key: Key, allowed: AllowedDelegate
) -> None:
    fields = sign_authorization(key.address, CHAIN, CONTRACT, 1, "one").fields()
    with pytest.raises(AuthorizationInvalidError):
        sign_transactions([request(key.address), set_code(key, {**fields, "nonce": 2})])
    assert list(SigningRecord.objects.filter(kind="TRANSACTION").values_list("state")) == [("REFUSED",)]


@pytest.mark.case("K15")
def test_delegate_that_is_no_longer_allowed_is_not_sent_either(key: Key, allowed: AllowedDelegate) -> None:
    fields = sign_authorization(key.address, CHAIN, CONTRACT, 1, "one").fields()
    assert disallow_delegate(CHAIN, CONTRACT.lower())
    with pytest.raises(DelegateNotAllowedError) as caught:
        sign_transactions([set_code(key, fields)])
    assert caught.value.field == "authorizationList[0].address"


def test_blob_transaction_goes_out_with_its_sidecar_and_is_known_by_its_hash_without(key: Key) -> None:
    fields = transfer(type=3, maxFeePerBlobGas=1, blobs=[bytes(131_072)])
    asked = SigningRequest("blob", key.address, fields)
    (signed,) = sign_transactions([asked])
    body, version, carried, commitments, proofs = rlp.decode(signed.raw[1:])
    assert (version, carried, len(proofs)) == (b"\1", [bytes(131_072)], 128)
    assert commitments == [ckzg.blob_to_kzg_commitment(bytes(131_072), blobs.trusted_setup())]
    canonical = b"\x03" + rlp.encode(body)
    assert signed.hash == f"0x{ethereum.digest(canonical).hex()}"
    assert Account.recover_transaction(canonical) == key.address
    assert sign_transactions([asked]) == [signed]


# The list of delegates


def test_command_allows_a_delegate_and_takes_it_back(key: Key) -> None:
    options = ["--chain-id", str(CHAIN), "--address", CONTRACT.lower()]
    out = StringIO()
    call_command("allow_delegate", *options, "--note", "the wallet, examined by Ada", stdout=out)
    assert CONTRACT in out.getvalue()
    call_command("allow_delegate", *options, "--note", "the same, examined again", stdout=out)
    assert AllowedDelegate.objects.get().note == "the same, examined again"
    assert sign_authorization(key.address, CHAIN, CONTRACT, 0, "a")
    call_command("allow_delegate", *options, "--remove", stdout=out)
    with pytest.raises(DelegateNotAllowedError):
        sign_authorization(key.address, CHAIN, CONTRACT, 1, "b")
    with pytest.raises(CommandError, match="not on the list"):
        call_command("allow_delegate", *options, "--remove")


@pytest.mark.parametrize("address", ["0x12", CONTRACT.replace("Cc", "cC", 1), ""])
def test_command_refuses_what_is_no_address(db: None, address: str) -> None:
    with pytest.raises(CommandError):
        call_command("allow_delegate", "--chain-id", "1", "--address", address, "--note", "x")
    assert not AllowedDelegate.objects.exists()


def test_delegates_are_added_and_removed_in_the_admin_and_not_changed(admin_client: Client, db: None) -> None:
    path = "/admin/keyguard/alloweddelegate/"
    fields = {"chain_id": CHAIN, "address": CONTRACT.lower(), "note": "examined by Ada"}
    assert admin_client.post(f"{path}add/", {**fields, "address": "0x12"}).status_code == 200
    assert admin_client.post(f"{path}add/", fields).status_code == 302
    row = AllowedDelegate.objects.get()
    assert (row.chain_id, row.address) == (CHAIN, CONTRACT)
    assert admin_client.post(f"{path}{row.pk}/change/", {**fields, "address": TO}).status_code == 403
    assert CONTRACT in admin_client.get(path).content.decode()
    assert admin_client.post(f"{path}{row.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not AllowedDelegate.objects.exists()
