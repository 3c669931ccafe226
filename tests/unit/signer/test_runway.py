"""How long the money lasts, and how much is missing."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signer.runway import cost_wei, is_low, lasts_seconds, missing_wei

ETHER = 10**18
wei = st.integers(min_value=0, max_value=2**256 - 1)


def attempt(**fields: Any) -> Any:
    return SimpleNamespace(**{"max_fee_per_gas_wei": 100, "gas_limit": 30_000, "value": 7, **fields})


@pytest.mark.parametrize(
    ("receipt", "cost"),
    [
        ({"status": "0x1", "gasUsed": "0x5208", "effectiveGasPrice": "0x2"}, 42_007),
        ({"status": "0x0", "gasUsed": "0x5208", "effectiveGasPrice": "0x2"}, 42_000),  # the value stayed
        ({"status": "0x1", "gasUsed": "0x5208"}, 2_100_007),  # the most that was offered
        ({"status": "0x1", "gasUsed": "0x1", "effectiveGasPrice": "0x1", "l1Fee": "0x64"}, 108),
        (
            {"status": "0x1", "gasUsed": "0x1", "effectiveGasPrice": "0x1", "blobGasUsed": "0x2", "blobGasPrice": "0x3"},
            14,
        ),
        ({"status": "0x1", "gasUsed": "0x1", "effectiveGasPrice": None}, 107),
    ],
)  # fmt: skip
def test_cost_of_a_mined_attempt(receipt: dict[str, Any], cost: int) -> None:
    assert cost_wei(receipt, attempt()) == cost


def test_what_spends_nothing_lasts_for_ever() -> None:
    assert lasts_seconds(ETHER, 0, 0) is None


def test_the_faster_rate_counts() -> None:
    assert lasts_seconds(10, 5, 5) == 7200
    assert lasts_seconds(10, 0, 240) == 3600


@given(wei, wei, wei)
def test_runway_is_whole_and_never_too_long(balance: int, hour: int, day: int) -> None:
    lasts = lasts_seconds(balance, hour, day)
    if lasts is not None:
        assert 0 <= lasts * hour <= balance * 3600
        assert 0 <= lasts * day <= balance * 86_400


def low(balance: int, threshold: int | None, lasts: int | None, **flags: bool) -> bool:
    flags = {"waits": False, "was_low": False, **flags}
    return is_low(balance, threshold, lasts, low_runway_seconds=100, **flags)


def test_a_persons_threshold_decides_alone() -> None:
    assert low(9, 10, None)
    assert not low(10, 10, 1)


def test_without_one_the_runway_decides() -> None:
    assert low(1, None, 99)
    assert not low(1, None, 100)
    assert not low(0, None, None)


def test_what_waits_for_money_is_low_whatever_the_figures_say() -> None:
    assert low(ETHER, 1, None, waits=True)


def test_a_low_lane_has_to_recover_before_it_is_well() -> None:
    assert low(1, None, 149, was_low=True)
    assert not low(1, None, 150, was_low=True)


def test_only_what_is_worth_a_transfer_is_missing() -> None:
    assert missing_wei(40, 100, waits=False) == 60
    assert missing_wei(91, 100, waits=False) == 0
    assert missing_wei(91, 100, waits=True) == 9
    assert missing_wei(500, 100, waits=True) == 0
