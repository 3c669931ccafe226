"""Signatures by custodies: asked for once, answered later, and believed only when the pinned key made them."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

import keyguard
from keyguard import curve
from keyguard.backends.remote import (
    DigestPayload,
    MessagePayload,
    NotThere,
    Pending,
    Refused,
    RemoteSigner,
    TransactionPayload,
    TypedDataPayload,
    remote_signer_of,
)
from keyguard.errors import (
    BackendUnknownError,
    CustodyUnreachableError,
    FieldInvalidError,
    RawNotAllowedError,
    SignatureInvalidError,
)
from keyguard.ethereum import UnsignedTransaction, digest
from keyguard.models import Key
from keyguard.typed_data import decode_typed_data
from tests.fakes.credentials import VAULT

DFNS_KEY = "key-1abcd-2efgh-0123456789abcdef"
TO = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"
TYPED_DATA = {
    "types": {
        "Permit": [{"name": "spender", "type": "address"}, {"name": "value", "type": "uint256"}],
    },
    "primaryType": "Permit",
    "domain": {"name": "Token", "version": "1", "chainId": 1, "verifyingContract": TO},
    "message": {"spender": TO, "value": 2**256 - 1},
}
TRANSACTION = UnsignedTransaction(
    2, 1, 7, 21_000, bytes.fromhex(TO[2:]), 5, b"", max_fee_per_gas=10**9, max_priority_fee_per_gas=10**8
)
HALF = curve.HALF_ORDER
# A custody is asked over HTTP, some hundred times a second: `make custody-signatures` has them sign 10,000 times.
SIGNATURES = int(os.environ.get("CUSTODY_SIGNATURES", "10"))


def typed_data() -> TypedDataPayload:
    return TypedDataPayload(TYPED_DATA, digest(decode_typed_data(TYPED_DATA).payload()))


READABLE: list[Callable[[], Any]] = [
    typed_data,
    lambda: MessagePayload(b"hello"),
    lambda: MessagePayload(b""),
]


class Desk:
    """One of the custodies, its signer and a key there."""

    def __init__(self, name: str, fake: Any, settings: Any) -> None:
        self.name, self.fake, self.settings = name, fake, settings
        self.key: Key = keyguard.bind_key("vault", name, VAULT if name == "fireblocks" else DFNS_KEY)
        self.create = "/transactions" if name == "fireblocks" else "/signatures"

    @property
    def signer(self) -> RemoteSigner:
        return remote_signer_of(self.name)

    def allow_raw(self) -> None:
        from keyguard.backends import custodies

        setattr(self.settings, f"{self.name.upper()}_ALLOW_RAW", [self.key.backend_ref])
        custodies.forget()

    def submit(self, payload: Any, external_id: str = "first", seconds: float = 5) -> Any:
        return self.signer.submit(self.key, external_id, payload, timeout_seconds=seconds)

    def find(self, payload: Any, external_id: str = "first", seconds: float = 5) -> Any:
        return self.signer.find(self.key, external_id, payload, timeout_seconds=seconds)

    def signature(self, payload: Any, external_id: str = "first") -> bytes:
        """Ask, then look it up: Fireblocks never signs within the first answer."""
        answer = self.submit(payload, external_id)
        found = self.find(payload, external_id)
        assert isinstance(found, bytes)
        assert answer in (found, Pending())
        return found


@pytest.fixture(params=["fireblocks", "dfns"])
def desk(request: pytest.FixtureRequest, fresh_db: str, settings: Any) -> Desk:
    return Desk(request.param, request.getfixturevalue(request.param), settings)


@pytest.mark.parametrize("made", READABLE)
def test_what_people_can_read_is_signed_by_the_pinned_key(desk: Desk, made: Any) -> None:
    payload = made()
    assert desk.find(payload) == NotThere()
    signature = desk.signature(payload)
    assert curve.recover(signature, payload.digest) == bytes(desk.key.public_key)
    assert desk.submit(payload) == signature or desk.name == "fireblocks"
    assert desk.find(payload) == signature


def test_typed_data_is_sent_whole_and_exact(desk: Desk) -> None:
    desk.signature(typed_data())
    sent = next(
        each for each in desk.fake.requests if each.method == "POST" and desk.create in each.path
    ).json()
    if desk.name == "fireblocks":
        (message,) = sent["extraParameters"]["rawMessageData"]["messages"]
        assert (sent["operation"], message["type"]) == ("TYPED_MESSAGE", "EIP712")
        sent = message["content"]
        assert [each["name"] for each in sent["types"]["EIP712Domain"]] == list(TYPED_DATA["domain"])
    assert sent["message"] == {"spender": TO, "value": str(2**256 - 1)}, "JavaScript would round it"
    assert sent["domain"] == TYPED_DATA["domain"]


@pytest.mark.case("K19")
def test_what_nobody_can_read_is_refused_here_unless_the_key_allows_it(desk: Desk) -> None:
    for size in (0, 20, 31, 33, 64):
        with pytest.raises(FieldInvalidError):
            DigestPayload(bytes(size))
    blind = DigestPayload(bytes(range(32)))
    seen = len(desk.fake.requests)
    with pytest.raises(RawNotAllowedError):
        desk.submit(blind)
    if desk.name == "fireblocks":  # a transaction that it does not send is bytes to it
        with pytest.raises(RawNotAllowedError):
            desk.submit(TransactionPayload(TRANSACTION))
    assert len(desk.fake.requests) == seen
    desk.allow_raw()
    signature = desk.signature(blind)
    assert curve.recover(signature, blind.digest) == bytes(desk.key.public_key)


def test_transaction_with_our_nonce_is_signed_and_not_sent(desk: Desk) -> None:
    if desk.name == "fireblocks":
        desk.allow_raw()
    payload = TransactionPayload(TRANSACTION)
    signature = desk.signature(payload)
    assert curve.recover(signature, payload.digest) == bytes(desk.key.public_key)


@pytest.mark.case("K22")
def test_signed_transaction_that_is_another_one_is_refused(fresh_db: str, dfns: Any, settings: Any) -> None:
    desk = Desk("dfns", dfns, settings)
    dfns.alter = {"value": 500}
    with pytest.raises(SignatureInvalidError, match="another transaction"):
        desk.submit(TransactionPayload(TRANSACTION))
    dfns.alter = {}
    dfns.shows = {"signedData": "0x02c0"}
    with pytest.raises(SignatureInvalidError, match="no transaction"):
        desk.submit(TransactionPayload(TRANSACTION), "second")
    dfns.shows = {}
    desk.submit(TransactionPayload(TRANSACTION), "third")
    good = dfns.by_external_id("third").signed_data
    dfns.shows = {"signedData": good[:-2] + ("00" if good[-2:] != "00" else "01")}
    with pytest.raises(SignatureInvalidError):
        desk.find(TransactionPayload(TRANSACTION), "third")


@pytest.mark.case("K20")
def test_high_s_is_lowered_and_the_recovery_id_flipped(desk: Desk) -> None:
    for number in range(SIGNATURES):
        desk.fake.high_s = bool(number % 2)
        payload = MessagePayload(b"%d" % number)
        signature = desk.signature(payload, f"m{number}")
        assert int.from_bytes(signature[32:64]) <= HALF
        assert curve.recover(signature, payload.digest) == bytes(desk.key.public_key)


@pytest.mark.case("K21")
@pytest.mark.parametrize("wrong", ["key", "digest", "v", "zero", "order", "short", "none"])
def test_signature_that_is_not_the_pinned_keys_over_this_is_refused(desk: Desk, wrong: str) -> None:
    payload = MessagePayload(b"hello")
    match wrong:
        case "key":
            desk.fake.sign_as = (
                desk.fake.account("9", "ETH") if desk.name == "fireblocks" else desk.fake.account("x")
            )
        case "digest":
            desk.fake.sign_other = bytes(range(32))
        case _:
            desk.fake.shows = shown_wrongly(desk.name, wrong)
    with pytest.raises(SignatureInvalidError) as caught:
        desk.submit(payload)
        desk.find(payload)
    assert desk.key.address in str(caught.value)


def shown_wrongly(name: str, wrong: str) -> dict[str, Any]:
    r, s, v = "11" * 32, "22" * 32, 0
    match wrong:
        case "v":
            v = 5
        case "zero":
            r = "00" * 32
        case "order":
            s = f"{curve.ORDER:064x}"
        case "short":
            r, s = "11" * 31, "22" * 31
    if name == "dfns":
        signature = None if wrong == "none" else {"r": f"0x{r}", "s": f"0x{s}", "recid": v}
        return {"signature": signature}
    message = {"content": "", "signature": {"fullSig": r + s, "r": r, "s": s, "v": v}}
    return {"signedMessages": [] if wrong == "none" else [message]}


@pytest.mark.case("K25")
def test_approval_is_waited_for_and_refusal_ends_it(desk: Desk) -> None:
    desk.fake.hold = True
    payload = MessagePayload(b"hello")
    desk.submit(payload)
    assert desk.find(payload) == Pending(awaits_people=True)
    desk.fake.approve("first")
    assert isinstance(desk.find(payload), bytes)
    desk.submit(payload, "second")
    words = ("REJECTED", "BY_ANNA") if desk.name == "fireblocks" else ("Rejected", "by anna")
    desk.fake.end("second", *words)
    refused = desk.find(payload, "second")
    assert isinstance(refused, Refused)
    assert words[1] in refused.reason


@pytest.mark.case("K26")
@pytest.mark.parametrize("word", ["SIGNED_MAYBE", "completed", "signed", 7, "Done"])
def test_word_that_is_not_known_is_no_signature_and_no_end(desk: Desk, word: Any) -> None:
    payload = MessagePayload(b"hello")
    desk.submit(payload)
    desk.fake.shows = {"status": word}
    assert desk.find(payload) == Pending()


@pytest.mark.case("K24")
@pytest.mark.parametrize("fault", ["lose_answer", "lose_request"])
def test_lost_reply_is_found_by_the_external_id(desk: Desk, fault: str) -> None:
    payload = MessagePayload(b"hello")
    getattr(desk.fake, fault)("POST", desk.create)
    with pytest.raises(CustodyUnreachableError):
        desk.submit(payload)
    found = desk.find(payload)
    if fault == "lose_answer":
        assert isinstance(found, bytes)
    else:
        assert found == NotThere()
        assert isinstance(desk.signature(payload), bytes)
    kept = desk.fake.transactions if desk.name == "fireblocks" else desk.fake.entities
    assert len(kept) == 1
    # Asked for once more all the same, it stays one request with one signature.
    answer = desk.submit(payload)
    assert answer == desk.find(payload) or answer == Pending()
    assert len(kept) == 1


def test_refused_as_malformed_it_ends(desk: Desk) -> None:
    from tests.fakes.serving import Reply

    words = (
        {"message": "too odd", "code": 1} if desk.name == "fireblocks" else {"error": {"message": "too odd"}}
    )
    desk.fake.answer(Reply(400, words), "POST", desk.create)
    assert desk.submit(MessagePayload(b"hello")) == Refused("too odd")


def test_backend_that_is_not_configured_signs_nothing() -> None:
    with pytest.raises(BackendUnknownError, match="remote signer 'none'"):
        remote_signer_of("none")


def test_signature_is_looked_for_since_the_key_is_known(desk: Desk) -> None:
    assert desk.key.created_at <= timezone.now()
    assert desk.find(MessagePayload(b"never asked"), "never") == NotThere()
