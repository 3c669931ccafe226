"""How long the money lasts, whether that is too short, and how much is missing. Pure; amounts are whole wei."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from signer.models import Attempt

HOUR_SECONDS, DAY_SECONDS = 3600, 86_400
# A lane that was low is well again when its money lasts so much longer: else each transaction would tell people anew.
RECOVERY_PERCENT = 150
# So little is not worth the fee of a transfer, unless something waits for it.
WORTHWHILE_PERCENT = 10
BUCKET = timedelta(minutes=10)
# The columns of an attempt that `cost_wei` reads.
PRICED = ("max_fee_per_gas_wei", "gas_limit", "value")


def bucket_of(instant: datetime) -> datetime:
    """Return the beginning of the ten minutes in which the instant lies."""
    return instant.replace(minute=instant.minute // 10 * 10, second=0, microsecond=0)


def cost_wei(receipt: Mapping[str, Any], attempt: Attempt) -> int:
    """Return what a mined attempt took from its sender: the fee, that of the chain below, of blobs, and the value.

    Where the receipt leaves the price out, the most that was offered stands for it.
    """
    price = _quantity(receipt.get("effectiveGasPrice"), attempt.max_fee_per_gas_wei)
    fee = _quantity(receipt.get("gasUsed"), attempt.gas_limit) * price
    fee += _quantity(receipt.get("l1Fee"), 0)  # OP Stack
    fee += _quantity(receipt.get("blobGasUsed"), 0) * _quantity(receipt.get("blobGasPrice"), 0)
    return fee + (int(attempt.value) if receipt.get("status") == "0x1" else 0)


def _quantity(value: Any, default: int) -> int:
    try:
        return int(value, 16)
    except (TypeError, ValueError):
        return int(default)


def lasts_seconds(balance_wei: int, spent_hour_wei: int, spent_day_wei: int) -> int | None:
    """Return how long the balance lasts at the faster of the two recent rates, None when nothing was spent."""
    spent = ((HOUR_SECONDS, spent_hour_wei), (DAY_SECONDS, spent_day_wei))
    return min((balance_wei * seconds // wei for seconds, wei in spent if wei), default=None)


def is_low(
    balance_wei: int,
    low_balance_wei: int | None,
    lasts: int | None,
    *,
    waits: bool,
    was_low: bool,
    low_runway_seconds: float,
) -> bool:
    """Return whether people are to know of it.

    waits: something stands still for want of money: low, whatever the figures say. lasts: as of `lasts_seconds`.
    """
    if waits:
        return True
    if low_balance_wei is not None:
        return balance_wei < low_balance_wei
    limit = low_runway_seconds * (RECOVERY_PERCENT if was_low else 100) / 100
    return lasts is not None and lasts < limit


def missing_wei(balance_wei: int, level_wei: int, *, waits: bool) -> int:
    """Return how much fills the lane up to its level; 0 when that is not worth a transfer."""
    missing = max(0, level_wei - balance_wei)
    return missing if waits or missing * 100 >= level_wei * WORTHWHILE_PERCENT else 0
