"""Which of the waiting transactions get a nonce now, decided from numbers alone.

First come, first served: the first one that must wait makes all behind it wait, so nonces keep the order of
submission. One that can never be executed leaves without using a nonce. One whose gas the node cannot estimate, in
words that are not understood, waits alone: the fault may be its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from signer.errors import CallRevertedError, RpcError, RpcNodeError
from signer.fees import GAS_PER_BLOB, Fees
from signer.market import Market
from signer.models import Transaction
from signer.rpc import quantity
from signer.rpc_errors import ErrorClass, classify
from signer.states import SubState

GAS_MARGIN_PERCENT = 120
PLAIN_TRANSFER_GAS = 21_000
# Nodes drop what queues far beyond a block, so no more gas than this share of one is in flight per lane.
BLOCK_SHARE_PERCENT = 90


@dataclass(frozen=True)
class Ready:
    """A transaction that can be signed: with how much gas, at which fees."""

    transaction: Transaction
    gas_limit: int
    fees: Fees

    @property
    def max_cost_wei(self) -> int:
        blob_gas = self.transaction.blob_count * GAS_PER_BLOB
        blob_cost = blob_gas * self.fees.max_fee_per_blob_gas_wei
        return self.gas_limit * self.fees.max_fee_per_gas_wei + blob_cost + self.transaction.value


@dataclass
class Admission:
    """What becomes of each candidate."""

    ready: list[Ready] = field(default_factory=list)
    refused: dict[UUID, dict[str, str]] = field(
        default_factory=dict
    )  # the error of those that can never be executed
    unclear: dict[UUID, str] = field(default_factory=dict)  # the node's words about those that wait alone
    waiting: list[UUID] = field(default_factory=list)
    why: SubState = SubState.NONE  # of those that wait


def estimate_call(row: Transaction, address: str) -> tuple[str, list[Any]]:
    """Return the call that asks how much gas the transaction takes."""
    call: dict[str, Any] = {"from": address, "value": hex(row.value), "data": row.data}
    if row.to:
        call["to"] = row.to
    if row.access_list:
        call["accessList"] = row.access_list
    return ("eth_estimateGas", [call, "latest"])


def admit(
    candidates: Sequence[Transaction],
    estimates: dict[UUID, Any],
    market: Market,
    committed_wei: int,
    gas_in_flight: int,
) -> Admission:
    """Return which candidates to sign.

    candidates: in order of submission. estimates: eth_estimateGas result or RpcError of those that give no gas limit.
    committed_wei: the most that what is in flight may still cost; gas_in_flight: the sum of its gas limits.
    """
    admission = Admission()
    for place, row in enumerate(candidates):
        gas, why, error = _gas(row, estimates, market)
        if error is not None:
            admission.refused[row.pk] = error
            continue
        if why == SubState.ESTIMATE_UNCLEAR:
            admission.unclear[row.pk] = str(estimates[row.pk].message)
            continue
        ready = Ready(row, gas, market.quote(row.speed, row.envelope))
        why = why or _obstacle(ready, market, committed_wei, gas_in_flight)
        if why:
            admission.waiting, admission.why = [row.pk for row in candidates[place:]], why
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
    if (
        gas_in_flight
        and gas_in_flight + ready.gas_limit > market.block_gas_limit * BLOCK_SHARE_PERCENT // 100
    ):
        return SubState.LANE_FULL
    return SubState.NONE


def _gas(
    row: Transaction, estimates: dict[UUID, Any], market: Market
) -> tuple[int, SubState, dict[str, str] | None]:
    """Return the gas limit, or why to wait, or the error that ends it."""
    if row.gas_limit is not None:
        gas = row.gas_limit
    else:
        estimate = estimates[row.pk]
        if isinstance(estimate, RpcError):
            return 0, *_no_estimate(estimate)
        try:
            gas = quantity(estimate)
        except RpcError as error:
            return 0, *_no_estimate(error)
        if gas > PLAIN_TRANSFER_GAS:
            gas = min(gas * GAS_MARGIN_PERCENT // 100, max(gas, market.block_gas_limit))
    if gas > market.block_gas_limit:
        message = f"needs {gas} gas, a block has {market.block_gas_limit}"
        return 0, SubState.NONE, {"code": "GAS_LIMIT_EXCEEDS_BLOCK", "message": message}
    return gas, SubState.NONE, None


def _no_estimate(error: RpcError) -> tuple[SubState, dict[str, str] | None]:
    if isinstance(error, CallRevertedError):
        return SubState.NONE, {"code": "TRANSACTION_WOULD_REVERT", "message": error.reason}
    meaning = classify(error)
    if meaning is ErrorClass.PERMANENT and isinstance(error, RpcNodeError):
        return SubState.NONE, {"code": "TRANSACTION_WOULD_FAIL", "message": error.message}
    if meaning is ErrorClass.FUNDS:
        return SubState.INSUFFICIENT_FUNDS, None
    if meaning is ErrorClass.AMBIGUOUS and isinstance(error, RpcNodeError):
        return SubState.ESTIMATE_UNCLEAR, None
    return SubState.NODE_UNAVAILABLE, None
