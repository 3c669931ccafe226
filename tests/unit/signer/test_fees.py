"""The arithmetic of fees: what a node must accept, and never more than the ceiling."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from signer.fees import (
    DEFAULT_TIP_WEI,
    Fees,
    ceiling,
    highest,
    legacy_quote,
    quote,
    raised,
    replacement_fees,
    within,
)

wei = st.integers(min_value=0, max_value=2**128)
NO_LIMIT = Fees(2**200, 2**200)


@st.composite
def fees(draw: st.DrawFn) -> Fees:
    tip = draw(wei)
    return Fees(tip + draw(wei), tip)


def geth_accepts(old: Fees, new: Fees) -> bool:
    """go-ethereum core/txpool/legacypool/list.go, Add: strictly higher, and at least old * 110 / 100, on both."""

    def enough(before: int, after: int) -> bool:
        return after > before and after >= before * 110 // 100

    return enough(old.max_fee_per_gas_wei, new.max_fee_per_gas_wei) and enough(
        old.max_priority_fee_per_gas_wei, new.max_priority_fee_per_gas_wei
    )


@pytest.mark.case("S54")
@given(fees(), fees())
@example(Fees(1, 1), Fees(0, 0))
@example(Fees(7, 7), Fees(7, 7))
@example(Fees(2**64, 1), Fees(1, 1))
@example(Fees(0, 0), Fees(0, 0))
def test_replacement_is_always_one_that_geth_accepts(best: Fees, market: Fees) -> None:
    new = replacement_fees(best, market, NO_LIMIT)
    assert new is not None
    assert geth_accepts(best, new)
    assert new.max_priority_fee_per_gas_wei <= new.max_fee_per_gas_wei
    assert new.max_fee_per_gas_wei >= market.max_fee_per_gas_wei


@pytest.mark.case("S54")
@given(wei)
def test_raised_is_an_eighth_more_rounded_up_and_strictly_more(old: int) -> None:
    assert raised(old) > old
    assert raised(old) * 8 >= old * 9
    assert raised(old) * 8 < old * 9 + 16


@given(fees(), fees(), fees())
def test_replacement_stays_under_the_ceiling_or_is_none(best: Fees, market: Fees, limit: Fees) -> None:
    new = replacement_fees(best, market, limit)
    if new is None:
        floor = Fees(raised(best.max_fee_per_gas_wei), raised(best.max_priority_fee_per_gas_wei))
        assert not limit.covers(floor)
    else:
        assert limit.covers(new)
        assert geth_accepts(best, new)


@given(wei.filter(bool), wei)
def test_gas_price_is_replaced_by_a_gas_price(old: int, market: int) -> None:
    new = replacement_fees(Fees(old, old), Fees(market, market), NO_LIMIT)
    assert new is not None
    assert new.max_fee_per_gas_wei == new.max_priority_fee_per_gas_wei


@given(st.lists(fees(), min_size=1, max_size=8))
def test_long_chain_of_replacements_outbids_every_one_before(markets: list[Fees]) -> None:
    offers = [Fees(1, 1)]
    for market in markets:
        new = replacement_fees(highest(offers), market, NO_LIMIT)
        assert new is not None
        assert all(geth_accepts(offer, new) for offer in offers)
        offers.append(new)


def test_quote_takes_the_median_tip_of_the_speed_and_room_for_five_full_blocks() -> None:
    history = {
        "baseFeePerGas": ["0x64", "0x64", "0x64", "0x64"],
        "reward": [["0x1", "0x5", "0x9"], ["0x0", "0x0", "0x0"], ["0x3", "0x7", "0xb"]],
    }
    assert quote(history, "economy") == Fees(201, 1)
    assert quote(history, "standard") == Fees(205, 5)
    assert quote(history, "fast") == Fees(209, 9)


@pytest.mark.parametrize("reward", [None, [], [["0x0", "0x0", "0x0"]], [[]]])
def test_quote_without_anything_to_learn_from_offers_the_default_tip(reward: object) -> None:
    history = {"baseFeePerGas": ["0x64"], "reward": reward}
    assert quote(history, "standard") == Fees(200 + DEFAULT_TIP_WEI, DEFAULT_TIP_WEI)


def test_legacy_quote_is_one_price() -> None:
    assert legacy_quote(1001, "standard") == Fees(1102, 1102)
    assert legacy_quote(0, "standard") == Fees(1, 1)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_first_offer_at_the_default_tip_can_be_replaced_on_a_quiet_chain(base: int, tip: int) -> None:
    first = quote({"baseFeePerGas": [hex(base)], "reward": []}, "standard")
    market = Fees(2 * base + tip, tip)
    assert replacement_fees(first, market, ceiling(market, 500 * 10**9, 500)) is not None


def test_ceiling_is_five_times_the_market_and_never_above_the_cap() -> None:
    gwei = 10**9
    assert ceiling(Fees(100 * gwei, 10), 1000 * gwei, 500) == Fees(500 * gwei, 500 * gwei)
    assert ceiling(Fees(100 * gwei, 10), 300 * gwei, 500) == Fees(300 * gwei, 300 * gwei)
    assert within(Fees(100, 50), 30) == Fees(30, 30)
