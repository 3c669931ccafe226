"""EVM transactions: chains, nonce lanes, fees, sending, receipts. Knows keys and workflows only by their public names."""

from typing import TYPE_CHECKING, Any

from signer.abi import Contract, decode_revert, encode_constructor
from signer.errors import (
    CallRevertedError,
    ChainMismatchError,
    IdempotencyConflictError,
    RpcError,
    RpcNodeError,
    RpcRejectedError,
    RpcTransportError,
    SignerError,
    UnknownChainError,
)
from signer.requests import Address, HexData, Log, Receipt, TransactionRequest, Wei
from signer.states import AttemptState, LaneState, SubState, TransactionState

if TYPE_CHECKING:
    from signer.chains import find_chain, register_chain
    from signer.models import Attempt, Block, Chain, Endpoint, Lane, Transaction
    from signer.reader import Reader, chain_reader
    from signer.settling import receipt_of
    from signer.submission import submit_transaction

# These need Django's models, which are not loaded yet when this package is first imported.
_LAZY = {
    **dict.fromkeys(("Attempt", "Block", "Chain", "Endpoint", "Lane", "Transaction"), "signer.models"),
    **dict.fromkeys(("find_chain", "register_chain"), "signer.chains"),
    **dict.fromkeys(("Reader", "chain_reader"), "signer.reader"),
    "receipt_of": "signer.settling",
    "submit_transaction": "signer.submission",
}

__all__ = [
    "Address",
    "Attempt",
    "AttemptState",
    "Block",
    "CallRevertedError",
    "Chain",
    "ChainMismatchError",
    "Contract",
    "Endpoint",
    "HexData",
    "IdempotencyConflictError",
    "Lane",
    "LaneState",
    "Log",
    "Reader",
    "Receipt",
    "RpcError",
    "RpcNodeError",
    "RpcRejectedError",
    "RpcTransportError",
    "SignerError",
    "SubState",
    "Transaction",
    "TransactionRequest",
    "TransactionState",
    "UnknownChainError",
    "Wei",
    "chain_reader",
    "decode_revert",
    "encode_constructor",
    "find_chain",
    "receipt_of",
    "register_chain",
    "submit_transaction",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'signer' has no attribute {name!r}")
