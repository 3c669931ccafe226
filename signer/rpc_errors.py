"""What a node means by its refusal of a transaction: one table, ordered, one source per line.

Nodes agree neither on codes nor on words, and some wrap another's text. So the innermost message is matched, the
code ignored, and the first rule that fits wins; the operators' own rules (`error_rules`) are asked before the table. A
text that no rule knows is AMBIGUOUS: possibly sent.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from signer import json_of_others
from signer.errors import (
    CallRevertedError,
    ChainMismatchError,
    RpcError,
    RpcNodeError,
    RpcRejectedError,
    RpcUnavailableError,
)


class ErrorClass(Enum):
    """What may be done about a refused transaction."""

    PERMANENT = "PERMANENT"  # these bytes will never be accepted: a no-op takes the nonce
    KNOWN = "KNOWN"  # the node has it already: as good as sent
    NONCE_LOW = "NONCE_LOW"  # the nonce is used: by one of our attempts, or by a stranger; look for receipts
    NONCE_HIGH = "NONCE_HIGH"  # something below is missing: keep, send again later
    UNDERPRICED_REPLACEMENT = (
        "UNDERPRICED_REPLACEMENT"  # the pool holds another attempt at this nonce: raise more
    )
    UNDERPRICED = "UNDERPRICED"  # below what the node takes now: quote anew
    FUNDS = "FUNDS"  # cannot be paid now: keep, send again later
    LIMIT = "LIMIT"  # the pool is full, or full for this address: keep, send again later
    FEE_CAP = "FEE_CAP"  # the node is configured to refuse such a fee
    RATE = "RATE"  # the provider turned the request away unread, or it was not sent
    AMBIGUOUS = "AMBIGUOUS"  # possibly sent: keep, send the same bytes again


class Rule(Protocol):
    """What some words mean."""

    @property
    def error_class(self) -> ErrorClass: ...

    def fits(self, message: str) -> bool: ...


@dataclass(frozen=True)
class TableRule:
    """A rule of the table below."""

    pattern: re.Pattern[str]
    error_class: ErrorClass

    def __str__(self) -> str:
        return f"the built-in rule “{self.pattern.pattern}”"

    def fits(self, message: str) -> bool:
        return self.pattern.search(message) is not None


def _rule(error_class: ErrorClass, pattern: str) -> TableRule:
    return TableRule(re.compile(pattern, re.IGNORECASE), error_class)


E = ErrorClass

# A revert reason may contain any other rule's words ("nonce too low" in a meta-transaction), so PERMANENT comes first.
RULES: tuple[TableRule, ...] = (
    _rule(E.PERMANENT, r"execution reverted"),  # all: eth_sendRawTransaction with simulation before the pool
    _rule(
        E.PERMANENT, r"gas required exceeds (block )?(gas )?(allowance|limit)"
    ),  # geth, anvil: eth_estimateGas
    _rule(
        E.PERMANENT, r"out of gas|EVM error|invalid opcode|invalid jump|stack (under|over)flow"
    ),  # anvil; geth core/vm/errors.go
    _rule(E.PERMANENT, r"intrinsic gas too (low|high)|\bIntrinsicGas\b"),  # geth core/error.go, anvil; erigon
    _rule(E.PERMANENT, r"intrinsic gas exceeds gas limit"),  # besu TransactionInvalidReason
    _rule(E.PERMANENT, r"floor data gas"),  # geth core/error.go, EIP-7623
    # geth txpool/errors.go, besu, erigon; reth rpc-eth-types/error
    _rule(E.PERMANENT, r"exceeds (block|max transaction) gas limit"),
    _rule(E.PERMANENT, r"^tx is too large .{0,20}bytes"),  # ethereumjs service/txpool.ts
    # geth EIP-7825, reth; erigon txpoolcfg; anvil eth/error.rs
    _rule(E.PERMANENT, r"gas limit (is )?(too high|exceeds|greater than)"),
    _rule(
        E.PERMANENT, r"\bGasLimitExceeded\b|^gas limit reached"
    ),  # nethermind AcceptTxResult, until 2025 and since
    # geth core/error.go; erigon; nethermind, until 2025 and since
    _rule(
        E.PERMANENT, r"gas uint64 overflow|\bGasUintOverflow\b|\bInt256Overflow\b|transaction cost overflow"
    ),
    _rule(E.PERMANENT, r"memory limit exceeded during memory expansion"),  # reth
    # geth txpool/errors.go; reth, nethermind; erigon
    _rule(E.PERMANENT, r"oversized data|transaction (size )?too large|\bRLPTooLong\b"),
    # geth core/vm/errors.go; reth, anvil; erigon
    _rule(E.PERMANENT, r"max initcode size exceeded|code size limit|initcode too large"),
    _rule(E.PERMANENT, r"negative value"),  # geth txpool/errors.go
    # geth; besu, reth; nethermind
    _rule(E.PERMANENT, r"invalid sender|invalid (transaction )?signature|\bInvalidTxSignature\b"),
    _rule(
        E.PERMANENT, r"\bFailedToResolveSender\b|\bSenderIsContract\b"
    ),  # nethermind AcceptTxResult, until 2025
    _rule(
        E.PERMANENT, r"failed to recover sender|^transaction invalid(,|$)"
    ),  # nethermind TxPoolErrorMessages
    _rule(E.PERMANENT, r"failed to decode signed transaction"),  # reth, anvil
    _rule(E.PERMANENT, r"sender (is )?not an eoa"),  # geth core/error.go, anvil
    _rule(
        E.PERMANENT, r"(invalid|wrong) chain.?id|chain.?id mismatch"
    ),  # geth core/types, anvil, erigon; besu
    _rule(E.PERMANENT, r"chain.?id (is required|not supported)|signed for another chain"),  # besu; anvil
    # ethereumjs rpc/modules/eth.ts: junk, a type that it does not know, another chain's id
    _rule(E.PERMANENT, r"^serialized tx data could not be parsed|^tx needs to be signed$"),
    _rule(E.PERMANENT, r"^tx of type \d+ unknown$"),  # ethereumjs service/txpool.ts: EIP-7702
    _rule(E.PERMANENT, r"only replay-protected"),  # geth internal/ethapi: unprotected legacy transaction
    _rule(
        E.PERMANENT, r"max priority fee per gas (higher than|exceeds) max fee"
    ),  # geth core/error.go, anvil; besu
    _rule(E.PERMANENT, r"fee per gas higher than 2\^256"),  # geth core/error.go, reth
    # geth, anvil; nethermind, until 2025 and since; besu
    _rule(E.PERMANENT, r"transaction type not supported|\bTxTypeNotSupported\b|unsupported transaction type"),
    _rule(E.PERMANENT, r"invalid transaction type"),  # besu RpcErrorType
    # geth txpool/errors.go, reth, erigon: EIP-7702. Before the rules for the sender's own nonce.
    _rule(E.PERMANENT, r"authority nonce too low|authorization list (has invalid fields|are invalid)"),
    # geth core/error.go, txpool/errors.go, reth, erigon, anvil: EIP-4844
    _rule(E.PERMANENT, r"number of blobs exceeded|too many blobs|invalid auxiliary data"),
    _rule(E.PERMANENT, r"blob transaction (of type create|is a create|missing blob|exceeds max blobs)"),
    _rule(E.PERMANENT, r"nonce has max value"),  # geth core/error.go
    _rule(E.KNOWN, r"already known|\bAlreadyKnown\b"),  # geth txpool/errors.go, erigon, reth; nethermind
    _rule(E.KNOWN, r"(?<!un)known transaction"),  # geth before 1.9, besu; "unknown transaction" is not meant
    _rule(E.KNOWN, r"already imported"),  # anvil, OpenEthereum
    _rule(E.KNOWN, r"existing txn? with same hash"),  # erigon txpoolcfg
    _rule(E.KNOWN, r"already exists in (the )?(cache|pool|mempool)"),  # klaytn, cosmos-based chains
    _rule(E.KNOWN, r"this transaction is already in the txpool"),  # ethereumjs service/txpool.ts
    _rule(E.KNOWN, r"\bOwnNonceAlreadyUsed\b"),  # nethermind AcceptTxResult: our own, still pooled
    _rule(
        E.NONCE_LOW, r"nonce too low|\bOldNonce\b|nonce is too low"
    ),  # geth, besu, erigon, anvil; nethermind
    _rule(E.NONCE_LOW, r"incorrect nonce|invalid nonce|nonce already used"),  # proxies of several L2s
    _rule(E.NONCE_LOW, r"nonce \d+ below sender account nonce"),  # besu MainnetTransactionValidator
    # geth, anvil; geth blobpool and delegated accounts; nethermind, until 2025 and since
    _rule(E.NONCE_HIGH, r"nonce too high|gapped.nonce|\bNonceGap\b|delegation nonce gap"),
    _rule(E.NONCE_HIGH, r"nonce (is )?too (distant|far)|too far in the future"),  # besu, nethermind; others
    _rule(E.NONCE_HIGH, r"lower nonce exists"),  # besu RpcErrorType: what is below it has to be mended first
    # geth, besu, reth; erigon; anvil eth/error.rs
    _rule(E.UNDERPRICED_REPLACEMENT, r"replacement transaction underpriced|could not replace existing"),
    _rule(E.UNDERPRICED_REPLACEMENT, r"gas price to replace existing"),
    _rule(E.UNDERPRICED_REPLACEMENT, r"^replacement (blob )?gas too low"),  # ethereumjs service/txpool.ts
    _rule(E.UNDERPRICED_REPLACEMENT, r"\bReplacementNotAllowed\b|\bFeeTooLowToCompete\b"),  # nethermind
    _rule(E.LIMIT, r"future transaction tries to replace pending"),  # geth txpool/errors.go; holds "replace"
    # geth core/error.go, anvil, reth; the second of blobs
    _rule(E.UNDERPRICED, r"max fee per gas less than block base fee|less than block blob gas fee"),
    _rule(E.UNDERPRICED, r"blob_gas_price. is greater than tx-specified"),  # anvil
    _rule(E.UNDERPRICED, r"below current (blob )?base fee"),  # besu RpcErrorType
    _rule(
        E.UNDERPRICED, r"fee cap less than block base fee|max fee per gas is less than"
    ),  # erigon; nethermind
    _rule(E.UNDERPRICED, r"transaction underpriced|\bFeeTooLow\b|fee too low"),  # geth; nethermind; erigon
    _rule(
        E.UNDERPRICED, r"(gas price|tip|priority fee).{0,20} below .{0,20}minimum"
    ),  # geth 1.14 txpool, besu; reth
    _rule(
        E.UNDERPRICED, r"^tx cannot pay basefee of|^tx does not pay the minimum gas price"
    ),  # ethereumjs service/txpool.ts
    _rule(E.UNDERPRICED, r"(^|: )underpriced"),  # erigon txpoolcfg
    _rule(
        E.FUNDS, r"insufficient (funds|balance)|\bInsufficientFunds\b"
    ),  # geth, erigon, anvil, reth; nethermind
    _rule(E.FUNDS, r"up-?front cost .{0,90}exceeds|upfront cost exceeds"),  # besu, in detail and without
    # geth, reth; erigon txpoolcfg; others
    _rule(E.LIMIT, r"txpool is full|tx ?pool (is )?(full|overflow)|mempool is full|sub-pool is full"),
    # ethereumjs service/txpool.ts
    _rule(E.LIMIT, r"^cannot add tx: pool is full|already have max amount of txs for this account"),
    _rule(E.LIMIT, r"(^|: )spammer"),  # erigon: too many of one sender
    _rule(E.LIMIT, r"account limit exceeded|account has too many"),  # geth blobpool; erigon
    _rule(E.LIMIT, r"in-?flight transaction limit|delegated account"),  # geth, EIP-7702 sender
    _rule(E.LIMIT, r"(address|authority) already reserved"),  # geth txpool/reserver.go, reth; erigon
    # nethermind TxPoolErrorMessages; erigon: blob transactions and others of one sender exclude one another
    _rule(E.LIMIT, r"pending transaction type conflict|has pending transaction|can't replace blob-txn"),
    _rule(E.FEE_CAP, r"exceeds the configured cap|fee cap exceeded"),  # geth internal/ethapi; besu
    _rule(E.RATE, r"rate.?limit|too many requests|quota|capacity exceeded"),  # hosted providers
    _rule(E.RATE, r"unauthori[sz]ed|forbidden|invalid api key"),  # hosted providers
    # besu; nethermind; besu: a node that follows no chain yet
    _rule(E.RATE, r"initial sync is still in progress|node is syncing|transaction pool not enabled"),
    # ethereumjs rpc/modules/eth.ts: it has not heard of its consensus client yet
    _rule(E.RATE, r"client is not aware of the current chain height"),
    # ethereumjs rpc/modules/eth.ts: it is in the pool, and nobody else was told of it
    _rule(E.AMBIGUOUS, r"^no peer connection available$"),
)


def innermost_message(error: Any) -> str:
    """Return the deepest message of a JSON-RPC error object: proxies wrap the node's own text."""
    message = ""
    while True:
        if isinstance(error, str):
            nested = _json_object(error)
            if nested is None:
                return error or message
            error = nested
        elif isinstance(error, dict):
            message = error["message"] if isinstance(error.get("message"), str) else message
            inner = next(
                (error[key] for key in ("originalError", "error", "data") if _holds_message(error.get(key))),
                None,
            )
            if inner is None:
                nested = _json_object(message)
                if nested is None:
                    return message
                error = nested
            else:
                error = inner
        else:
            return message


def _holds_message(value: Any) -> bool:
    return isinstance(value, dict) and any(key in value for key in ("message", "originalError", "error"))


def _json_object(text: str) -> dict[str, Any] | None:
    start = text.find("{")
    if start < 0:
        return None
    try:
        value = json_of_others.parse(text[start:])
    except ValueError:
        return None
    return value if _holds_message(value) else None


def find_rule(message: str, rules: Sequence[Rule] = ()) -> Rule | None:
    """Return the rule that knows this text: one of `rules`, which come first, or of the table; None: nobody does."""
    return next((rule for rule in (*rules, *RULES) if rule.fits(message)), None)


# No node has seen the bytes.
UNREAD = (RpcRejectedError, RpcUnavailableError, ChainMismatchError)


def classify_message(message: str, rules: Sequence[Rule] = ()) -> ErrorClass:
    """Return what the node means by this text. rules: as of `find_rule`."""
    rule = find_rule(message, rules)
    return ErrorClass.AMBIGUOUS if rule is None else rule.error_class


def classify(error: RpcError, rules: Sequence[Rule] = ()) -> ErrorClass:
    """Return what may be done after sending a transaction ended in this error. rules: as of `find_rule`."""
    if isinstance(error, CallRevertedError):
        return ErrorClass.PERMANENT  # whatever words its reason holds
    if isinstance(error, RpcNodeError):
        return classify_message(error.message, rules)
    return ErrorClass.RATE if isinstance(error, RpcRejectedError) else ErrorClass.AMBIGUOUS


def is_unknown(error: RpcError, rules: Sequence[Rule] = ()) -> bool:
    """Return whether these are a node's words that no rule knows. rules: as of `find_rule`."""
    is_words = isinstance(error, RpcNodeError) and not isinstance(error, CallRevertedError)
    return is_words and find_rule(error.message, rules) is None
