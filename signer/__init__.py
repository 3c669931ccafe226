"""EVM transactions: chains, nonce lanes, fees, sending, receipts. Knows keys and workflows only by their public names."""

from typing import TYPE_CHECKING, Any

from signer.abi import Contract, decode_revert, encode_constructor
from signer.errors import (
    CallRevertedError,
    ChainMismatchError,
    IdempotencyConflictError,
    MissedLogsError,
    RpcError,
    RpcNodeError,
    RpcRejectedError,
    RpcTransportError,
    SignerError,
    UnknownChainError,
    UnknownHandlerError,
)
from signer.events.handlers import Event, on_event
from signer.requests import Address, HexData, Log, Receipt, TransactionRequest, Wei
from signer.states import AttemptState, LaneState, SubState, TransactionState

if TYPE_CHECKING:
    from signer.chains import check_chain, find_chain, register_chain
    from signer.events.comparing import Difference, compare_holders, compare_index
    from signer.events.registering import pause_contract, reread_contract, resume_contract, watch_contract
    from signer.events.status import IndexStatus, index_status
    from signer.models import Attempt, Block, Chain, Endpoint, Holding, Lane, Transaction, WatchedContract
    from signer.reader import Reader, chain_reader
    from signer.settling import receipt_of
    from signer.submission import submit_transaction

# These need Django's models, which are not loaded yet when this package is first imported.
_LAZY = {
    **dict.fromkeys(
        ("Attempt", "Block", "Chain", "Endpoint", "Holding", "Lane", "Transaction", "WatchedContract"),
        "signer.models",
    ),
    **dict.fromkeys(("Difference", "compare_holders", "compare_index"), "signer.events.comparing"),
    **dict.fromkeys(
        ("pause_contract", "reread_contract", "resume_contract", "watch_contract"),
        "signer.events.registering",
    ),
    **dict.fromkeys(("IndexStatus", "index_status"), "signer.events.status"),
    **dict.fromkeys(("check_chain", "find_chain", "register_chain"), "signer.chains"),
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
    "Difference",
    "Endpoint",
    "Event",
    "HexData",
    "Holding",
    "IdempotencyConflictError",
    "IndexStatus",
    "Lane",
    "LaneState",
    "Log",
    "MissedLogsError",
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
    "UnknownHandlerError",
    "WatchedContract",
    "Wei",
    "chain_reader",
    "check_chain",
    "compare_holders",
    "compare_index",
    "decode_revert",
    "encode_constructor",
    "find_chain",
    "index_status",
    "on_event",
    "pause_contract",
    "receipt_of",
    "register_chain",
    "reread_contract",
    "resume_contract",
    "submit_transaction",
    "watch_contract",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'signer' has no attribute {name!r}")
