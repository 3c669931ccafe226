"""EVM transactions: chains, nonce lanes, fees, sending, receipts. Knows keys and workflows only by their public names."""

from typing import TYPE_CHECKING, Any

from signer.abi import Contract, decode_revert, encode_constructor
from signer.errors import (
    CallRevertedError,
    ChainMismatchError,
    IdempotencyConflictError,
    LaneBusyError,
    MissedLogsError,
    NotPossibleError,
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
    from signer.events.comparing import Difference, compare_holders, compare_index
    from signer.events.registering import pause_contract, reread_contract, resume_contract, watch_contract
    from signer.events.status import IndexStatus, index_status
    from signer.models import (
        Act,
        Attempt,
        Block,
        Chain,
        Endpoint,
        Holding,
        Incident,
        Lane,
        Transaction,
        WatchedContract,
    )
    from signer.reader import Reader, chain_reader
    from signer.resync import lane_difference, resync_lane
    from signer.settling import receipt_of
    from signer.submission import submit_transaction, submit_transactions

# These need Django's models, which are not loaded yet when this package is first imported.
_LAZY = {
    **dict.fromkeys(
        (
            "Act",
            "Attempt",
            "Block",
            "Chain",
            "Endpoint",
            "Holding",
            "Incident",
            "Lane",
            "Transaction",
            "WatchedContract",
        ),
        "signer.models",
    ),
    **dict.fromkeys(("find_chain", "register_chain"), "signer.chains"),
    **dict.fromkeys(("Difference", "compare_holders", "compare_index"), "signer.events.comparing"),
    **dict.fromkeys(
        ("pause_contract", "reread_contract", "resume_contract", "watch_contract"),
        "signer.events.registering",
    ),
    **dict.fromkeys(("IndexStatus", "index_status"), "signer.events.status"),
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
    "Difference",
    "Endpoint",
    "Event",
    "HexData",
    "Holding",
    "IdempotencyConflictError",
    "Incident",
    "IndexStatus",
    "Lane",
    "LaneBusyError",
    "LaneState",
    "Log",
    "MissedLogsError",
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
    "UnknownHandlerError",
    "WatchedContract",
    "Wei",
    "cancel_transaction",
    "chain_reader",
    "compare_holders",
    "compare_index",
    "decode_revert",
    "drain_lane",
    "encode_constructor",
    "find_chain",
    "give_up_transaction",
    "index_status",
    "lane_difference",
    "on_event",
    "pause_contract",
    "pause_lane",
    "receipt_of",
    "register_chain",
    "requeue_transaction",
    "reread_contract",
    "resend_transactions",
    "resume_contract",
    "resume_lane",
    "resync_lane",
    "speed_up_transaction",
    "submit_transaction",
    "submit_transactions",
    "watch_contract",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'signer' has no attribute {name!r}")
