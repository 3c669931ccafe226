"""What nodes say, in their own words, and what is made of it."""

import json

import pytest

from signer.errors import RpcNodeError, RpcRejectedError, RpcTransportError
from signer.rpc import node_error
from signer.rpc_errors import ErrorClass, classify, classify_message, innermost_message

E = ErrorClass

TEXTS = [
    # go-ethereum
    ("already known", E.KNOWN),
    ("nonce too low: next nonce 5, tx nonce 3", E.NONCE_LOW),
    ("nonce too high", E.NONCE_HIGH),
    ("replacement transaction underpriced", E.UNDERPRICED_REPLACEMENT),
    ("transaction underpriced: gas tip cap 1, minimum needed 1000000", E.UNDERPRICED),
    ("max fee per gas less than block base fee: address 0x1, maxFeePerGas: 1, baseFee: 7", E.UNDERPRICED),
    ("insufficient funds for gas * price + value: balance 0, tx cost 21000, overshot 21000", E.FUNDS),
    ("insufficient funds for transfer", E.FUNDS),
    ("intrinsic gas too low: gas 20000, minimum needed 21000", E.PERMANENT),
    ("exceeds block gas limit", E.PERMANENT),
    ("oversized data: transaction size 140000, limit 131072", E.PERMANENT),
    ("max initcode size exceeded: code size 60000, limit 49152", E.PERMANENT),
    ("negative value", E.PERMANENT),
    ("invalid sender", E.PERMANENT),
    ("invalid chain id for signer: have 1 want 31337", E.PERMANENT),
    ("max priority fee per gas higher than max fee per gas", E.PERMANENT),
    ("only replay-protected (EIP-155) transactions allowed over RPC", E.PERMANENT),
    ("txpool is full", E.LIMIT),
    ("account limit exceeded: pooled 16 txs", E.LIMIT),
    ("future transaction tries to replace pending", E.LIMIT),
    ("in-flight transaction limit reached for delegated accounts", E.LIMIT),
    ("address already reserved", E.LIMIT),
    ("gapped nonce", E.NONCE_HIGH),
    ("tx fee (12.00 ether) exceeds the configured cap (1.00 ether)", E.FEE_CAP),
    # anvil
    ("transaction already imported", E.KNOWN),
    ("nonce too low", E.NONCE_LOW),
    ("Insufficient funds for gas * price + value", E.FUNDS),
    ("max fee per gas less than block base fee", E.UNDERPRICED),
    ("intrinsic gas too low", E.PERMANENT),
    # Nethermind
    ("AlreadyKnown", E.KNOWN),
    ("OldNonce, Current nonce: 5, nonce of rejected tx: 3", E.NONCE_LOW),
    ("FeeTooLow, MaxFeePerGas too low. MaxFeePerGas: 1, BaseFee: 7", E.UNDERPRICED),
    ("FeeTooLowToCompete", E.UNDERPRICED_REPLACEMENT),
    ("ReplacementNotAllowed", E.UNDERPRICED_REPLACEMENT),
    ("InsufficientFunds, Account balance: 0, cumulative cost: 1", E.FUNDS),
    ("GasLimitExceeded, Gas limit: 1, gas limit of rejected tx: 2", E.PERMANENT),
    ("SenderIsContract", E.PERMANENT),
    ("NonceGap, Future nonce. Expected nonce: 1", E.NONCE_HIGH),
    # Erigon
    ("could not replace existing tx", E.UNDERPRICED_REPLACEMENT),
    ("fee cap less than block base fee", E.UNDERPRICED),
    # Besu
    ("Known transaction", E.KNOWN),
    ("Nonce too low", E.NONCE_LOW),
    ("Transaction nonce too distant", E.NONCE_HIGH),
    ("Gas price below configured minimum gas price", E.UNDERPRICED),
    ("Upfront cost exceeds account balance", E.FUNDS),
    ("Transaction fee cap exceeded", E.FEE_CAP),
    ("Intrinsic gas exceeds gas limit", E.PERMANENT),
    # providers
    ("daily request count exceeded, request rate limited: rate limit", E.RATE),
    ("You have exceeded your quota", E.RATE),
    # nobody knows
    ("the moon is in the wrong house", E.AMBIGUOUS),
    ("", E.AMBIGUOUS),
]


@pytest.mark.case("PC13")
@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_words_of_nodes_are_understood(text: str, expected: ErrorClass) -> None:
    assert classify_message(text) is expected


@pytest.mark.case("S42")
def test_revert_reason_that_sounds_like_a_nonce_is_a_revert() -> None:
    assert classify_message("execution reverted: nonce too low") is E.PERMANENT
    assert classify(node_error({"code": 3, "message": "execution reverted: already known"})) is E.PERMANENT


@pytest.mark.case("S41")
def test_unknown_transaction_is_not_a_known_one() -> None:
    assert classify_message("unknown transaction") is E.AMBIGUOUS


@pytest.mark.case("S40")
def test_wrapped_message_counts_and_not_the_code() -> None:
    wrapped = {"code": -32603, "message": "Internal error", "data": {"message": "nonce too low"}}
    assert innermost_message(wrapped) == "nonce too low"
    deeper = {
        "code": -32603,
        "message": "x",
        "data": {"originalError": {"code": -32000, "message": "already known"}},
    }
    assert classify(node_error(deeper)) is E.KNOWN
    quoted = {"code": -32000, "message": "upstream: " + json.dumps({"error": {"message": "nonce too low"}})}
    assert classify(node_error(quoted)) is E.NONCE_LOW


@pytest.mark.case("S51")
def test_what_is_not_the_nodes_own_refusal_is_possibly_sent() -> None:
    assert classify(RpcTransportError("timeout")) is E.AMBIGUOUS
    assert classify(RpcTransportError("nonce too low")) is E.AMBIGUOUS
    assert classify(RpcNodeError("???")) is E.AMBIGUOUS
    assert classify(RpcRejectedError("HTTP 429")) is E.RATE


@pytest.mark.parametrize(
    "error", [None, "", 5, [], {}, {"message": None}, {"data": {"error": {}}}, "{", '{"a": 1}']
)
def test_shapeless_errors_are_ambiguous(error: object) -> None:
    assert classify(node_error(error)) is E.AMBIGUOUS
