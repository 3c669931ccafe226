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
    # Erigon, erigon-lib/txpool/txpoolcfg
    ("INTERNAL_ERROR: could not replace existing tx", E.UNDERPRICED_REPLACEMENT),
    ("underpriced", E.UNDERPRICED),
    ("fee too low", E.UNDERPRICED),
    ("spammer", E.LIMIT),
    ("pending sub-pool is full", E.LIMIT),
    ("baseFee sub-pool is full", E.LIMIT),
    ("queued sub-pool is full", E.LIMIT),
    ("GasUintOverflow", E.PERMANENT),
    ("IntrinsicGas", E.PERMANENT),
    ("RLPTooLong", E.PERMANENT),
    ("existing txn with same hash", E.KNOWN),
    ("existing tx with same hash", E.KNOWN),
    ("initcode too large", E.PERMANENT),
    ("gas limit is too high", E.PERMANENT),
    ("blobs limit in txpool is full", E.LIMIT),
    ("EIP-7702 transaction with authority already reserved", E.LIMIT),
    ("can't replace blob-txn with a non-blob-txn", E.LIMIT),
    ("max number of blobs exceeded", E.PERMANENT),
    # Besu, RpcErrorType and MainnetTransactionValidator
    ("Invalid signature", E.PERMANENT),
    ("Invalid transaction type", E.PERMANENT),
    ("transaction up-front cost 0x10 exceeds transaction sender account balance 0x5", E.FUNDS),
    ("Transaction gas limit exceeds block gas limit", E.PERMANENT),
    ("Initial sync is still in progress", E.RATE),
    ("Gas price below current base fee", E.UNDERPRICED),
    ("blob gas price below current blob base fee", E.UNDERPRICED),
    ("Wrong chainId", E.PERMANENT),
    ("ChainId not supported", E.PERMANENT),
    ("ChainId is required", E.PERMANENT),
    ("Max priority fee per gas exceeds max fee per gas", E.PERMANENT),
    ("Transaction nonce is too distant from current sender nonce", E.NONCE_HIGH),
    ("An invalid transaction with a lower nonce exists", E.NONCE_HIGH),
    ("Transaction pool not enabled. (Either txpool explicitly disabled, or node not yet in sync).", E.RATE),
    ("transaction nonce 3 below sender account nonce 5", E.NONCE_LOW),
    ("Replacement transaction underpriced", E.UNDERPRICED_REPLACEMENT),
    # reth, rpc-eth-types/error
    ("max fee per blob gas less than block blob gas fee", E.UNDERPRICED),
    ("invalid chain ID", E.PERMANENT),
    ("invalid transaction signature", E.PERMANENT),
    ("failed to decode signed transaction", E.PERMANENT),
    ("gas limit too high", E.PERMANENT),
    ("exceeds max transaction gas limit", E.PERMANENT),
    ("max fee per gas higher than 2^256-1", E.PERMANENT),
    ("transaction priority fee below minimum required priority fee 7", E.UNDERPRICED),
    ("sender is not an EOA", E.PERMANENT),
    ("EIP-7702 authorization list has invalid fields", E.PERMANENT),
    ("tx fee (12 wei) exceeds the configured cap (1 wei)", E.FEE_CAP),
    ("out of memory: memory limit exceeded during memory expansion", E.PERMANENT),
    ("insufficient funds for gas * price + value: have 0 want 1", E.FUNDS),
    ("nonce has max value", E.PERMANENT),
    # anvil, eth/error.rs
    ("Tx: [0xab] insufficient gas price to replace existing transaction", E.UNDERPRICED_REPLACEMENT),
    ("Transaction gas limit is greater than the block gas limit, gas_limit: 9, cap: 8", E.PERMANENT),
    ("Incompatible EIP-155 transaction, signed for another chain", E.PERMANENT),
    ("Failed to decode signed transaction", E.PERMANENT),
    ("Block `blob_gas_price` is greater than tx-specified `max_fee_per_blob_gas`", E.UNDERPRICED),
    ("Tx: [0xab] already Imported", E.KNOWN),
    ("intrinsic gas too high -- tx.gas_limit > env.block.gas_limit", E.PERMANENT),
    # go-ethereum, core/error.go and core/txpool
    ("authority nonce too low", E.PERMANENT),
    ("authority already reserved", E.LIMIT),
    ("invalid auxiliary data", E.PERMANENT),
    ("blob transaction of type create", E.PERMANENT),
    ("gapped-nonce tx from delegated accounts", E.NONCE_HIGH),
    # Nethermind since 2025, TxPoolErrorMessages
    ("failed to recover sender", E.PERMANENT),
    ("transaction cost overflow", E.PERMANENT),
    ("transaction invalid", E.PERMANENT),
    ("nonce too far in future", E.NONCE_HIGH),
    ("gas limit reached", E.PERMANENT),
    ("sender not an eoa", E.PERMANENT),
    # EthereumJS, service/txpool.ts and rpc/modules/eth.ts, as version 0.10.5 said them
    ("0x93d9ff6b: this transaction is already in the TxPool", E.KNOWN),
    (
        "0xf39f tries to send a tx with nonce 0, but account has nonce 1 (tx nonce too low)",
        E.NONCE_LOW,
    ),
    (
        "replacement gas too low, got tip 1, min: 2, got fee 3, min: 4",
        E.UNDERPRICED_REPLACEMENT,
    ),
    ("replacement blob gas too low, got: 1, min: 2", E.UNDERPRICED_REPLACEMENT),
    ("Tx cannot pay basefee of 9, have 1 (not within 50% range of current basefee)", E.UNDERPRICED),
    ("Tx does not pay the minimum gas price of 100000000", E.UNDERPRICED),
    (
        "0xf39f does not have enough balance to cover transaction costs, need 2, but have 1 (insufficient balance)",
        E.FUNDS,
    ),
    ("Cannot add tx: pool is full", E.LIMIT),
    ("Cannot add tx for 0xf39f: already have max amount of txs for this account", E.LIMIT),
    ("Tx gaslimit of 9 exceeds block gas limit of 8 (exceeds last block gas limit)", E.PERMANENT),
    ("Tx is too large (140000 bytes) and exceeds the max data size of 131072 bytes", E.PERMANENT),
    ("tx of type 4 unknown", E.PERMANENT),
    (
        "serialized tx data could not be parsed (Common chain ID 4242 not matching the derived chain ID 1)",
        E.PERMANENT,
    ),
    ("client is not aware of the current chain height yet (give sync some more time)", E.RATE),
    ("no peer connection available", E.AMBIGUOUS),
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
