"""The arithmetic of fees: what a node must accept, and never more than the ceiling."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from signer.fees import (
    DEFAULT_TIP_WEI,
    Fees,
    Prices,
    ceiling,
    highest,
    legacy_quote,
    median,
    next_blob_base_fee,
    quote,
    raised,
    replacement_fees,
    single_price,
    within,
    without_blobs,
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
    market = Fees(100 * gwei, 10, 20 * gwei)
    assert ceiling(market, 1000 * gwei, 500) == Fees(500 * gwei, 500 * gwei, 100 * gwei)
    assert ceiling(market, 90 * gwei, 500) == Fees(90 * gwei, 90 * gwei, 90 * gwei)
    assert within(Fees(100, 50, 70), 30) == Fees(30, 30, 30)


# --- Blobs ------------------------------------------------------------------------------------------------


@st.composite
def blob_fees(draw: st.DrawFn) -> Fees:
    plain = draw(fees())
    return Fees(plain.max_fee_per_gas_wei, plain.max_priority_fee_per_gas_wei, draw(wei) + 1)


def blob_pool_accepts(old: Fees, new: Fees) -> bool:
    """go-ethereum core/txpool/blobpool/blobpool.go, validateTx: at least 100 % more on each of the three."""
    return (
        new.max_fee_per_gas_wei >= 2 * old.max_fee_per_gas_wei
        and new.max_priority_fee_per_gas_wei >= 2 * old.max_priority_fee_per_gas_wei
        and new.max_fee_per_blob_gas_wei >= 2 * old.max_fee_per_blob_gas_wei
        and geth_accepts(old, new)
    )


@pytest.mark.case("S59", "S54")
@given(blob_fees(), blob_fees())
@example(Fees(1, 1, 1), Fees(0, 0, 0))
@example(Fees(0, 0, 1), Fees(0, 0, 0))
@example(Fees(2**64, 7, 1), Fees(1, 1, 2**64))
def test_replacement_of_a_blob_transaction_doubles_all_three(best: Fees, market: Fees) -> None:
    new = replacement_fees(best, market, Fees(2**200, 2**200, 2**200))
    assert new is not None
    assert blob_pool_accepts(best, new)
    assert new.max_priority_fee_per_gas_wei <= new.max_fee_per_gas_wei
    assert new.covers(Fees(market.max_fee_per_gas_wei, 0, market.max_fee_per_blob_gas_wei))


@pytest.mark.case("S59")
@given(blob_fees(), blob_fees(), blob_fees())
def test_replacement_of_a_blob_transaction_stays_under_the_ceiling_or_is_none(
    best: Fees, market: Fees, limit: Fees
) -> None:
    new = replacement_fees(best, market, limit)
    assert new is None or (limit.covers(new) and blob_pool_accepts(best, new))


@pytest.mark.case("S59")
@given(st.lists(blob_fees(), min_size=1, max_size=6))
def test_long_chain_of_blob_replacements_outbids_every_one_before(markets: list[Fees]) -> None:
    offers = [Fees(1, 1, 1)]
    for market in markets:
        new = replacement_fees(highest(offers), market, Fees(2**200, 2**200, 2**200))
        assert new is not None
        assert all(blob_pool_accepts(offer, new) for offer in offers)
        offers.append(new)


@given(fees(), blob_fees())
def test_what_carries_no_blobs_never_offers_for_them(best: Fees, market: Fees) -> None:
    new = replacement_fees(best, market, Fees(2**200, 2**200, 2**200))
    assert new is not None
    assert new.max_fee_per_blob_gas_wei == 0


def test_quote_offers_twice_the_next_blocks_price_of_blob_gas() -> None:
    history = {"baseFeePerGas": ["0x64"], "reward": [], "baseFeePerBlobGas": ["0x1", "0x7"]}
    assert quote(history, "standard").max_fee_per_blob_gas_wei == 14
    assert next_blob_base_fee(history) == 7
    for none in ({}, {"baseFeePerBlobGas": None}, {"baseFeePerBlobGas": []}):
        assert next_blob_base_fee(none) == 0


def test_quiet_blob_market_leaves_room_for_a_replacement() -> None:
    first = quote({"baseFeePerGas": ["0x7"], "reward": [], "baseFeePerBlobGas": ["0x1"]}, "standard")
    assert replacement_fees(first, first, ceiling(first, 500 * 10**9, 500)) is not None


# --- One gas price ----------------------------------------------------------------------------------------


@given(fees(), wei)
def test_single_price_is_not_above_the_cap_and_has_room_for_two_full_blocks(market: Fees, base: int) -> None:
    offer = single_price(market, base)
    assert offer.max_fee_per_gas_wei == offer.max_priority_fee_per_gas_wei <= market.max_fee_per_gas_wei
    room = base * 9 * 9 // 64 + market.max_priority_fee_per_gas_wei
    assert offer.max_fee_per_gas_wei >= min(room, market.max_fee_per_gas_wei)


def test_blob_fee_is_left_out_of_an_offer_without_blobs() -> None:
    assert without_blobs(Fees(3, 2, 1)) == Fees(3, 2)


def priced(fees: Fees) -> Prices:
    return Prices(
        {"standard": fees},
        fees.max_fee_per_gas_wei - fees.max_priority_fee_per_gas_wei,
        fees.max_fee_per_blob_gas_wei,
    )


@given(st.lists(fees(), min_size=2, max_size=2), fees())
def test_one_of_three_nodes_moves_the_price_no_further_than_the_others_are_apart(
    honest: list[Fees], lie: Fees
) -> None:
    said = median([priced(lie), *map(priced, honest)]).quotes["standard"]
    for name in ("max_fee_per_gas_wei", "max_priority_fee_per_gas_wei"):
        low, high = sorted(getattr(each, name) for each in honest)
        assert low <= getattr(said, name) <= high
    assert said.max_priority_fee_per_gas_wei <= said.max_fee_per_gas_wei


@given(fees(), fees())
def test_of_two_nodes_the_one_that_asks_less_counts(one: Fees, other: Fees) -> None:
    said = median([priced(one), priced(other)])
    assert said.quotes["standard"].max_fee_per_gas_wei == min(
        one.max_fee_per_gas_wei, other.max_fee_per_gas_wei
    )
    assert one.covers(said.quotes["standard"])
    assert other.covers(said.quotes["standard"])


def test_node_that_names_no_price_for_blobs_has_no_say_in_it() -> None:
    said = median([priced(Fees(3, 1, 0)), priced(Fees(3, 1, 7))])
    assert (said.blob_base_fee_wei, said.quotes["standard"]) == (7, Fees(3, 1, 7))
