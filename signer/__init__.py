"""EVM transactions: chains, nonce lanes, fees, sending, receipts. Knows keys and workflows only by their public names."""

from typing import TYPE_CHECKING, Any

from signer.abi import Contract, decode_revert, encode_constructor
from signer.errors import (
    CallRevertedError,
    ChainMismatchError,
    IdempotencyConflictError,
    LaneBusyError,
    NotPossibleError,
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
    from signer.control import (
        cancel_transaction,
        drain_lane,
        give_up_transaction,
        pause_lane,
        requeue_transaction,
        resend_transactions,
        resume_lane,
        speed_up_transaction,
    )
    from signer.models import Act, Attempt, Block, Chain, Endpoint, Incident, Lane, Transaction
    from signer.reader import Reader, chain_reader
    from signer.resync import lane_difference, resync_lane
    from signer.settling import receipt_of
    from signer.submission import submit_transaction, submit_transactions

# These need Django's models, which are not loaded yet when this package is first imported.
_LAZY = {
    **dict.fromkeys(
        ("Act", "Attempt", "Block", "Chain", "Endpoint", "Incident", "Lane", "Transaction"), "signer.models"
    ),
    **dict.fromkeys(("find_chain", "register_chain"), "signer.chains"),
    **dict.fromkeys(("Reader", "chain_reader"), "signer.reader"),
    **dict.fromkeys(
        (
            "cancel_transaction",
            "drain_lane",
            "give_up_transaction",
            "pause_lane",
            "requeue_transaction",
            "resend_transactions",
            "resume_lane",
            "speed_up_transaction",
        ),
        "signer.control",
    ),
    **dict.fromkeys(("lane_difference", "resync_lane"), "signer.resync"),
    "receipt_of": "signer.settling",
    **dict.fromkeys(("submit_transaction", "submit_transactions"), "signer.submission"),
}

__all__ = [
    "Act",
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
    "Incident",
    "Lane",
    "LaneBusyError",
    "LaneState",
    "Log",
    "NotPossibleError",
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
    "cancel_transaction",
    "chain_reader",
    "decode_revert",
    "drain_lane",
    "encode_constructor",
    "find_chain",
    "give_up_transaction",
    "lane_difference",
    "pause_lane",
    "receipt_of",
    "register_chain",
    "requeue_transaction",
    "resend_transactions",
    "resume_lane",
    "resync_lane",
    "speed_up_transaction",
    "submit_transaction",
    "submit_transactions",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'signer' has no attribute {name!r}")
