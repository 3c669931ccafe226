"""What a transaction offers for gas: the first quote, and what a node must accept in its place.

Pure arithmetic in wei per gas; no float. Where a transaction names one gas price, both fields hold it. The fee for blobs
(EIP-4844) is part of every quote and of no offer but a blob transaction's; 0 means that there are no blobs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any, Literal

Speed = Literal["economy", "standard", "fast"]

# The percentiles of tips asked of eth_feeHistory, one per speed.
PERCENTILES: dict[Speed, int] = {"economy": 10, "standard": 50, "fast": 90}
HISTORY_BLOCKS = 10
# What is offered where recent blocks hold no transaction to learn from.
DEFAULT_TIP_WEI = 1_000_000_000
# The blob market counts as no less: its least price is 1 wei, and doubling from there would soon be above the ceiling.
DEFAULT_BLOB_FEE_WEI = 1_000_000_000
GAS_PER_BLOB = 131_072  # EIP-4844
# A single gas price is paid whole, so it has room for two full blocks only (1.125^2 = 1.27); then it is replaced.
GAS_PRICE_PERCENT = 127


@dataclass(frozen=True, slots=True)
class Fees:
    """The most a transaction pays per gas, how much of that goes to the block's proposer, and the most per blob gas."""

    max_fee_per_gas_wei: int
    max_priority_fee_per_gas_wei: int
    max_fee_per_blob_gas_wei: int = 0

    def covers(self, other: "Fees") -> bool:
        return (
            self.max_fee_per_gas_wei >= other.max_fee_per_gas_wei
            and self.max_priority_fee_per_gas_wei >= other.max_priority_fee_per_gas_wei
            and self.max_fee_per_blob_gas_wei >= other.max_fee_per_blob_gas_wei
        )


def quote(history: dict[str, Any], speed: Speed) -> Fees:
    """Return the fees to offer now.

    history: the result of eth_feeHistory over `HISTORY_BLOCKS` with `PERCENTILES`, hex text as the node sends it.
    The cap of twice the next base fee plus the tip survives five full blocks in a row (1.125^5 = 1.80).
    """
    base_fee = next_base_fee(history)
    column = list(PERCENTILES).index(speed)
    tips = [int(block[column], 16) for block in history.get("reward") or [] if len(block) > column]
    tips = [tip for tip in tips if tip > 0]  # an empty block reports 0 and says nothing
    tip = median_low(tips) if tips else DEFAULT_TIP_WEI
    return Fees(2 * base_fee + tip, tip, 2 * next_blob_base_fee(history))


@dataclass(frozen=True, slots=True)
class Prices:
    """What a node says that gas costs now."""

    quotes: Mapping[str, Fees]  # by speed
    base_fee_wei: int
    blob_base_fee_wei: int  # 0: it names none


def prices(history: dict[str, Any]) -> Prices:
    """Return the prices that a fee history leads to; history: as of `quote`."""
    quotes: dict[str, Fees] = {speed: quote(history, speed) for speed in PERCENTILES}
    return Prices(quotes, next_base_fee(history), next_blob_base_fee(history))


def prices_of_gas_price(gas_price: int) -> Prices:
    """Return the prices on a chain without a base fee; gas_price: as of `legacy_quote`."""
    return Prices({speed: legacy_quote(gas_price, speed) for speed in PERCENTILES}, 0, 0)


def median(given: Sequence[Prices]) -> Prices:
    """Return what most nodes say, number by number; where two differ, the lower: what is too low can be raised.

    Of blobs only those count that name a price.
    """
    return Prices(
        {speed: _median_fees([each.quotes[speed] for each in given]) for speed in given[0].quotes},
        median_low(each.base_fee_wei for each in given),
        _median_named([each.blob_base_fee_wei for each in given]),
    )


def _median_fees(given: Sequence[Fees]) -> Fees:
    return Fees(
        median_low(each.max_fee_per_gas_wei for each in given),
        median_low(each.max_priority_fee_per_gas_wei for each in given),
        _median_named([each.max_fee_per_blob_gas_wei for each in given]),
    )


def _median_named(given: Sequence[int]) -> int:
    return median_low([each for each in given if each] or [0])


def legacy_quote(gas_price: int, speed: Speed) -> Fees:
    """Return the gas price to offer on a chain without a base fee; gas_price: the node's suggestion."""
    percent = {"economy": 100, "standard": 110, "fast": 125}[speed]
    price = max(1, -(-gas_price * percent // 100))
    return Fees(price, price)


def next_base_fee(history: dict[str, Any]) -> int:
    return _wei(history["baseFeePerGas"][-1])


def next_blob_base_fee(history: dict[str, Any]) -> int:
    """Return the price of blob gas in the next block; 0 on a chain without blobs."""
    blob_fees = history.get("baseFeePerBlobGas") or ["0x0"]
    return _wei(blob_fees[-1])


def _wei(text: str) -> int:
    if (wei := int(text, 16)) < 0:
        raise ValueError(f"{text} is no price")
    return wei


def single_price(market: Fees, base_fee_wei: int) -> Fees:
    """Return the offer for a transaction with one gas price on a chain with a base fee.

    All of a gas price is paid, also what is above the base fee: the cap of an EIP-1559 transaction would be twice
    what the market asks.
    """
    price = -(-base_fee_wei * GAS_PRICE_PERCENT // 100) + market.max_priority_fee_per_gas_wei
    price = min(price, market.max_fee_per_gas_wei)
    return Fees(price, price)


def without_blobs(fees: Fees) -> Fees:
    """Return the offer of a transaction that carries no blobs."""
    return Fees(fees.max_fee_per_gas_wei, fees.max_priority_fee_per_gas_wei)


def ceiling(market: Fees, absolute_wei: int, percent: int) -> Fees:
    """Return the most that may be offered: so many percent of the market, and never more than the chain's absolute cap.

    The tip has no limit of its own, and the market counts as no less than the default tip: what was offered before
    there was a market to learn from may be far above it, and must be replaceable.
    """
    market_wei = max(market.max_fee_per_gas_wei, DEFAULT_TIP_WEI)
    limit = min(absolute_wei, market_wei * percent // 100)
    blob_market_wei = max(market.max_fee_per_blob_gas_wei, DEFAULT_BLOB_FEE_WEI)
    return Fees(limit, limit, min(absolute_wei, blob_market_wei * percent // 100))


def within(fees: Fees, limit_wei: int) -> Fees:
    """Return `fees` cut down to the absolute cap."""
    return Fees(
        min(fees.max_fee_per_gas_wei, limit_wei),
        min(fees.max_priority_fee_per_gas_wei, limit_wei),
        min(fees.max_fee_per_blob_gas_wei, limit_wei),
    )


def highest(offers: Sequence[Fees]) -> Fees:
    """Return the highest of each field: a pool may hold any of the attempts, and each must be outbid."""
    return Fees(
        max(offer.max_fee_per_gas_wei for offer in offers),
        max(offer.max_priority_fee_per_gas_wei for offer in offers),
        max(offer.max_fee_per_blob_gas_wei for offer in offers),
    )


def raised(wei: int) -> int:
    """Return at least 12.5 % more, rounded up and strictly greater."""
    return max(-(-wei * 9 // 8), wei + 1)


def doubled(wei: int) -> int:
    """Return twice as much, and strictly more."""
    return max(2 * wei, wei + 1)


def least_replacement(best: Fees) -> Fees:
    """Return the least that a node must accept in place of `best`; see `replacement_fees`."""
    if best.max_fee_per_blob_gas_wei:
        return Fees(
            doubled(best.max_fee_per_gas_wei),
            doubled(best.max_priority_fee_per_gas_wei),
            doubled(best.max_fee_per_blob_gas_wei),
        )
    return Fees(raised(best.max_fee_per_gas_wei), raised(best.max_priority_fee_per_gas_wei))


def replacement_fees(best: Fees, market: Fees, limit: Fees) -> Fees | None:
    """Return fees that a node must accept in place of `best`, or None when the ceiling forbids it.

    best, market, limit: wei per gas. `best` is the highest-priced attempt so far, not the latest estimate.
    The result exceeds `best` by at least 12.5 % on tip and cap, rounded up; geth refuses less than 10 % on either.
    Where `best` has a fee for blobs, all three are at least doubled, for blob pools ask for 100 % more on each.
    Sources: go-ethereum core/txpool/legacypool and core/txpool/blobpool, PriceBump.
    """
    floor = least_replacement(best)
    if not limit.covers(floor):
        return None
    max_fee = max(floor.max_fee_per_gas_wei, min(market.max_fee_per_gas_wei, limit.max_fee_per_gas_wei))
    tip = max(
        floor.max_priority_fee_per_gas_wei,
        min(market.max_priority_fee_per_gas_wei, limit.max_priority_fee_per_gas_wei),
    )
    blob_fee = max(
        floor.max_fee_per_blob_gas_wei,
        min(market.max_fee_per_blob_gas_wei, limit.max_fee_per_blob_gas_wei),
    )
    return Fees(
        # A tip above the cap is refused by every node; the floor's tip never is, being raised from a valid pair.
        max(max_fee, floor.max_priority_fee_per_gas_wei),
        min(tip, max_fee),
        blob_fee if best.max_fee_per_blob_gas_wei else 0,
    )
