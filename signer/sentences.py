"""Rows as sentences: why a transaction is where it is, how long something took, amounts that a person reads."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from django.utils import timezone
from django.utils.timesince import timesince
from eth_utils.currency import from_wei

from signer.models import Endpoint, Transaction
from signer.states import FINAL, WAITING, LaneState, PauseKind, SubState, TransactionState

# What a reason for waiting leaves out, as far as our own rows know it.
DETAILS = {
    SubState.LANE_BLOCKED: "waits for a person, the lane is blocked: {lane.state_reason}",
    SubState.INSUFFICIENT_FUNDS: "waits for funds: the sender cannot pay {cost}",
    SubState.NODE_UNAVAILABLE: "waits for a node of {chain}: none answers, or it turns us away",
    SubState.AUTHORIZING: "waits for an authorisation (EIP-7702): one of this address is under way, or its authority is busy",
    SubState.SIGNER_UNAVAILABLE: "waits for keyguard: the sender's key cannot sign at the moment",
    SubState.FEE_CAPPED: "waits for the market: its fee is above the ceiling of {ceiling} gwei per gas",
    SubState.WITH_CUSTODY: "the custody of {lane.address} works on it, and gives its nonce",
    SubState.AWAITING_APPROVAL: "waits for the custody's own people, who must approve it there",
    SubState.CUSTODY_ALTERED: "waits for a person: the custody sent something else than it was asked; see the incident",
    SubState.NONCE_FOREIGN: "waits for a person: a transaction that is not ours used nonce {row.nonce}",
}


def why(row: Transaction) -> str:
    """Return what a transaction waits for, or how it ended, from its row, lane and chain alone."""
    if row.state in FINAL:
        where = "without a nonce" if row.block_number is None else f"in block {row.block_number}"
        code = (row.error or {}).get("code", "")
        verb = "executed" if row.state == TransactionState.COMPLETED else "ended"
        return f"{verb} {where}" + (f": {code}" if code else "")
    reason = SubState(row.sub_state)
    if row.state in WAITING and row.state != TransactionState.SIGNING and row.lane.state == LaneState.BLOCKED:
        reason = SubState.LANE_BLOCKED
    if reason not in DETAILS:
        return str(reason.label) if reason else _progress(row)
    cost = f"{ether(row.value)} and the fee" if row.value else "the fee"
    ceiling = gwei(row.chain.max_fee_per_gas_wei)
    return DETAILS[reason].format(row=row, lane=row.lane, chain=row.chain, cost=cost, ceiling=ceiling)


def _progress(row: Transaction) -> str:
    if row.state == TransactionState.CONFIRMING and row.block_number is not None:
        depth = max(1, (row.chain.head_number or row.block_number) - row.block_number + 1)
        return f"waits for confirmations: {depth} of {row.chain.confirmations}, in block {row.block_number}"
    if row.state == TransactionState.BROADCASTING:
        if row.lane.in_custody:
            return f"sent by the custody with nonce {row.nonce}, waits for a block"
        sent = row.broadcast_at
        return (
            f"waits for a block since {sent:%H:%M:%S} UTC" if sent else "signed and committed, to be sent now"
        )
    return {
        TransactionState.QUEUED: "waits for its turn in the lane",
        TransactionState.PREPARING: "a worker asks the chain for gas and fees",
        TransactionState.SIGNING: "the custody of its key has it",
        TransactionState.PENDING_APPROVAL: "waits for a person's approval",
    }.get(TransactionState(row.state), "waits for a worker to take it")


def why_unused(endpoint: Endpoint, now: datetime) -> str:
    """Return why an endpoint is not asked at the moment, "" when it is."""
    if endpoint.paused_until is not None:
        until = (
            "until it is asked again"
            if endpoint.paused_until <= now
            else f"until {endpoint.paused_until:%H:%M:%S} UTC"
        )
        return f"not used {until}: {PauseKind(endpoint.pause_kind).label} ({endpoint.pause_reason})"
    return "not asked while a better one exists: its head lags behind" if endpoint.is_behind else ""


def ether(wei: int) -> str:
    return f"{in_ether(wei)} ether"


def in_ether(wei: int) -> str:
    return f"{Decimal(from_wei(int(wei), 'ether')):f}"  # of nothing from_wei makes an int


def gwei(wei: int) -> str:
    return f"{Decimal(from_wei(int(wei), 'gwei')):f}"


def ago(instant: Any) -> str:
    """Return how long ago it was; seconds matter where blocks take seconds."""
    seconds = (timezone.now() - instant).total_seconds()
    return f"{max(0, seconds):.0f} s" if seconds < 120 else timesince(instant)
