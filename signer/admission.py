"""Which of the waiting transactions get a nonce now, decided from numbers alone.

Higher priority first, then first come, first served: the first one that must wait makes all behind it wait, so nonces
keep that order. One that can never be executed leaves without using a nonce. One whose gas the node cannot estimate, in
words that are not understood, waits alone: the fault may be its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from signer import kinds, l1_fees
from signer.abi import decode_revert
from signer.errors import CallRevertedError, RpcError, RpcNodeError
from signer.fees import GAS_PER_BLOB, Fees
from signer.intrinsic import least_gas
from signer.market import Market
from signer.models import Transaction
from signer.rpc import Call, quantity
from signer.rpc_errors import ErrorClass, Rule, classify, is_unknown
from signer.states import Envelope, SubState

GAS_MARGIN_PERCENT = 120
PLAIN_TRANSFER_GAS = 21_000
# Nodes drop what queues far beyond a block. With two, the next is full while what the last one took is being written down.
BLOCKS_AHEAD = 2


@dataclass(frozen=True)
class Ready:
    """A transaction that can be signed: with how much gas, at which fees."""

    transaction: Transaction
    gas_limit: int
    fees: Fees
    l1_fee_wei: int = 0

    @property
    def max_cost_wei(self) -> int:
        blob_gas = self.transaction.blob_count * GAS_PER_BLOB
        gas_cost = self.gas_limit * self.fees.max_fee_per_gas_wei
        blob_cost = blob_gas * self.fees.max_fee_per_blob_gas_wei
        return gas_cost + blob_cost + self.transaction.value + self.l1_fee_wei


@dataclass
class Admission:
    """What becomes of each candidate."""

    ready: list[Ready] = field(default_factory=list)
    # The error of those that can never be executed.
    refused: dict[UUID, dict[str, str]] = field(default_factory=dict)
    unclear: dict[UUID, str] = field(default_factory=dict)  # the node's words about those that wait alone
    unknown: list[RpcNodeError] = field(default_factory=list)  # ... and those of them that no rule knows
    waiting: list[UUID] = field(default_factory=list)
    why: SubState = SubState.NONE  # of those that wait


@dataclass(frozen=True)
class Questions:
    """What is asked of a node about the candidates, and which of them each question is about."""

    calls: Sequence[Call]
    gas: Sequence[UUID]
    l1: Sequence[UUID]
    asks_for_prague: bool = False

    def answers(self, given: Sequence[Any]) -> "Answers":
        """Sort the node's answers, which come in the order of `calls`."""
        *rest, prague = given if self.asks_for_prague else (*given, None)
        gas, l1 = rest[: len(self.gas)], rest[len(self.gas) :]
        return Answers(dict(zip(self.gas, gas, strict=True)), dict(zip(self.l1, l1, strict=True)), prague)


@dataclass(frozen=True)
class Answers:
    """Results or RpcErrors by transaction."""

    gas: Mapping[UUID, Any]  # of eth_estimateGas, or of eth_call where the gas limit is given
    l1: Mapping[UUID, Any]  # what the data costs on the chain below
    prague: Any = None  # of kinds.PRAGUE, where a candidate's kind depends on it


def questions(rows: Sequence[Transaction], address: str, l1_fee_oracle: str = "") -> Questions:
    """Return what to ask: a simulation of each that wants one, and the fee of the chain below where there is one.

    The simulation is eth_estimateGas, or eth_call for one that comes with its gas limit. And, for authorizations, whether
    the chain knows them.
    """
    asked = [row for row in rows if row.simulate]
    below = list(rows) if l1_fee_oracle else []
    calls = [_simulation(row, address) for row in asked] + [
        l1_fees.question(l1_fee_oracle, row) for row in below
    ]
    asks_for_prague = any(row.envelope == Envelope.SET_CODE for row in rows)
    if asks_for_prague:
        calls.append(kinds.PRAGUE)
    return Questions(calls, [row.pk for row in asked], [row.pk for row in below], asks_for_prague)


def _simulation(row: Transaction, address: str) -> Call:
    call: dict[str, Any] = {"from": address, "value": hex(row.value), "data": row.data}
    if row.to:
        call["to"] = row.to
    if row.access_list:
        call["accessList"] = row.access_list
    if row.gas_limit is None:
        return ("eth_estimateGas", [call, "latest"])
    return ("eth_call", [call | {"gas": hex(row.gas_limit)}, "latest"])


def admit(
    candidates: Sequence[Transaction],
    answers: Answers,
    market: Market,
    committed_wei: int,
    gas_in_flight: int,
    rules: Sequence[Rule] = (),
) -> Admission:
    """Return which candidates to sign.

    candidates: in the order in which they get nonces. committed_wei: the most that what is in flight may still cost;
    gas_in_flight: the sum of its gas limits. rules: what operators say that words of nodes mean.
    """
    admission = Admission()
    for place, row in enumerate(candidates):
        gas, why, error = _gas(row, answers.gas, market, rules)
        error = kinds.refusal(row, market, answers.prague) or error
        if error is not None:
            admission.refused[row.pk] = error
            continue
        if why == SubState.ESTIMATE_UNCLEAR:
            unclear = answers.gas[row.pk]
            admission.unclear[row.pk] = str(unclear.message)
            admission.unknown += [unclear] if is_unknown(unclear, rules) else []
            continue
        below = l1_fees.with_margin(answers.l1[row.pk]) if row.pk in answers.l1 else 0
        ready = Ready(row, gas, market.quote(row.speed, row.envelope), below or 0)
        why = why or _obstacle(ready, market, committed_wei, gas_in_flight)
        if below is None:
            why = SubState.NODE_UNAVAILABLE
        if why:
            admission.waiting, admission.why = [later.pk for later in candidates[place:]], why
            break
        admission.ready.append(ready)
        committed_wei += ready.max_cost_wei
        gas_in_flight += gas
    return admission


def _obstacle(ready: Ready, market: Market, committed_wei: int, gas_in_flight: int) -> SubState:
    if ready.fees.max_fee_per_gas_wei < market.base_fee_wei:
        return SubState.FEE_CAPPED
    if ready.transaction.blob_count and ready.fees.max_fee_per_blob_gas_wei < market.blob_base_fee_wei:
        return SubState.FEE_CAPPED
    # A pool checks the balance against the cost of all pooled transactions together.
    if market.balance_wei - committed_wei < ready.max_cost_wei:
        return SubState.INSUFFICIENT_FUNDS
    if gas_in_flight and gas_in_flight + ready.gas_limit > BLOCKS_AHEAD * market.block_gas_limit:
        return SubState.LANE_FULL
    return SubState.NONE


def _gas(
    row: Transaction, answers: Mapping[UUID, Any], market: Market, rules: Sequence[Rule]
) -> tuple[int, SubState, dict[str, str] | None]:
    """Return the gas limit, or why to wait, or the error that ends it."""
    answer = answers.get(row.pk)
    if isinstance(answer, RpcError):
        return 0, *_no_estimate(row, answer, rules)
    if row.gas_limit is not None:
        gas = row.gas_limit
    else:
        try:
            # EthereumJS leaves the access list out of its estimate.
            gas = max(quantity(answer), _least_gas(row))
        except RpcError as error:
            return 0, *_no_estimate(row, error, rules)
        if gas > PLAIN_TRANSFER_GAS:
            gas = min(gas * GAS_MARGIN_PERCENT // 100, max(gas, market.block_gas_limit))
    if gas > market.block_gas_limit:
        message = f"needs {gas} gas, a block has {market.block_gas_limit}"
        return 0, SubState.NONE, {"code": "GAS_LIMIT_EXCEEDS_BLOCK", "message": message}
    return gas, SubState.NONE, None


def _least_gas(row: Transaction) -> int:
    listed = row.access_list or []
    slots = sum(len(entry["storageKeys"]) for entry in listed)
    return least_gas(row.data, creates=not row.to, addresses=len(listed), slots=slots)


def _no_estimate(
    row: Transaction, error: RpcError, rules: Sequence[Rule]
) -> tuple[SubState, dict[str, str] | None]:
    if isinstance(error, CallRevertedError):
        return SubState.NONE, {"code": "TRANSACTION_WOULD_REVERT", "message": reason_of(row, error)}
    meaning = classify(error, rules)
    if meaning is ErrorClass.PERMANENT and isinstance(error, RpcNodeError):
        return SubState.NONE, {"code": "TRANSACTION_WOULD_FAIL", "message": error.message}
    if meaning is ErrorClass.FUNDS:
        return SubState.INSUFFICIENT_FUNDS, None
    if meaning is ErrorClass.AMBIGUOUS and isinstance(error, RpcNodeError):
        return SubState.ESTIMATE_UNCLEAR, None
    return SubState.NODE_UNAVAILABLE, None


def reason_of(row: Transaction, error: CallRevertedError) -> str:
    """Return why the call reverted, with the custom errors that the request knows."""
    if row.error_abi and isinstance(error.data, str):
        return decode_revert(error.data, row.error_abi)
    return error.reason
